"""What the gateway and its services add to an engine's answer, beside Envoy and smg, in one run.

The engine is a metronome: each request has a token with every beat, whatever else there is. It is asked directly and
through what may stand in front of it, in turn, by the same load generator on the same machine; what is added is the
difference of the medians of the turns. Two languages, each with a generator of its own: gRPC (directly, through Envoy
as a plain proxy, through the whole mesh; `weft bench` asks), and OpenAI's HTTP (directly, through smg, through the
whole mesh; `sse.py` asks). smg and Envoy forward what they are given; the mesh renders the conversation, turns text
into tokens and back, and screens both. Processor time is that of all processes between the caller and the engine, for
each request at fixed rates: the higher the rate, the more is done at once for several.
Writes `.weft/bench/overhead.md` and `overhead.png`, and ends with 1 where a bar is missed. Runs in the environment that
`setup.py clients` makes: `make bench-overhead`.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import paced
import sse
from places import HERE, OUT, ROOT

BEAT_MS = 20
TOKENS = 32
CONCURRENCY = 8
RATES = (10, 40)
"""Requests a second while processor time is measured."""
ROUNDS = 2
SECONDS = 8
PROXIES = ROOT / ".weft" / "venv-overhead"
DRAWS = OUT / "venv-report" / "bin" / "python"
BARS = {"ttft_ms": 1.5, "itl_ms": 0.3}
QUANTILES = ("p50", "p99")


@dataclass
class Contender:
    """A way to the engine."""

    name: str
    target: str
    """`inference` and `gateway` speak gRPC, everything else is the name of a model behind OpenAI's HTTP."""
    address: str
    pids: list[int]
    over: str = ""
    """What it is compared with: the same engine, asked directly."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    rounds: dict[int, list[float]] = field(default_factory=lambda: {rate: [] for rate in RATES})
    """Milliseconds of all processes on the way, for each request at a rate."""

    def median(self, what: str, quantile: str) -> float:
        """Of all turns, in milliseconds."""
        return statistics.median(turn[what][quantile] for turn in self.turns)

    def cpu_ms(self, rate: int) -> float:
        """Of all rounds."""
        return statistics.median(self.rounds[rate])


def closed(contender: Contender, requests: int) -> dict[str, Any]:
    """Callers that ask again when they were answered."""
    if contender.target in ("inference", "gateway"):
        return bench(contender, "--concurrency", str(CONCURRENCY), "--requests", str(requests))
    load = sse.closed(contender.address, contender.target, CONCURRENCY, requests, TOKENS)
    return asyncio.run(load).figures()


def paced_load(contender: Contender, rate: int) -> int:
    """Requests at a fixed rate; gives how many there were."""
    if contender.target in ("inference", "gateway"):
        return bench(contender, "--rate", str(rate), "--duration", f"{SECONDS}s")["requests"]["total"]
    return asyncio.run(sse.paced(contender.address, contender.target, rate, SECONDS, TOKENS))


def bench(contender: Contender, *words: str) -> dict[str, Any]:
    """One load over gRPC; gives the generator's report."""
    report = OUT / "overhead.json"
    command = [
        *[paced.BINARIES / "weft", "--run-dir", OUT / "run", "--color", "never", "bench", "--json", report],
        *["--target", contender.target, "--address", f"http://{contender.address}", "--prompt-tokens", "64"],
        *["--max-tokens", str(TOKENS), "--ignore-eos", *words],
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    found = json.loads(report.read_text())
    if found["requests"]["failed"]:
        raise RuntimeError(f"{contender.name}: {found['requests']}")
    return found


def rotated(contenders: list[Contender], by: int) -> list[Contender]:
    """The same in turn, beginning with another."""
    first = by % len(contenders)
    return contenders[first:] + contenders[:first]


def measure(contenders: list[Contender], turns: int, requests: int) -> None:
    """How long the first token and the next ones take, in all turns."""
    for contender in contenders:
        closed(contender, CONCURRENCY)
    for turn in range(turns):
        for contender in rotated(contenders, turn):
            found = closed(contender, requests)
            contender.turns.append(found)
            ttft, itl = found["ttft_ms"], found["itl_ms"]
            print(f"  {contender.name:12} TTFT {ttft['p50']:.2f} ITL {itl['p50']:.2f} ms", flush=True)


def measure_cpu(contenders: list[Contender]) -> None:
    """Processor time, in all rounds at each rate, of those who have processes on the way."""
    between = [one for one in contenders if one.pids]
    for turn in range(ROUNDS * len(RATES)):
        rate = RATES[turn % len(RATES)]
        for contender in rotated(between, turn):
            before = sum(map(paced.cpu_s, contender.pids))
            requests = paced_load(contender, rate)
            spent = 1e3 * (sum(map(paced.cpu_s, contender.pids)) - before) / requests
            contender.rounds[rate].append(spent)
            print(f"  {contender.name:12} {rate} requests/s CPU {spent:.2f} ms", flush=True)


@contextmanager
def envoy(inference: str) -> Iterator[tuple[str, int]]:
    """Envoy in front of the engine: its address and its process."""
    program = next(PROXIES.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    port, (host, behind) = paced.free_port(), inference.split(":")
    config = json.loads((HERE / "envoy.json").read_text())
    listener, cluster = (config["static_resources"][key][0] for key in ("listeners", "clusters"))
    listener["address"]["socket_address"]["port_value"] = port
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"] = {"address": host, "port_value": int(behind)}
    made = OUT / "envoy.json"
    made.write_text(json.dumps(config))
    with proxy("envoy", port, program, "-c", made, "--concurrency", "2", "--use-dynamic-base-id") as pid:
        yield f"127.0.0.1:{port}", pid


@contextmanager
def smg(engine: str) -> Iterator[tuple[str, int]]:
    """The gateway smg in front of the engine that speaks HTTP: its address and its process."""
    port = paced.free_port()
    words = ["launch", "--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://{engine}"]
    words += ["--policy", "round_robin", "--log-level", "warn", "--prometheus-port", str(paced.free_port())]
    with proxy("smg", port, PROXIES / "bin" / "python", "-m", "smg", *words) as pid:
        yield f"127.0.0.1:{port}", pid


@contextmanager
def proxy(name: str, port: int, *command: str | Path) -> Iterator[int]:
    """A process that soon listens on a port."""
    with (OUT / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        paced.await_listener(name, port, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def added(contenders: list[Contender], what: str, quantile: str) -> dict[str, float]:
    """What each adds to asking the same engine directly, in milliseconds."""
    at = {one.name: one.median(what, quantile) for one in contenders}
    return {one.name: at[one.name] - at[one.over] for one in contenders if one.over}


def markdown(contenders: list[Contender], turns: int) -> tuple[str, int]:
    """The report, and how many bars are missed."""
    about = machine.describe()
    checks = bars(contenders)
    lines = [
        f"# What is added to an engine's answer (beat {BEAT_MS} ms, {TOKENS} tokens, {CONCURRENCY} at once)",
        "",
        f"{about['cores']} cores of {about['cpu']}; load before {about['load_before']}; medians of {turns} turns, and "
        f"of {ROUNDS} rounds of CPU for each request; weft {about['versions']['weft']}. In milliseconds. "
        "The mesh tokenizes and screens; Envoy and smg forward.",
        "",
        "A constant delay of every token shows in the first token's figure only; between tokens, p99 shows jitter.",
        "",
        f"![what is added, with the CPU at {RATES[0]}/s](overhead.png)",
        "",
        *ways(contenders),
        "",
        *differences(contenders),
        "",
        "| bar | value | at most | met |",
        "|---|---:|---:|---|",
        *(
            f"| {what} | {value:.2f} | {most:.2f} | {'yes' if value <= most else '**no**'} |"
            for what, value, most in checks
        ),
    ]
    return "\n".join(lines) + "\n", sum(value > most for _, value, most in checks)


def ways(contenders: list[Contender]) -> list[str]:
    """A table of what was measured."""
    titles = ["TTFT p50", "TTFT p99", "ITL p50", "ITL p99", *(f"CPU at {rate}/s" for rate in RATES)]
    lines = [f"| way | {' | '.join(titles)} |", "|---" + "|---:" * len(titles) + "|"]
    for one in contenders:
        cells = [f"{one.median(what, quantile):.2f}" for what in BARS for quantile in QUANTILES]
        cells += [f"{one.cpu_ms(rate):.2f}" if one.pids else "-" for rate in RATES]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return lines


def differences(contenders: list[Contender]) -> list[str]:
    """A table of what is added."""
    names = [one.name for one in contenders if one.over]
    lines = [f"| added | {' | '.join(names)} |", "|---" + "|---:" * len(names) + "|"]
    for what in BARS:
        for quantile in QUANTILES:
            cells = [f"{it:.2f}" for it in added(contenders, what, quantile).values()]
            lines.append(f"| {what} {quantile} | {' | '.join(cells)} |")
    return lines


def bars(contenders: list[Contender]) -> list[tuple[str, float, float]]:
    """What is to be compared with what: the mesh with fixed bounds, and over HTTP with smg."""
    found = {what: added(contenders, what, "p50") for what in BARS}
    named = {one.name: one for one in contenders}
    mesh, smg = named["weft http"], named["smg"]
    adds = "that the mesh adds over"
    return [
        *((f"{what} {adds} gRPC", found[what]["weft"], most) for what, most in BARS.items()),
        *((f"{what} {adds} HTTP", found[what][mesh.name], most) for what, most in BARS.items()),
        *((f"{what} {adds} HTTP, and smg", found[what][mesh.name], found[what][smg.name]) for what in BARS),
        *(
            (f"CPU for each request over HTTP at {rate}/s, and smg's", mesh.cpu_ms(rate), smg.cpu_ms(rate))
            for rate in RATES
        ),
    ]


def main() -> int:
    """Starts everything, measures, and says whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="how often each way is measured")
    parser.add_argument("--requests", type=int, default=160, help="requests of a turn")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    openai, front = (f"127.0.0.1:{paced.free_port()}" for _ in range(2))
    settings = {
        "inference": {"metronome__beat": f"{BEAT_MS}ms", "metronome__http": openai},
        "gateway": {"http__listen": front},
    }
    with (
        paced.Mesh("metronome", settings) as mesh,
        envoy(mesh.address["inference"]) as (envoy_at, envoy_pid),
        smg(openai) as (smg_at, smg_pid),
    ):
        between = [mesh.pid[name] for name in ("gateway", "tokenizer", "safety")]
        contenders = [
            Contender("direct", "inference", mesh.address["inference"], []),
            Contender("envoy", "inference", envoy_at, [envoy_pid], "direct"),
            Contender("weft", "gateway", mesh.address["gateway"], between, "direct"),
            Contender("direct http", "metronome", openai, []),
            Contender("smg", "metronome", smg_at, [smg_pid], "direct http"),
            Contender("weft http", "metronome", front, between, "direct http"),
        ]
        measure(contenders, arguments.turns, arguments.requests)
        measure_cpu(contenders)
    report, missed = markdown(contenders, arguments.turns)
    (OUT / "overhead.md").write_text(report)
    figures = {what: added(contenders, what, "p50") for what in BARS} | {
        "cpu_ms": {one.name: one.cpu_ms(RATES[0]) for one in contenders if one.over}
    }
    made = OUT / "overhead-figures.json"
    made.write_text(json.dumps(figures))
    subprocess.run([DRAWS, HERE / "plot_overhead.py", made, OUT / "overhead.png"], check=True)
    print(report)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
