"""The report: what was measured, against which bar, in Markdown."""

from typing import Any

UNITS = {
    "output_per_s": "output tok/s",
    "decode_per_s": "decode tok/s",
    "ttft_p50_s": "TTFT p50, ms",
    "itl_p50_s": "ITL p50, ms",
    "itl_p99_s": "ITL p99, ms",
}


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    cells = list(results["cells"].values())
    parts = [
        "# Weft beside its peers",
        "",
        *machine(results),
        "",
        "![the figures, with the machine's limits](report.png)",
        "",
        "## Bars",
        "",
        *bars(cells),
        "",
        "## Cells",
        "",
    ]
    for cell in cells:
        parts += [*section(cell), ""]
    return "\n".join([*parts, *notes()]) + "\n"


def machine(results: dict[str, Any]) -> list[str]:
    """What it was measured on."""
    where = results["machine"]
    turns = results["turns"]
    return [
        f"{where['cores']} cores of {where['cpu']} ({', '.join(where['features'])}; L3 {where['l3']}), "
        f"{where['memory_gib']} GiB, Linux {where['kernel']}; load before: {where['load_before']}. "
        f"Model: {where['model']}. {'Medians of' if turns > 1 else 'QUICK, not to be quoted:'} {turns} turn(s), "
        "the contenders alternating; greedy, end tokens ignored; 128 tokens in and 128 out where nothing else is said.",
        "",
        "| who | version |",
        "|---|---|",
        *[f"| {who} | {version} |" for who, version in where["versions"].items()],
    ]


def bars(cells: list[dict[str, Any]]) -> list[str]:
    """Every bar in one table."""
    rows = [row(cell, check) for cell in cells for check in cell["checks"]]
    return ["| cell | what | value | bar | met |", "|---|---|---:|---:|---|", *rows]


def row(cell: dict[str, Any], check: dict[str, Any]) -> str:
    """One bar."""
    sign = "≥" if check["at_least"] else "≤"
    value = "not measured" if check["value"] is None else f"**{check['value']:.3g}**"
    met = {True: "yes", False: "**no**", None: f"? {check['why']}".strip()}[check["met"]]
    return f"| {cell['title']} | {check['what']} | {value} | {sign} {check['bar']:g} | {escape(met)} |"


def section(cell: dict[str, Any]) -> list[str]:
    """One cell."""
    lines = [f"### {cell['title']}", "", f"Load before: {cell.get('load_before')}; {cell.get('at', '')}.", ""]
    if cell["contenders"]:
        lines += table(cell["contenders"])
    lines += [f"- {label}: not measured: {escape(why)}" for label, why in cell["missing"].items()]
    lines += [f"- {name}: {plain(value)}" for name, value in cell["figures"].items() if name != "runs"]
    return lines + [f"- {note}" for note in cell["notes"]]


def table(contenders: dict[str, Any]) -> list[str]:
    """Medians of each contender."""
    known = [key for key in UNITS if any(key in one["median"] for one in contenders.values())]
    lines = [f"| who | {' | '.join(UNITS[key] for key in known)} |", f"|---|{'---:|' * len(known)}"]
    for label, one in contenders.items():
        lines.append(f"| {label} | {' | '.join(shown(key, one['median'].get(key)) for key in known)} |")
    return [*lines, ""]


def shown(key: str, value: float | None) -> str:
    """A figure in its unit."""
    if value is None:
        return "-"
    return f"{value:.1f}" if key.endswith("_per_s") else f"{value * 1e3:.1f}"


def plain(value: object) -> str:
    """A figure or a few of them, in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def escape(text: str) -> str:
    """Keeps a text within its cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def notes() -> list[str]:
    """What a reader should know before he quotes a figure."""
    return [
        "## How to read this",
        "",
        "- In process means that no wire is measured for anyone: Weft's engine by `engine_bench`, OpenVINO GenAI, vLLM"
        " and transformers in their own Python process, llama.cpp by its `llama-batched-bench`. Who waits for his turn"
        " is stopped by signal.",
        "- llama-batched-bench makes its own random ids of the same lengths, and computes one step more than the others"
        " (128 after the prompt instead of 127). Everybody else gets the same lists of ids.",
        "- Decode tokens/s: tokens of a stream after its first, over the time from its first to its last. Output"
        " tokens/s: all tokens over the time from the first request to the last token, prompts included.",
        "- OpenVINO: fp16 export with INFERENCE_PRECISION_HINT bf16, int8 and int4 exports by optimum's defaults;"
        " its KV cache is u8 by its own default, Weft's and llama.cpp's are 16-bit.",
        "- Two threads each. Steps of at most 512 tokens for Weft, OpenVINO and llama.cpp (-ub 512).",
        "- The machine's limits in the picture: the read bandwidth of all cores (the fastest pass of some"
        " milliseconds; for a second on end it may be less), measured in the same run, over the"
        " bytes of the weights in each format (bf16: two bytes each; int8 and int4 by their nominal size, scales not"
        " counted); the peak of bf16 products on operands in registers over two operations for each weight and token.",
    ]
