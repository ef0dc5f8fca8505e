"""Every answer says what its caller was kept waiting by, and it is all within what the caller measures."""

import time

from conversation import ask
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

REQUESTS = 30
PHASES = {
    *("gateway", "admission", "tokenizer", "screening", "queue", "prefill", "decode", "hold", "network", "client")
}
# Ten figures of three decimals are summed.
ROUNDING_MS = 0.01


def timed(gateway: GatewayServiceStub, number: int) -> tuple[dict[str, float], float]:
    """What the trailer says and what a clock beside it says, in milliseconds."""
    began = time.monotonic()
    call = gateway.Chat(ask(f"Count from {number} upwards.", max_tokens=16, ignore_eos=True), timeout=120)
    for _ in call:
        pass
    took = 1e3 * (time.monotonic() - began)
    told = dict(call.trailing_metadata())["server-timing"]
    return {name: float(value) for name, value in (one.split(";dur=") for one in told.split(", "))}, took


def test_phases_add_up_and_are_part_of_what_the_caller_measures(gateway: GatewayServiceStub) -> None:
    for number in range(REQUESTS):
        told, took = timed(gateway, number)
        total = told.pop("total")
        assert told.keys() == PHASES
        assert abs(sum(told.values()) - total) < ROUNDING_MS
        assert total <= took, f"{told} in {took} ms"
        assert told["tokenizer"] > 0 and told["prefill"] > 0 and told["decode"] > 0, told
