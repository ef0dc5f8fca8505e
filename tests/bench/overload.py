"""What overload does: three times as many requests as can be served, for a minute, and a noisy neighbour.

The mesh runs as real processes, the engine among them (`paced`: the real inference service, with a model that
computes nothing and takes a fixed time for each step), and its capacity is measured first. Arrivals are
Poisson; time counts from the moment at which a request should have been sent. Prints every figure and bar, writes
`.weft/bench/overload.md`, and ends with 1 where a bar is missed. Runs in the environment that `setup.py clients`
makes: `make bench-overload`.
"""

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import paced
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from places import OUT

paced.generate_client()

from weft.gateway.v1 import gateway_pb2 as wire  # noqa: E402
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub  # noqa: E402

PLACES = 16
TOKENS = 25
STEP_MS = 40
TENANTS = ("one", "quiet", "noisy")
CALM_S = 30
"""At least so long the calm load takes whose p99 others are measured by: in less time that is one or two requests."""


@dataclass(frozen=True)
class Outcome:
    """What one request got."""

    at_s: float
    """When it should have been sent, from the start of the load."""
    first_s: float | None
    """Until its first text."""
    code: str
    reason: str = ""
    pushback_ms: int | None = None
    ended_s: float | None = None
    """When its answer was whole, from the start of the load."""
    unexplained: float | None = None
    """The part of the time that the caller measured and `server-timing` does not account for."""


def quantile(outcomes: list[Outcome], share: float) -> float:
    """Milliseconds to the first text, of those that were answered."""
    times = sorted(one.first_s for one in outcomes if one.first_s is not None)
    return 1e3 * times[min(len(times) - 1, math.ceil(share * len(times)) - 1)] if times else math.nan


class Load:
    """Sends requests to a gateway, as many tenants."""

    def __init__(self, address: str, tenants: dict[str, tuple[tuple[str, str], ...]]) -> None:
        self._stubs = {name: GatewayServiceStub(paced.channel(address)) for name in tenants}
        self._metadata = tenants
        stop = {"max_tokens": TOKENS, "ignore_eos": True}
        self._request = wire.CompleteRequest(prompt="Tell me more, and go on.", options={"stop": stop})

    async def run(self, rates: dict[str, float], seconds: float, seed: int) -> dict[str, list[Outcome]]:
        """Each tenant at its rate, all beside each other, until the last is answered."""
        calls = await self.send(rates, seconds, seed)
        return {name: await asyncio.gather(*sent) for name, sent in calls.items()}

    async def send(self, rates: dict[str, float], seconds: float, seed: int) -> dict[str, list[asyncio.Task[Outcome]]]:
        """The same, but until the arrivals stop: what was let in may still be on its way."""
        begun = time.monotonic() + 0.05
        streams = [self._stream(name, rate, seconds, begun, seed + at) for at, (name, rate) in enumerate(rates.items())]
        return dict(zip(rates, await asyncio.gather(*streams), strict=True))

    async def _stream(
        self, tenant: str, rate: float, seconds: float, begun: float, seed: int
    ) -> list[asyncio.Task[Outcome]]:
        draw = random.Random(seed)  # noqa: S311 (arrivals, not secrets)
        calls, at = [], draw.expovariate(rate)
        while at < seconds:
            await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
            calls.append(asyncio.create_task(self._one(tenant, begun, at)))
            at += draw.expovariate(rate)
        return calls

    async def _one(self, tenant: str, begun: float, at: float) -> Outcome:
        first, sent = None, time.monotonic()
        call = self._stubs[tenant].Complete(self._request, timeout=30, metadata=self._metadata[tenant])
        try:
            async for response in call:
                if first is None and response.WhichOneof("event") == "delta":
                    first = time.monotonic() - begun - at
        except grpc.aio.AioRpcError as error:
            return refusal(at, error)
        ended = time.monotonic()
        told = dict(await call.trailing_metadata())["server-timing"]
        total = float(told.rpartition("total;dur=")[2]) / 1e3
        return Outcome(at, first, "OK", ended_s=ended - begun, unexplained=1 - total / (ended - sent))


def refusal(at: float, error: grpc.aio.AioRpcError) -> Outcome:
    """What a refusal says to programs."""
    status = rpc_status.from_call(error)
    info, reason = error_details_pb2.ErrorInfo(), ""
    for detail in status.details if status else ():
        if detail.Unpack(info):
            reason = f"{info.reason} ({info.metadata['knob']})" if "knob" in info.metadata else info.reason
    trailers = dict(error.trailing_metadata())
    pushback = trailers.get("grpc-retry-pushback-ms")
    return Outcome(at, None, error.code().name, reason, int(pushback) if pushback else None)


class Report:
    """Lines, and bars that are met or not."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.missed = 0
        self.capacity = PLACES / (TOKENS * STEP_MS / 1000)
        """Requests a second that the engine can serve: what it should, until that was measured."""

    def say(self, line: str) -> None:
        """A line of the report."""
        print(line, flush=True)
        self.lines.append(line)

    def bar(self, what: str, value: float, most: float | None = None, least: float | None = None) -> None:
        """A figure against its bar."""
        met = (most is None or value <= most) and (least is None or value >= least)
        self.missed += not met
        bound = f"≤ {most:g}" if most is not None else f"≥ {least:g}"
        self.say(f"| {what} | {value:.3g} | {bound} | {'yes' if met else '**no**'} |")

    def table(self, title: str) -> None:
        """Begins a table of bars."""
        self.say(f"\n## {title}\n\n| what | value | bar | met |\n|---|---:|---:|---|")


async def overload(load: Load, report: Report, seconds: float) -> None:
    """Half the capacity, three times the capacity, half of it again."""
    calm = (await load.run({"one": 0.5 * report.capacity}, max(CALM_S, seconds / 2), 1))["one"]
    calls = (await load.send({"one": 3 * report.capacity}, seconds, 2))["one"]
    # At once: recovery counts from the last arrival, and what was let in before it is part of what is to be got over.
    after = (await load.run({"one": 0.5 * report.capacity}, 10, 3))["one"]
    over = await asyncio.gather(*calls)
    refused = [one for one in over if one.code != "OK"]
    report.table(f"Three times the capacity of {report.capacity:g} requests/s for {seconds:g} s")
    report.bar("p99 of TTFT, of that at half the capacity", quantile(over, 0.99) / quantile(calm, 0.99), most=2)
    report.bar("goodput, of the capacity", goodput(over, seconds) / report.capacity, least=0.9)
    told = sum(bool(one.reason and one.pushback_ms) for one in refused)
    report.bar("refusals that say why and when to come back", told / max(len(refused), 1), least=1)
    late = [one for one in after if one.at_s > 2]
    report.bar("answered at half the capacity, from 2 s after the overload's last arrival", share_ok(late), least=1)
    report.bar("p99 of TTFT there, of that before", quantile(late, 0.99) / quantile(calm, 0.99), most=1.5)
    parts = sorted(one.unexplained for one in calm + over if one.unexplained is not None)
    report.bar("p99 of the caller's time that server-timing does not explain", parts[int(0.99 * len(parts))], most=0.02)
    report.say(f"\nTTFT p50 and p99: {spread(calm)} ms calm, {spread(over)} ms in overload, {spread(late)} ms after.")
    report.say(f"{served(over)} served, {len(refused)} refused: {refusals(refused)}")
    waits = sorted(one.pushback_ms or 0 for one in refused)
    report.say(f"Told to come back after {waits[len(waits) // 2]} ms (median), {waits[-1]} ms at most.")


async def neighbours(load: Load, report: Report, seconds: float) -> None:
    """A quiet tenant alone, and beside one that asks ten times as much."""
    rate = 0.2 * report.capacity
    alone = (await load.run({"quiet": rate}, seconds, 4))["quiet"]
    both = await load.run({"quiet": rate, "noisy": 10 * rate}, seconds, 4)
    quiet, noisy = both["quiet"], both["noisy"]
    report.table("A quiet tenant beside one that asks ten times as much, twice what there is")
    report.bar("p50 of the quiet one's TTFT, of that alone", quantile(quiet, 0.5) / quantile(alone, 0.5), most=1.5)
    report.bar("of the quiet one's requests refused", 1 - share_ok(quiet), most=0.05)
    # What it asks beyond its half at a time is the other's as much as its own: these are the ones that may be refused.
    within = [one for one in quiet if not one.reason.startswith("TENANT_SHARE_FULL")]
    report.bar("of its requests within its fair share answered", share_ok(within), least=1)
    # What each got of what is fair: all it asks, or what the other leaves.
    got = [share_ok(quiet), goodput(noisy, seconds) / (report.capacity - rate)]
    report.bar("Jain index over what is fair", sum(got) ** 2 / (2 * sum(one * one for one in got)), least=0.95)
    report.bar("goodput, of the capacity", goodput(quiet + noisy, seconds) / report.capacity, least=0.85)
    report.say(
        f"\nTTFT p50 and p99: {spread(alone)} ms alone, {spread(quiet)} ms beside it; the noisy one {spread(noisy)} ms."
    )
    for name, outcomes in both.items():
        report.say(f"The {name} one: {served(outcomes)} served, refused {refusals(outcomes) or 'never'}.")


def refusals(outcomes: list[Outcome]) -> str:
    """How many were refused why."""
    reasons = Counter(f"{one.code} {one.reason}" for one in outcomes if one.code != "OK")
    return ", ".join(f"{n} x {why}" for why, n in reasons.items())


def served(outcomes: list[Outcome]) -> int:
    """How many were answered."""
    return sum(one.code == "OK" for one in outcomes)


def goodput(outcomes: list[Outcome], seconds: float) -> float:
    """Answers a second, of those that were whole within `seconds`: a load's last answers end when it is over."""
    return sum(one.ended_s is not None and one.ended_s <= seconds for one in outcomes) / seconds


def share_ok(outcomes: list[Outcome]) -> float:
    """Which part was answered."""
    return served(outcomes) / max(len(outcomes), 1)


def spread(outcomes: list[Outcome]) -> str:
    """Median and 99th percentile."""
    return f"{quantile(outcomes, 0.5):.0f} and {quantile(outcomes, 0.99):.0f}"


async def measure(mesh: paced.Mesh, keys: dict[str, str], report: Report, seconds: float) -> None:
    """All of it."""
    load = Load(mesh.address["gateway"], {name: (("authorization", f"Bearer {key}"),) for name, key in keys.items()})
    report.capacity = capacity(mesh.address["inference"])
    report.say(
        f"\nThe engine, asked directly by twice as many as it has places, serves {report.capacity:.2f} requests/s."
    )
    await load.run({"one": 0.5 * report.capacity}, 3, 0)
    await overload(load, report, seconds)
    await neighbours(load, report, seconds)


def capacity(address: str) -> float:
    """Requests a second that the engine serves while somebody always waits for a place."""
    found = OUT / "capacity.json"
    command = [
        *[paced.BINARIES / "weft", "--run-dir", OUT / "run", "--color", "never", "bench", "--json", found],
        *["--target", "inference", "--address", f"http://{address}", "--prompt-tokens", "16", "--ignore-eos"],
        *["--max-tokens", str(TOKENS), "--concurrency", str(2 * PLACES), "--requests", str(10 * PLACES)],
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    told = json.loads(found.read_text())
    return told["requests"]["total"] / told["duration_s"]


def create_keys(file: Path) -> dict[str, str]:
    """A key for each tenant, which the gateway reads from `file`."""
    file.unlink(missing_ok=True)
    command = [paced.BINARIES / "weft", "key", "create", "--file", file, "--tenant"]
    return {name: subprocess.check_output([*command, name], text=True).strip() for name in TENANTS}


def main() -> int:
    """Starts a mesh, measures, and says whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long the overload lasts")
    arguments = parser.parse_args()
    report = Report()
    report.say(
        f"# Overload: {PLACES} places, {TOKENS} tokens of {STEP_MS} ms each; load before {os.getloadavg()[0]:.2f}"
    )
    settings = {
        "gateway": {
            "admission__max_running": str(PLACES),
            "auth__mode": "required",
            "auth__keys__file": str(OUT / "keys.toml"),
        },
        "inference": {"scheduler__max_sequences": str(PLACES), "paced__step": f"{STEP_MS}ms"},
    }
    keys = create_keys(OUT / "keys.toml")
    with paced.Mesh("paced", settings) as mesh:
        asyncio.run(measure(mesh, keys, report, arguments.seconds))
    (OUT / "overload.md").write_text("\n".join(report.lines) + "\n")
    return min(report.missed, 1)


if __name__ == "__main__":
    sys.exit(main())
