"""Rounds of requests, and what the times of their tokens come to."""

import math
import random
import statistics
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

# Ids that are plain words and pieces in the default model's vocabulary: no special tokens.
IDS = range(1_000, 40_000)
# What is too much for the results.
UNKEPT = ("tokens_s", "sent_s")


@dataclass(frozen=True)
class Request:
    """A prompt by its ids, how many tokens to make, and when it comes."""

    prompt: tuple[int, ...]
    max_tokens: int
    delay_s: float = 0.0


@dataclass(frozen=True)
class Round:
    """Requests that run together: `in_flight` at once, the next when one ends."""

    requests: tuple[Request, ...]
    in_flight: int

    def as_json(self) -> dict[str, Any]:
        """As the workers read it."""
        requests = [
            {"prompt": list(one.prompt), "max_tokens": one.max_tokens, "delay_s": one.delay_s} for one in self.requests
        ]
        return {"requests": requests, "in_flight": self.in_flight}

    def uniform(self) -> tuple[int, int, int]:
        """Prompt length, output length and number, where all requests are alike and run at once."""
        shapes = {(len(one.prompt), one.max_tokens, one.delay_s) for one in self.requests}
        if len(shapes) != 1 or self.in_flight < len(self.requests):
            raise ValueError("the requests of this round are not alike")
        ((prompt, output, _),) = shapes
        return prompt, output, len(self.requests)


def ids(seed: str, count: int) -> tuple[int, ...]:
    """The same ids for the same seed."""
    draw = random.Random(seed)  # noqa: S311 (prompts, not secrets)
    return tuple(draw.choice(IDS) for _ in range(count))


def plain(seed: str, streams: int, prompt: int, output: int) -> Round:
    """Streams that all begin at once, each with a prompt of its own."""
    requests = (Request(ids(f"{seed} {index}", prompt), output) for index in range(streams))
    return Round(tuple(requests), streams)


@dataclass(frozen=True)
class Turn:
    """What one turn of one contender came to."""

    output_per_s: float
    """Output tokens a second from the first request to the last token, prompts included."""
    decode_per_s: float
    """Output tokens a second of one stream after its first (llama.cpp: of all streams)."""
    ttft_p50_s: float
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    """What else the contender said."""
    tokens_s: list[list[float]] = field(default_factory=list, repr=False)
    """When each token of each request came; not kept in the results."""
    sent_s: list[float] = field(default_factory=list, repr=False)
    """When each request was sent; not kept either."""

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        kept = {
            key: value for key, value in vars(self).items() if key not in ("tokens_s", "sent_s") and value is not None
        }
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in kept.items()}


def turn_of_times(asked: Round, found: dict[str, Any]) -> Turn:
    """What the times of all tokens come to. Ends the bench where a token is missing."""
    requests = found["requests"]
    counts = [len(one["tokens_s"]) for one in requests]
    wanted = [one.max_tokens for one in asked.requests]
    if counts != wanted:
        raise ValueError(f"tokens came {counts}, asked for were {wanted}")
    streams = [one["tokens_s"] for one in requests]
    gaps = [after - before for times in streams for before, after in pairwise(times)]
    decode = [(len(times) - 1) / (times[-1] - times[0]) for times in streams if len(times) > 1 and times[-1] > times[0]]
    return Turn(
        output_per_s=sum(counts) / max(max(times) for times in streams),
        decode_per_s=statistics.median(decode) if decode else math.nan,
        ttft_p50_s=statistics.median(one["tokens_s"][0] - one["sent_s"] for one in requests),
        itl_p50_s=quantile(gaps, 0.5) if gaps else None,
        itl_p99_s=quantile(gaps, 0.99) if gaps else None,
        raw={key: value for key, value in found.items() if key != "requests"},
        tokens_s=streams,
        sent_s=[one["sent_s"] for one in requests],
    )


def quantile(values: list[float], share: float) -> float:
    """The smallest value that is not below this share of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
