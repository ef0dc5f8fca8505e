"""A race: contenders take turns at the same round, and Weft's median is held against the best peer's."""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contenders import Contender, MissingError, Pool
from measure import Round, Turn
from places import QUALITY

# What a turn is judged by, and whether more is better.
MORE_IS_BETTER = {"output_per_s": True, "decode_per_s": True, "ttft_p50_s": False}
WORDS = {"output_per_s": "output tokens/s", "decode_per_s": "decode tokens/s", "ttft_p50_s": "time to first token"}


@dataclass(frozen=True)
class Bar:
    """What the issue asks: Weft's figure over the best peer's, at least (where more is better) or at most."""

    metric: str
    ratio: float


@dataclass(frozen=True)
class Race:
    """The contenders and their round; `shape` makes it from a seed, so that no two turns share a prompt."""

    name: str
    title: str
    weft: tuple[Contender, ...]
    peers: tuple[Contender, ...]
    shape: Callable[[str], Round]
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()
    prepare: Callable[[str], Round] | None = None
    """What each is asked before each turn, uncounted."""


@dataclass
class Result:
    """What a cell found, ready for JSON."""

    name: str
    title: str
    contenders: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self, what: str, value: float | None, bar: float, at_least: bool, why: str = "") -> None:
        """Notes whether a bar is met; a value that could not be had is neither met nor missed."""
        met = None if value is None else (value >= bar if at_least else value <= bar)
        self.checks.append({"what": what, "value": value, "bar": bar, "at_least": at_least, "met": met, "why": why})

    def add(self, label: str, turns: list[Turn], about: dict[str, Any]) -> None:
        """Notes a contender's turns and their medians."""
        medians = {
            metric: statistics.median(getattr(turn, metric) for turn in turns)
            for metric in (*MORE_IS_BETTER, "itl_p50_s", "itl_p99_s")
            if all(getattr(turn, metric) is not None for turn in turns)
        }
        self.contenders[label] = {"median": medians, "turns": [turn.as_json() for turn in turns], "about": about}


def run(race: Race, pool: Pool, turns: int) -> Result:
    """Lets all take turns, and judges."""
    result = Result(race.name, race.title, notes=list(race.notes))
    contenders = [*race.weft, *race.peers]
    there, result.missing = pool.need(contenders)
    found: dict[str, list[Turn]] = {label: [] for label in there}
    # The first is not counted: caches, pages and thread pools are cold.
    for turn in range(turns + 1):
        for contender in contenders:
            label = contender.label
            if label not in there or label in result.missing:
                continue
            try:
                seed = f"{race.name} {turn} {label}"
                if race.prepare is not None:
                    there[label].turn(race.prepare(seed))
                came = there[label].turn(race.shape(seed))
            except (MissingError, ValueError, BrokenPipeError) as why:
                result.missing[label] = f"failed: {why}"
                pool.drop(contender, f"failed: {why}")
                continue
            if turn > 0:
                found[label].append(came)
    for label, came in found.items():
        if label not in result.missing:
            result.add(label, came, there[label].about)
    result.notes += gate_notes(race)
    for bar in race.bars:
        judge(race, result, bar)
    return result


def inside_gate(weights: str) -> bool | None:
    """Whether a format of Weft's keeps the model's quality, by the report of `make quality`; None without one."""
    if not QUALITY.exists():
        return None
    for one in json.loads(QUALITY.read_text())["formats"]:
        if one["name"] == weights:
            return one["bound"] is None or one["above_bf16"] <= one["bound"]
    return None


def gate_notes(race: Race) -> list[str]:
    """What is known of the quality of Weft's smaller formats."""
    outside = "outside" if len(race.weft) == 1 else "outside (so not judged among others)"
    verdicts = {True: "inside", False: outside, None: "not known to be inside (`make quality`)"}
    smaller = [one.format for one in race.weft if one.format != "bf16"]
    return [f"weft {one}: {verdicts[inside_gate(one)]} the quality gate" for one in smaller]


def judge(race: Race, result: Result, bar: Bar) -> None:
    """Holds Weft's best format against the best peer: of several only those inside the quality gate."""
    more = MORE_IS_BETTER[bar.metric]
    judged = [one for one in race.weft if len(race.weft) == 1 or inside_gate(one.format) is not False]
    weft = best(result, [one.label for one in judged], bar.metric)
    peer = best(result, [one.label for one in race.peers], bar.metric)
    what = WORDS[bar.metric]
    if weft is None or peer is None:
        why = "; ".join(f"{label}: {text}" for label, text in result.missing.items())
        result.check(what, None, bar.ratio, more, why)
        return
    ratio = weft[1] / peer[1]
    result.check(f"{what}, {weft[0]} over {peer[0]}", ratio, bar.ratio, more)


def best(result: Result, labels: list[str], metric: str) -> tuple[str, float] | None:
    """The best of these contenders, and its median."""
    medians = [(label, result.contenders[label]["median"][metric]) for label in labels if label in result.contenders]
    pick = max if MORE_IS_BETTER[metric] else min
    return pick(medians, key=lambda one: one[1]) if medians else None
