"""Who is asking, and how much they may use: a gateway that asks for keys, in front of the services of the mesh."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from conversation import LENGTH, ask, collect
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from mesh import BINARIES, Mesh, eventually
from service import Service
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

LIMIT = 300
LIMITS = f"""
[[limits]]
tenant = "acme"
tokens = {LIMIT}
"""


@dataclass
class Place:
    """A gateway that asks for keys."""

    gateway: GatewayServiceStub
    keys: Path
    log: Path
    mesh: Mesh

    def key(self, tenant: str) -> str:
        """A new key of a tenant, as its operator makes one; not yet in force."""
        printed = self.mesh.weft("key", "create", "--tenant", tenant, "--file", str(self.keys))
        (key,) = [line for line in printed.splitlines() if line.startswith("weft_")]
        return key

    def chat(self, request: weft.ChatRequest, key: str | None) -> Iterator[weft.ChatResponse]:
        """Asks with a key."""
        return self.gateway.Chat(request, timeout=60, metadata=[("authorization", f"Bearer {key}")] if key else [])

    def is_let_in(self, key: str) -> bool:
        """Whether a key is in force."""
        metadata = [("x-api-key", key)]
        try:
            return bool(self.gateway.ListModels(weft.ListModelsRequest(), timeout=10, metadata=metadata).models)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
            return False


@pytest.fixture(scope="module")
def place(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A gateway with one key, of nobody who matters, and a limit for `acme`."""
    folder = tmp_path_factory.mktemp("auth")
    keys, limits, log = folder / "keys.toml", folder / "quota.toml", folder / "gateway.log"
    limits.write_text(LIMITS)
    mesh.weft("key", "create", "--tenant", "other", "--file", str(keys))
    settings = {f"{peer}__address": f"http://{mesh.address(peer)}" for peer in ("tokenizer", "inference", "safety")}
    settings |= {"auth__mode": "required", "auth__keys__file": str(keys), "auth__keys__check_every": "100ms"}
    settings |= {"quota__file": str(limits), "quota__window": "1h"}
    with Service(BINARIES, "gateway", log, **settings) as channel:
        yield Place(GatewayServiceStub(channel), keys, log, mesh)


def refusal(call: Iterator[weft.ChatResponse]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return caught.value


def details(error: grpc.RpcError) -> dict[str, object]:
    """The `google.rpc` details of a refusal, by their names."""
    status = rpc_status.from_call(error)
    assert status is not None, "the error carries no google.rpc.Status"
    found = {}
    for detail in status.details:
        name = detail.type_url.rsplit(".", 1)[-1]
        found[name] = getattr(error_details_pb2, name)()
        assert detail.Unpack(found[name])
    return found


def test_a_key_works_and_a_wrong_one_does_not(place: Place) -> None:
    key = place.key("zenith")
    eventually(lambda: place.is_let_in(key), 30, "the new key is in force")
    assert collect(place.chat(ask("hello", max_tokens=4), key)).finished.usage.completion_tokens >= 1
    for wrong, reason in (
        (key[:-1], "CREDENTIALS_INVALID"),
        ("weft_", "CREDENTIALS_INVALID"),
        (None, "CREDENTIALS_MISSING"),
    ):
        error = refusal(place.chat(ask("hello"), wrong))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert details(error)["ErrorInfo"].reason == reason
    assert key not in place.log.read_text(), "a key is in the log"
    assert key not in place.keys.read_text(), "a key is in the file"


def test_a_key_that_is_taken_out_works_no_more(place: Place) -> None:
    before = place.keys.read_text()
    key = place.key("brief")
    eventually(lambda: place.is_let_in(key), 30, "the new key is in force")
    place.keys.write_text(before)
    eventually(lambda: not place.is_let_in(key), 30, "the key is withdrawn")


def test_a_tenant_over_its_quota_is_told_all_about_it(place: Place) -> None:
    key = place.key("acme")
    eventually(lambda: place.is_let_in(key), 30, "the new key is in force")
    answer = collect(place.chat(ask("hello", max_tokens=100, ignore_eos=True), key))
    assert answer.finished.reason == LENGTH
    used = answer.finished.usage.prompt_tokens + answer.finished.usage.completion_tokens

    error = refusal(place.chat(ask("hello", max_tokens=200, ignore_eos=True), key))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    said = details(error)
    assert said["ErrorInfo"].reason == "QUOTA_TOKENS"
    facts = said["ErrorInfo"].metadata
    assert (facts["limit"], facts["used"], facts["reserved"]) == (str(LIMIT), str(used), "0")
    (violation,) = said["QuotaFailure"].violations
    assert violation.subject.startswith("tenant:acme model:")
    assert str(used) in violation.description
    delay = said["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
    assert 3000 < delay <= 3660
    pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert abs(int(pushback) - 1000 * delay) < 1000

    # Whoever does not say how much it needs gets what is left, to the token.
    answer = collect(
        place.chat(weft.ChatRequest(messages=ask("hello").messages, options={"stop": {"ignore_eos": True}}), key)
    )
    assert answer.finished.reason == LENGTH
    assert answer.finished.quota_reached
    usage = answer.finished.usage
    assert used + usage.prompt_tokens + usage.completion_tokens == LIMIT
