"""Cells about Weft itself: what the machine allows, memory, prefixes, long prompts, the cost of a step."""

import json
import re
import statistics
import subprocess
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from cells import OWN, SHARED
from contenders import THREADS, Contender, LlamaBench, MissingError, Pool, Worker
from measure import Request, Round, Turn, ids, plain, quantile
from mesh import Mesh
from places import HERE, MODEL, RELEASE, ROOT
from race import Result

GIB = 1 << 30
ROOFLINE = RELEASE / "examples" / "roofline"
NO_ROOFLINE = "not built: cargo build --release -p weft-inference --example roofline"
LONG_PROMPT = 4_000
BF16 = Contender("weft", "bf16")
Cell = Callable[[Pool, int], Result]


def roofline(_: Pool, turns: int) -> Result:
    """What memory and multipliers allow."""
    result = Result("roofline", "what the machine allows")
    if not ROOFLINE.exists():
        result.missing["roofline"] = NO_ROOFLINE
        return result
    found = [measured_limits() for _ in range(turns)]
    # The best: what disturbs a measurement only ever slows it.
    result.figures = {
        "read_bytes_per_s": max(one["read_bytes_per_s"] for one in found),
        "sustained_read_bytes_per_s": statistics.median(one["sustained_read_bytes_per_s"] for one in found),
        "peak_per_s": {kind: max(one["peak_per_s"][kind] for one in found) for kind in ("bf16", "int8")},
        "runs": found,
    }
    read, peak = result.figures["read_bytes_per_s"], result.figures["peak_per_s"]
    for shapes in zip(*(one["products"] for one in found), strict=True):
        best = min(shapes, key=lambda one: one["layer_ms"])
        kind = "bf16" if best["format"] == "bf16" else "int8"
        result.notes.append(
            f"{best['format']}, {best['rows']} rows: {best['layer_ms']:.3f} ms a layer,"
            f" {best['per_s'] / 1e9:.0f} GOPS ({best['per_s'] / peak[kind]:.0%} of the peak on operands in registers),"
            f" {best['bytes_per_s'] / 1e9:.1f} GB/s ({best['bytes_per_s'] / read:.0%} of what can be read)"
        )
    return result


def measured_limits(*only: str) -> dict[str, Any]:
    """One run of the program that measures the machine."""
    done = subprocess.run([ROOFLINE, str(THREADS), *only], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def weight_bytes(pool: Pool, turns: int) -> Result:
    """How much of the read bandwidth one row's steps use: each is measured for a second, in turn."""
    result = Result("weight-bytes", "weights read at one row, over the read bandwidth")
    there, result.missing = pool.need([BF16])
    if not ROOFLINE.exists():
        result.missing["roofline"] = NO_ROOFLINE
    value = None
    if not result.missing:
        worker = there[BF16.label]
        worker.turn(plain(result.name, 1, 16, 128))
        limits, found = [], []
        for turn in range(turns):
            limits.append(measured_limits("bandwidth"))
            found.append(worker.turn(plain(f"{result.name} {turn}", 1, 16, 128)))
        result.add(BF16.label, found, worker.about)
        # Each step reads all of them once: the embedding is tied to the head, and one row of it is nothing beside it.
        size = (MODEL / "model.safetensors").stat().st_size
        read = statistics.median(turn.decode_per_s for turn in found) * size
        sustained = statistics.median(one["sustained_read_bytes_per_s"] for one in limits)
        fastest = max(one["read_bytes_per_s"] for one in limits)
        result.figures = {"weights_bytes": size, "weights_read_per_s": read, "limits": limits}
        result.notes.append(
            f"Memory gave {fastest / 1e9:.1f} GB/s in the fastest pass of some milliseconds, which counts here, and"
            f" {sustained / 1e9:.1f} GB/s for a second on end, of which steps read {read / sustained:.2f}."
        )
        value = read / fastest
    result.check("weight bytes read a second at one row over read bandwidth, bf16", value, 0.8, True)
    return result


def memory(pool: Pool, _: int) -> Result:
    """The most memory held, and how long a start takes when the files are in the page cache."""
    result = Result("memory", "peak RSS with a 2 GiB KV budget, warm start-up")
    pool.need([])
    contenders = [Contender(name, "bf16", cache_gib=2) for name in ("weft", "openvino")]
    rss: dict[str, float] = {}
    for contender in contenders:
        for _again in range(2):  # the first start fills the page cache
            there, missing = pool.need([contender])
            result.missing |= missing
            if missing:
                break
            worker = there[contender.label]
            turn = worker.turn(plain(f"memory {contender.label}", 32, 128, 64))
            rss[contender.name] = worker.peak_rss
            result.figures[contender.label] = {"peak_rss_gib": worker.peak_rss / GIB, "start_s": worker.start_s}
            result.add(contender.label, [turn], worker.about)
            pool.need([])
    ours = result.figures.get("weft bf16", {})
    both = rss["weft"] / rss["openvino"] if len(rss) == 2 else None
    result.check("peak RSS after 32 streams, weft bf16 over openvino bf16", both, 1.0, False)
    result.check("warm start-up until ready, weft bf16, in seconds", ours.get("start_s"), 3.0, False)
    result.notes.append("OpenVINO's process is Python with its modules; Weft's is the engine alone.")
    return result


def prefix_hit(pool: Pool, turns: int) -> Result:
    """Time to first token of a prompt whose prefix is in the cache, over that of one that is not."""
    result = Result("prefix-hit", f"prefix hit: {SHARED} shared + {OWN} own tokens")
    there, result.missing = pool.need([BF16])
    ratios: list[float] = []
    for turn in range(turns + 1):
        if not there:
            break
        shared = ids(f"prefix {turn}", SHARED)
        cold, hit = (one_of(there[BF16.label], shared + ids(f"own {turn} {own}", OWN)) for own in range(2))
        if turn > 0:
            ratios.append(hit / cold)
            result.figures[f"turn {turn}"] = {"cold_s": cold, "hit_s": hit}
    value = statistics.median(ratios) if ratios else None
    result.check("TTFT of a hit over a cold one", value, 0.25, False)
    return result


def one_of(worker: Worker | LlamaBench, prompt: tuple[int, ...]) -> float:
    """Time to first token of one request alone."""
    return worker.turn(Round((Request(prompt, 2),), 1)).ttft_p50_s


def chunked_prefill(pool: Pool, turns: int) -> Result:
    """What a long prompt does to those who run."""
    title = f"8 running streams and a {LONG_PROMPT}-token prompt"
    result = Result("chunked-prefill", title)
    calm = [p99_running(turn) for turn in turns_of(pool, result, turns, lambda seed: disturbed(seed, None))]
    rough = [p99_running(turn) for turn in turns_of(pool, result, turns, lambda seed: disturbed(seed, 1.5))]
    value = None
    if calm and rough:
        result.figures = {"undisturbed_p99_s": calm, "disturbed_p99_s": rough}
        value = statistics.median(rough) / statistics.median(calm)
    result.check("p99 ITL of the 8 while the prompt is computed, over undisturbed", value, 3.0, False)
    result.notes.append(
        "Counted are the gaps between the prompt's arrival and its first token; undisturbed: all after all eight began."
    )
    return result


def disturbed(seed: str, at_s: float | None) -> Round:
    """Eight streams that run long, and a prompt that comes while they do."""
    requests = plain(seed, 8, 128, 256).requests
    if at_s is not None:
        requests += (Request(ids(f"{seed} long", LONG_PROMPT), 4, at_s),)
    return Round(requests, len(requests))


def p99_running(turn: Turn) -> float:
    """The 99th percentile of the gaps of the first eight streams, in the window that counts."""
    running = turn.tokens_s[:8]
    began = max(times[0] for times in running)
    ended = min(times[-1] for times in running)
    if len(turn.tokens_s) > 8:
        ended = turn.tokens_s[8][0]
        began = max(began, turn.sent_s[8])
    gaps = [
        after - before for times in running for before, after in pairwise(times) if after > began and before < ended
    ]
    return quantile(gaps, 0.99)


def step_cost(pool: Pool, turns: int) -> Result:
    """What a step costs beside the model."""
    result = Result("step-cost", "step cost outside the forward pass")
    for streams, bar in ((1, 0.10), (32, 0.05)):
        shape = lambda seed, streams=streams: plain(seed, streams, 16, 128)  # noqa: E731
        found = turns_of(pool, result, turns, shape, key=f"{streams} rows")
        shares = [1 - turn.raw["step_s"]["forward"] / turn.raw["wall_s"] for turn in found]
        value = statistics.median(shares) if shares else None
        result.check(f"share of the time outside the forward pass at {streams} rows", value, bar, False)
    result.notes.append(
        "All of the wall time that is not in the model's forward pass. What is in there beside products and attention"
        " (norms, rotary embedding, activation) is not told apart by the engine's metrics."
    )
    return result


def turns_of(pool: Pool, result: Result, turns: int, shape: Callable[[str], Round], key: str = "") -> list[Turn]:
    """Turns of Weft alone, after one that is not counted; none where it is missing."""
    there, missing = pool.need([BF16])
    result.missing |= missing
    if missing:
        return []
    worker = there[BF16.label]
    found = [worker.turn(shape(f"{result.name} {key} {turn}")) for turn in range(turns + 1)][1:]
    result.add(f"{BF16.label} {key}".strip(), found, worker.about)
    return found


def through_services(pool: Pool, turns: int) -> Result:
    """The same load by gRPC through all four services."""
    result = Result("services", "through all four services, bf16")
    pool.need([])
    try:
        with Mesh() as mesh:
            result.figures["up_s"] = mesh.up_s
            for streams in (1, 8, 32):
                found = [mesh.bench(streams) for _ in range(turns)]
                speeds = [one["throughput"]["output_tokens_per_s"] for one in found]
                result.figures[f"{streams} streams"] = {
                    "output_per_s": statistics.median(speeds),
                    "turns": speeds,
                    "ttft_p50_ms": statistics.median(one["ttft_ms"]["p50"] for one in found),
                    "itl_p99_ms": statistics.median(one["itl_ms"]["p99"] for one in found),
                }
    except MissingError as why:
        result.missing["the mesh"] = str(why)
    return result


def adapters(pool: Pool, _: int) -> Result:
    """Sixteen adapters at once, over the base alone; the example takes its own medians."""
    result = Result("adapters", "16 adapters at once, 16 streams")
    pool.need([])
    program = RELEASE / "examples" / "adapter_speed"
    value = None
    if not program.exists():
        result.missing["adapters"] = "not built: cargo build --release -p weft-inference --example adapter_speed"
    else:
        done = subprocess.run([program, MODEL, "16"], cwd=ROOT, capture_output=True, text=True, check=False)
        ratio = re.search(r"^ratio ([0-9.]+)", done.stdout, re.M)
        if ratio is None:
            result.missing["adapters"] = f"adapter_speed ended with {done.returncode}: {done.stderr[-300:]}"
        else:
            value = float(ratio[1])
            result.notes += done.stdout.strip().splitlines()
    result.check("tokens/s with 16 adapters over the base alone", value, 0.7, True)
    return result


def structured(pool: Pool, turns: int) -> Result:
    """Structured answers through all services, by `structured.py`: valid or cut, and how fast beside free text."""
    result = Result("structured", "structured generations over the schemas of tests/golden/schemas.json")
    pool.need([])
    python = ROOT / ".weft" / "venv-clients" / "bin" / "python"
    command = [python, HERE / "structured.py", *(["--full"] if turns > 1 else [])]
    said = ""
    if not python.exists():
        result.missing["structured"] = "not installed: python3 deploy/setup/setup.py clients"
    else:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = done.stdout
        if "throughput:" not in said:
            result.missing["structured"] = f"structured.py ended with {done.returncode}: {done.stderr[-300:]}"
    counts = re.search(r"^(\d+) answers: (\d+) valid, (\d+) cut .*, (\d+) broken$", said, re.M)
    speed = re.search(r"^throughput: ([0-9.]+) of free text", said, re.M)
    ended = 1 - int(counts[4]) / int(counts[1]) if counts else None
    result.check("share of answers that are valid or say that they were cut", ended, 1.0, True)
    result.check("tokens/s over those of free text of the same lengths", float(speed[1]) if speed else None, 0.9, True)
    result.notes += said.strip().splitlines()[-2:]
    return result


CELLS: dict[str, Cell] = {
    "roofline": roofline,
    "memory": memory,
    "weight-bytes": weight_bytes,
    "prefix-hit": prefix_hit,
    "chunked-prefill": chunked_prefill,
    "step-cost": step_cost,
    "services": through_services,
    "adapters": adapters,
    "structured": structured,
}
