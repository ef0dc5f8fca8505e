"""Ports for processes that are told where to listen."""

import itertools
import random
import socket
import threading

# Below those that systems hand out to whoever connects (from 32768 on Linux, 49152 elsewhere): one of these would be
# taken now and then by a connection of another process, before its service listens or while it is being restarted.
# Above what well-known services use.
FIRST, LAST = 20_000, 30_000
_candidates = itertools.cycle(random.sample(range(FIRST, LAST), LAST - FIRST))
_lock = threading.Lock()


def free_port() -> int:
    """A port of this machine that nobody listens on, and that was not given before."""
    with _lock:
        return next(port for port in itertools.islice(_candidates, LAST - FIRST) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a port of this machine can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
