"""Bytes that are not what the contract says: a precise status, and nobody else notices."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from conversation import ask, collect
from mesh import Mesh
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

CHAT = "/weft.gateway.v1.GatewayService/Chat"
ENCODE = "/weft.tokenizer.v1.TokenizerService/Encode"
GENERATE = "/weft.inference.v1.InferenceService/Generate"
SCREEN = "/weft.safety.v1.SafetyService/Screen"
METHODS = [("gateway", CHAT), ("tokenizer", ENCODE), ("inference", GENERATE), ("safety", SCREEN)]

# Field 1 is a string of one byte that is not UTF-8: `model` of ChatRequest, `text` of Encode and Screen.
INVALID_UTF8 = b"\x0a\x01\xff"
MALFORMED = {
    "a field that ends early": b"\x0a\xff\x01abc",
    "an endless varint": b"\xff" * 12,
    "wire type seven": b"\x0f",
    "a group that never ends": b"\x0b" * 200,
}


def send_raw(channel: grpc.Channel, method: str, message: bytes) -> grpc.RpcError:
    """Sends bytes as they are, as a broken client would, and returns the refusal."""
    call = channel.unary_stream(method)(message, timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return caught.value


@pytest.fixture
def bystander(gateway: GatewayServiceStub) -> Iterator[None]:
    """Somebody else's chat on the same connection, which must end as if nothing had happened."""
    with ThreadPoolExecutor(1) as pool:
        chat = pool.submit(lambda: collect(gateway.Chat(ask("Count to ten.", max_tokens=32), timeout=60)))
        yield
        assert chat.result().finished is not None


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("message", MALFORMED.values(), ids=list(MALFORMED))
@pytest.mark.parametrize(("service", "method"), METHODS, ids=[service for service, _ in METHODS])
def test_malformed_protobuf_is_the_callers_mistake(mesh: Mesh, service: str, method: str, message: bytes) -> None:
    with mesh.channel(service) as channel:
        error = send_raw(channel, method, message)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(("service", "method"), [("gateway", CHAT), ("tokenizer", ENCODE)])
def test_invalid_utf8_is_the_callers_mistake(mesh: Mesh, service: str, method: str) -> None:
    with mesh.channel(service) as channel:
        error = send_raw(channel, method, INVALID_UTF8)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(("service", "method"), METHODS, ids=[service for service, _ in METHODS])
def test_an_oversize_message_is_refused(mesh: Mesh, service: str, method: str) -> None:
    with mesh.channel(service) as channel:
        error = send_raw(channel, method, b"\x0a" + b"\x80\xda\xc4\x09" + b"a" * 20_000_000)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    error = send_raw(channel, "/weft.gateway.v1.GatewayService/Divine", b"")
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x00" * 4096])
def test_a_peer_that_speaks_no_http2_is_hung_up_on(mesh: Mesh, garbage: bytes) -> None:
    host, _, port = mesh.address("gateway").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(garbage)
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            pass
