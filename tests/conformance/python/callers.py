"""Callers that ask on, each in a thread of its own, while a test does something to what they call."""

import threading
from collections.abc import Callable
from typing import Self


class Callers:
    """Runs `ask(index, stopped)` for each caller until the context is left; `stopped` says when that is."""

    def __init__(self, count: int, ask: Callable[[int, threading.Event], None]) -> None:
        """Nobody asks yet."""
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=ask, args=(index, self._stopped)) for index in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
