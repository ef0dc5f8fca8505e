"""Draws the report's picture: `plot.py RESULTS.json PICTURE.png`. Runs in the environment of `bench-report`."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

COLOURS = {
    "weft": "#0b6e4f",
    "openvino": "#3a6ea5",
    "llama.cpp": "#c17817",
    "vllm": "#8e5a9b",
    "transformers": "#8a8a8a",
}
# Weights of the default model: all of them take part in a step, since the embedding is tied to the head.
WEIGHTS = 134_515_008
BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5}
PANELS = [
    (1, "decode_per_s", ["one-bf16", "one-int8", "one-int4"]),
    (8, "output_per_s", ["eight-bf16", "eight-best"]),
    (32, "output_per_s", ["thirty-two-bf16", "thirty-two-best"]),
]


def main() -> None:
    """Reads the results and draws."""
    results = json.loads(Path(sys.argv[1]).read_text())
    figure, axes = pyplot.subplots(2, 2, figsize=(15, 10), layout="constrained")
    for place, (streams, metric, names) in zip(axes.flat, PANELS, strict=False):
        speeds(place, results["cells"], streams, metric, names)
    first_tokens(axes.flat[3], results["cells"])
    where = results["machine"]
    figure.suptitle(f"Weft beside its peers: {where['model']}, {where['cores']} cores of {where['cpu']}")
    figure.savefig(sys.argv[2], dpi=110)


def speeds(place: Axes, cells: dict[str, Any], streams: int, metric: str, names: list[str]) -> None:
    """Bars of tokens a second, with the machine's limits as lines."""
    found = medians(cells, names, metric)
    bars(place, found, 1.0)
    place.set_title(f"{streams} stream{'s' * (streams > 1)}: {'decode' if streams == 1 else 'output'} tokens/s")
    limits = cells.get("roofline", {}).get("figures", {})
    if "read_bytes_per_s" not in limits:
        return
    peak = limits["peak_per_s"]["bf16"] / (2 * WEIGHTS)
    for name, size in BYTES.items():
        limit = min(streams * limits["read_bytes_per_s"] / (WEIGHTS * size), peak)
        # A limit far above every bar would only make them small.
        if limit < 3 * max(found.values(), default=0):
            bound = "bf16 products" if limit == peak else f"memory, {name}"
            place.axvline(limit, color="#b00020", linestyle="--", linewidth=1)
            place.text(limit, -0.6, bound, rotation=20, fontsize=7, color="#b00020")


def first_tokens(place: Axes, cells: dict[str, Any]) -> None:
    """Bars of the time to first token."""
    bars(place, medians(cells, ["ttft-bf16", "ttft-int8", "ttft-int4"], "ttft_p50_s"), 1e3)
    place.set_title("512-token prompt: milliseconds to the first token (less is better)")


def medians(cells: dict[str, Any], names: list[str], metric: str) -> dict[str, float]:
    """Every contender's median in these cells; one that is in several keeps its first."""
    found: dict[str, float] = {}
    for name in names:
        for label, one in cells.get(name, {}).get("contenders", {}).items():
            found.setdefault(label, one["median"][metric])
    return found


def bars(place: Axes, found: dict[str, float], scale: float) -> None:
    """One bar for each contender."""
    labels = list(found)
    values = [found[label] * scale for label in labels]
    made = place.barh(labels, values, color=[COLOURS[label.split(" ")[0]] for label in labels])
    place.bar_label(made, fmt="%.0f", padding=3, fontsize=8)
    place.invert_yaxis()
    place.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
