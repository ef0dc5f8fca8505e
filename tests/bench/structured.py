"""Structured output: whether every answer is valid, and what it costs beside free text.

Asks for answers that hold to the schemas of `tests/golden/schemas.json`, sampled at temperature 1, each with a seed of
its own; then for as many free texts of just as many tokens each, by the same prompts at the same concurrency. Both take
turns; the ratio is that of output tokens a second, its median over the rounds. `--full` asks for 1,000 of them.

Runs in the environment that `setup.py clients` makes. The exit code is 1 where an answer is neither valid nor says that
it was cut, or where the ratio is below 0.9.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "conformance" / "python"))
os.environ.setdefault("WEFT_BINARIES", str(ROOT / "target" / "release"))

from mesh import GENERATED, Mesh, generate_client  # noqa: E402

generate_client()
sys.path.insert(0, str(GENERATED))

from conversation import STOP, Answer, ask, collect  # noqa: E402
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub  # noqa: E402

CASES = json.loads((ROOT / "tests" / "golden" / "schemas.json").read_text())
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER
LEAST_RATIO = 0.9
MAX_TOKENS = 256


@dataclass(frozen=True)
class Job:
    """One structured request."""

    case: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Turn:
    """What one turn came to."""

    tokens: int
    seconds: float
    valid: int = 0
    cut: int = 0
    broken: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds


def structured(gateway: GatewayServiceStub, job: Job) -> Answer:
    """An answer that holds to a schema."""
    constraint = {"json_schema": json.dumps(job.case["schema"])}
    sampling = {"temperature": 1.0, "seed": job.seed}
    return collect(gateway.Chat(ask(job.case["ask"], max_tokens=MAX_TOKENS, sampling=sampling, constraint=constraint)))


def free(gateway: GatewayServiceStub, job: Job, tokens: int) -> Answer:
    """A free text of exactly so many tokens, from the same prompt."""
    sampling = {"temperature": 1.0, "seed": job.seed}
    return collect(gateway.Chat(ask(job.case["ask"], max_tokens=tokens, ignore_eos=True, sampling=sampling)))


def together(concurrency: int, call: Callable[..., Answer], *arguments: Iterable[Any]) -> tuple[list[Answer], float]:
    """All calls, so many at once, and how long they took."""
    with ThreadPoolExecutor(concurrency) as threads:
        began = time.monotonic()
        answers = list(threads.map(call, *arguments))
        return answers, time.monotonic() - began


def verdict(job: Job, answer: Answer) -> str | None:
    """What is wrong with an answer that claims to be complete."""
    try:
        jsonschema.Draft202012Validator(job.case["schema"], format_checker=CHECKER).validate(json.loads(answer.text))
    except (json.JSONDecodeError, jsonschema.ValidationError) as error:
        return f"{job.case['name']}, seed {job.seed}: {answer.text!r}: {error}"
    return None


def one_round(gateway: GatewayServiceStub, jobs: list[Job], concurrency: int) -> tuple[Turn, Turn]:
    """A turn of structured answers, and one of free text of the same lengths."""
    answers, seconds = together(concurrency, lambda job: structured(gateway, job), jobs)
    complete = [(job, answer) for job, answer in zip(jobs, answers, strict=True) if answer.finished.reason == STOP]
    broken = tuple(filter(None, itertools.starmap(verdict, complete)))
    lengths = [answer.finished.usage.completion_tokens for answer in answers]
    cut = len(jobs) - len(complete)
    shaped = Turn(sum(lengths), seconds, len(complete) - len(broken), cut, broken)
    texts, seconds = together(concurrency, lambda job, tokens: free(gateway, job, tokens), jobs, lengths)
    generated = sum(text.finished.usage.completion_tokens for text in texts)
    assert generated == shaped.tokens, f"free text has {generated} tokens, structured {shaped.tokens}"
    return shaped, Turn(generated, seconds)


def masks(mesh: Mesh) -> str:
    """What a mask cost on its worker, and what of that the engine waited for: means of the run."""
    page = mesh.page("inference", "/metrics")
    found = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if line.startswith("weft_mask_")}

    def mean(name: str) -> float:
        return 1e6 * found[f"{name}_sum"] / max(found[f"{name}_count"], 1)

    return (
        f"a mask {mean('weft_mask_seconds'):.0f} us, of which the engine waited {mean('weft_mask_wait_seconds'):.0f} us"
    )


def run(mesh: Mesh, count: int, concurrency: int, rounds: int) -> bool:
    """All rounds. Answers whether the bars are met."""
    with mesh.channel("gateway") as channel:
        gateway = GatewayServiceStub(channel)
        together(concurrency, lambda job: structured(gateway, job), [Job(case, 0) for case in CASES])
        ratios, totals = [], [0, 0, 0]
        seeds = itertools.count(1)
        jobs = [Job(case, next(seeds)) for case in itertools.islice(itertools.cycle(CASES), count)]
        size = -(-count // rounds)
        for start in range(0, count, size):
            shaped, plain = one_round(gateway, jobs[start : start + size], concurrency)
            ratios.append(shaped.rate / plain.rate)
            totals = [sum(pair) for pair in zip(totals, (shaped.valid, shaped.cut, len(shaped.broken)), strict=True)]
            print(f"  {shaped.rate:7.1f} tokens/s structured, {plain.rate:7.1f} free: {ratios[-1]:.2f}", flush=True)
            print(*shaped.broken, sep="\n", end="")
    valid, cut, broken = totals
    ratio = statistics.median(ratios)
    print(f"{count} answers: {valid} valid, {cut} cut at {MAX_TOKENS} tokens, {broken} broken")
    print(f"throughput: {ratio:.2f} of free text, median of {len(ratios)} rounds, {concurrency} at once; {masks(mesh)}")
    return broken == 0 and ratio >= LEAST_RATIO


def main() -> int:
    """Starts a mesh, runs, and says whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1,000 structured answers instead of three for each schema")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at once")
    arguments = parser.parse_args()
    count, rounds = (1_000, 5) if arguments.full else (3 * len(CASES), 3)
    mesh = Mesh()
    try:
        mesh.up()
        return 0 if run(mesh, count, arguments.concurrency, rounds) else 1
    finally:
        mesh.down()


if __name__ == "__main__":
    sys.exit(main())
