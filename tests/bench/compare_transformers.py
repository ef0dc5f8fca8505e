"""Weft beside transformers: the same model, the same machine, the same run.

Both generate 128 tokens after 128, greedily and past end tokens, from the same bf16 folder, with 1 and with 8 requests
at once: transformers as one batch, Weft as a closed loop through all four services. They take turns; the medians are
compared. Runs in the environment that `setup.py bench` makes; `make bench` does all of it.

Writes `.weft/bench/transformers.json` and `.weft/bench/transformers.md`. The exit code is 1 where Weft is slower.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".weft" / "bench"
MODEL = ROOT / "models" / "smollm2-135m-instruct"
PROMPT_TOKENS = 128
OUTPUT_TOKENS = 128
CONCURRENCY = (1, 8)
# Requests of a turn, for each that is in flight: long enough that a turn takes seconds.
REQUESTS_EACH = 2
# Apart from the default layout and from the conformance tests', so that a mesh that runs stays undisturbed.
PORT_OFFSET = "5000"


@dataclass(frozen=True)
class Result:
    """What the turns at one concurrency found, in output tokens a second."""

    concurrency: int
    weft: list[float]
    transformers: list[float]

    @property
    def ratio(self) -> float:
        """Weft's median over transformers' median."""
        return statistics.median(self.weft) / statistics.median(self.transformers)


class Weft:
    """The mesh in release mode, with the default model."""

    def __init__(self, binary: Path) -> None:
        self._weft = [binary, "--run-dir", OUT / "run", "--color", "never"]

    def __enter__(self) -> "Weft":
        self._run("up", "--port-offset", PORT_OFFSET, "--no-jaeger")
        return self

    def __exit__(self, *_: object) -> None:
        self._run("down")

    def tokens_per_second(self, concurrency: int) -> float:
        """One turn."""
        report = OUT / "weft.json"
        self._run(
            *["bench", "--json", str(report), "--concurrency", str(concurrency), "--temperature", "0", "--ignore-eos"],
            *["--requests", str(concurrency * REQUESTS_EACH), "--warm-up", str(concurrency)],
            *["--prompt-tokens", str(PROMPT_TOKENS), "--max-tokens", str(OUTPUT_TOKENS)],
        )
        found = json.loads(report.read_text())
        expected = concurrency * REQUESTS_EACH * OUTPUT_TOKENS
        check(found["tokens"]["completion"] == expected, f"Weft generated {found['tokens']}, expected {expected}")
        check(found["settings"]["exact_prompts"], "the prompts are not exactly as long as was asked for")
        return found["throughput"]["output_tokens_per_s"]

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [*self._weft, *words], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        check(done.returncode == 0, f"`weft {words[0]}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")


class Transformers:
    """The same folder in transformers, with all cores."""

    def __init__(self) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def tokens_per_second(self, concurrency: int) -> float:
        """One turn, after a batch that is not counted."""
        self._batch(concurrency)
        began = time.perf_counter()
        for _ in range(REQUESTS_EACH):
            self._batch(concurrency)
        return concurrency * REQUESTS_EACH * OUTPUT_TOKENS / (time.perf_counter() - began)

    def _batch(self, size: int) -> None:
        ids = torch.randint(1_000, 40_000, (size, PROMPT_TOKENS))
        made = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=OUTPUT_TOKENS,
            max_new_tokens=OUTPUT_TOKENS,
        )
        check(made.shape == (size, PROMPT_TOKENS + OUTPUT_TOKENS), f"transformers generated {made.shape}")


def check(holds: bool, otherwise: str) -> None:
    """Ends the comparison when what is compared is not what was asked for."""
    if not holds:
        raise SystemExit(f"✗ {otherwise}")


def compare(weft: Callable[[int], float], other: Callable[[int], float], concurrency: int, turns: int) -> Result:
    """Lets both take turns."""
    result = Result(concurrency, [], [])
    for turn in range(turns):
        result.weft.append(round(weft(concurrency), 1))
        result.transformers.append(round(other(concurrency), 1))
        print(
            f"  {concurrency} at once, turn {turn + 1}: Weft {result.weft[-1]}, "
            f"transformers {result.transformers[-1]} tokens/s",
            flush=True,
        )
    return result


def machine() -> dict[str, Any]:
    """What the numbers were measured with."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(results: list[Result], where: dict[str, Any]) -> str:
    """The results in Markdown."""
    rows = [
        f"| {result.concurrency} | {statistics.median(result.weft):.1f} | {statistics.median(result.transformers):.1f}"
        f" | **{result.ratio:.2f}** |"
        for result in results
    ]
    return "\n".join(
        [
            f"SmolLM2-135M-Instruct, bf16, {PROMPT_TOKENS} tokens in, {OUTPUT_TOKENS} out, greedy; output tokens/s, "
            f"median of {len(results[0].weft)} turns; {where['cores']} cores of {where['cpu']}, "
            f"transformers {where['transformers']}, torch {where['torch']}.",
            "",
            "| at once | Weft, through four services | transformers, one batch | ratio |",
            "|---:|---:|---:|---:|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Reads the command line and compares; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--weft", type=Path, default=ROOT / "target" / "release" / "weft", help="the executable")
    arguments = parser.parse_args()
    # A polite kill stops the mesh, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    OUT.mkdir(parents=True, exist_ok=True)
    where = machine()
    transformers_turn = Transformers().tokens_per_second
    with Weft(arguments.weft) as weft:
        results = [compare(weft.tokens_per_second, transformers_turn, count, arguments.turns) for count in CONCURRENCY]
    report = {"machine": where, "results": [asdict(result) | {"ratio": result.ratio} for result in results]}
    (OUT / "transformers.json").write_text(json.dumps(report, indent=2) + "\n")
    (OUT / "transformers.md").write_text(table(results, where))
    print(table(results, where))
    return 0 if all(result.ratio >= 1 for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
