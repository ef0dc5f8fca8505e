"""Generates the official Python client from the contracts, and starts the mesh that all tests talk to."""

import sys
from collections.abc import Iterator

import grpc
import pytest
from mesh import GENERATED, Mesh, generate_client

generate_client()
sys.path.insert(0, str(GENERATED))

from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub  # noqa: E402
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full` makes tests that take a number of rounds take many."""
    parser.addoption("--full", action="store_true", help="many rounds where a few are the rule")
    parser.addoption("--dtype", default="f32", help="the type of the model's weights where replicas are lost")


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """The real mesh with the default model and Jaeger, on ports of its own."""
    mesh = Mesh()
    try:
        mesh.up()
        yield mesh
    finally:
        mesh.down()


@pytest.fixture
def channel(mesh: Mesh) -> Iterator[grpc.Channel]:
    """A channel to the gateway."""
    with mesh.channel("gateway") as channel:
        yield channel


@pytest.fixture
def gateway(channel: grpc.Channel) -> GatewayServiceStub:
    """The public API."""
    return GatewayServiceStub(channel)


@pytest.fixture
def inference(mesh: Mesh) -> Iterator[InferenceServiceStub]:
    """Inference, asked directly."""
    with mesh.channel("inference") as channel:
        yield InferenceServiceStub(channel)
