"""A client with a retry policy of its own comes back when the gateway says, and not when the gateway says never."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from conversation import ask, collect
from mesh import BINARIES, Mesh
from service import Service
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

# Left to itself, it tries everything within a few milliseconds.
HASTY = {
    "methodConfig": [
        {
            "name": [{"service": "weft.gateway.v1.GatewayService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.001s",
                "maxBackoff": "0.001s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
LIMITS = """
[[limits]]
model = "smollm2-135m-instruct"
requests = 1
tokens = 1000
"""


@dataclass
class Place:
    """A gateway that lets one request begin every few seconds."""

    service: Service
    stub: GatewayServiceStub

    def refusals(self, limit: str) -> int:
        """Requests that were refused for this limit."""
        row = f'weft_gateway_quota_refusals_total{{tenant="other",limit="{limit}"}}'
        lines = self.service.page("/metrics").splitlines()
        return sum(int(line.split()[-1]) for line in lines if line.startswith(row))


@pytest.fixture
def place(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A gateway with limits, and a client with a retry policy."""
    folder = tmp_path_factory.mktemp("pushback")
    (folder / "quota.toml").write_text(LIMITS)
    settings = {f"{peer}__address": f"http://{mesh.address(peer)}" for peer in ("tokenizer", "inference", "safety")}
    settings |= {"quota__file": str(folder / "quota.toml"), "quota__window": "4s"}
    service = Service(BINARIES, "gateway", folder / "log", **settings)
    with service, grpc.insecure_channel(service.address, [("grpc.service_config", json.dumps(HASTY))]) as channel:
        yield Place(service, GatewayServiceStub(channel))


def test_a_client_comes_back_when_it_was_told_to(place: Place) -> None:
    def call() -> int:
        answer = collect(place.stub.Chat(ask("hello", max_tokens=2), timeout=60))
        return answer.finished.usage.completion_tokens

    # Both begin at once, so one of them is refused; hasty as it is, it would be twice more if it did not wait.
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(call), pool.submit(call)]
        assert all(answer.result() >= 1 for answer in answers)
    assert place.refusals("requests") >= 1


def test_a_client_that_was_told_never_does_not_come_back(place: Place) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(place.stub.Chat(ask("hello", max_tokens=2000), timeout=60))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    assert place.refusals("tokens") == 1
