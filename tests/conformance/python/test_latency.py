"""Every answer says what its caller was kept waiting by: all that the caller measures, but for the way there."""

import json
import socket
import statistics
import time
from urllib.parse import urlsplit

from conversation import ask
from mesh import Mesh
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

REQUESTS = 9
# So that an answer takes a few hundred milliseconds, and a part of it means something.
TOKENS = 32
PHASES = {
    *("gateway", "admission", "tokenizer", "screening", "queue", "prefill", "decode", "hold", "network", "client")
}
# Ten figures of three decimals are summed.
ROUNDING_MS = 0.01
UNEXPLAINED = 0.02
# The way to the gateway and back and the client's own work take as long for a short answer as for a long one: about
# 1 ms, which may be more than the part above of an answer this short. (`make bench-overload` has the p99 without it.)
SLACK_MS = 5


def phases(told: str) -> tuple[dict[str, float], float]:
    """What a trailer says, in milliseconds: each phase, and the whole time, of which they are the parts."""
    parts = {name: float(value) for name, value in (one.split(";dur=") for one in told.split(", "))}
    total = parts.pop("total")
    assert parts.keys() == PHASES
    assert abs(sum(parts.values()) - total) < ROUNDING_MS
    assert parts["tokenizer"] > 0 and parts["prefill"] > 0 and parts["decode"] > 0, parts
    return parts, total


def beyond(told: str, took: float) -> float:
    """Milliseconds that the phases do not account for, beyond the part of the time that may be missing."""
    parts, total = phases(told)
    assert total <= took, f"{parts} in {took} ms"
    return took - total - UNEXPLAINED * took


def account_for(answers: list[tuple[str, float]]) -> None:
    """The median: that one client is not given its processor in time says nothing about what it is told."""
    missing = statistics.median(beyond(told, took) for told, took in answers)
    assert missing <= SLACK_MS, f"{missing:.2f} ms more than {UNEXPLAINED:.0%} are unaccounted for"


def by_grpc(gateway: GatewayServiceStub, number: int) -> tuple[str, float]:
    """What the trailer says, and the milliseconds by a clock beside it."""
    began = time.monotonic()
    call = gateway.Chat(ask(f"Count from {number} upwards.", max_tokens=TOKENS, ignore_eos=True), timeout=120)
    for _ in call:
        pass
    took = 1e3 * (time.monotonic() - began)
    return dict(call.trailing_metadata())["server-timing"], took


def by_http(base: str) -> tuple[str, float]:
    """The same of an event stream. Python's own HTTP client drops trailers, so these are read from the socket."""
    url = urlsplit(base)
    message = {"role": "user", "content": "Count upwards."}
    body = {"model": "", "messages": [message], "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
    content = json.dumps(body).encode()
    head = f"POST {url.path}/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(content)}\r\nte: trailers\r\nconnection: te, close\r\n\r\n"
    with socket.create_connection((url.hostname, url.port), timeout=120) as peer:
        began = time.monotonic()
        peer.sendall(head.encode() + content)
        answer = b"".join(iter(lambda: peer.recv(65536), b"")).decode()
        took = 1e3 * (time.monotonic() - began)
    assert answer.startswith("HTTP/1.1 200 OK\r\n"), answer
    events, _, trailers = answer.rpartition("\r\n0\r\n")
    assert "data: [DONE]" in events
    (told,) = (line.removeprefix("server-timing: ") for line in trailers.split("\r\n") if line)
    return told, took


def test_phases_account_for_what_the_caller_measures(gateway: GatewayServiceStub) -> None:
    account_for([by_grpc(gateway, number) for number in range(REQUESTS)])


def test_phases_account_for_what_a_caller_by_http_measures(mesh: Mesh) -> None:
    account_for([by_http(mesh.openai()) for _ in range(REQUESTS)])
