"""What the peers in Python have in common: rounds of requests in, the time of every token out, one JSON line each.

The same protocol as `engine_bench` of `services/inference/examples`, so that all are measured alike. Runs inside a
peer's own environment and needs nothing but Python.
"""

import json
import os
import sys
import time
from collections import deque
from typing import Any, Protocol, TextIO


class Engine(Protocol):
    """A peer, driven step by step in this process."""

    def add(self, key: int, prompt: list[int], max_tokens: int) -> None:
        """Takes a request: greedy, past end tokens."""

    def step(self) -> dict[int, int]:
        """Goes one step; gives how many tokens came for which request."""


def private_stdout() -> TextIO:
    """Gives what was standard output; whatever else is printed from now on goes to standard error."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return lines


def serve(lines: TextIO, engine: Engine, about: dict[str, Any]) -> None:
    """Answers rounds until the input ends."""

    def say(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=lines, flush=True)

    say({"ready": True} | about)
    keys = 0
    for line in sys.stdin:
        asked = json.loads(line)
        say(run(engine, asked, keys))
        # Some engines remember the keys of old requests.
        keys += len(asked["requests"])


def run(engine: Engine, asked: dict[str, Any], first_key: int) -> dict[str, Any]:
    """Runs one round."""
    requests = asked["requests"]
    found: list[dict[str, Any]] = [{"sent_s": 0.0, "tokens_s": []} for _ in requests]
    waiting, running = deque(range(len(requests))), set[int]()
    began = time.perf_counter()

    def now() -> float:
        return time.perf_counter() - began

    while waiting or running:
        while waiting and len(running) < asked["in_flight"]:
            if requests[waiting[0]].get("delay_s", 0.0) > now():
                break
            index = waiting.popleft()
            found[index]["sent_s"] = now()
            engine.add(first_key + index, requests[index]["prompt"], requests[index]["max_tokens"])
            running.add(index)
        if not running:
            time.sleep(max(requests[waiting[0]]["delay_s"] - now(), 0))
            continue
        for key, count in engine.step().items():
            index = key - first_key
            times = found[index]["tokens_s"]
            times.extend([now()] * count)
            if len(times) >= requests[index]["max_tokens"]:
                running.discard(index)
    return {"wall_s": now(), "requests": found}
