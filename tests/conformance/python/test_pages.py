"""What operators read: metrics, health, and the API's own description."""

import re

import grpc
import pytest
from conversation import ask, collect
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from mesh import SERVICES, Mesh
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

NAMES = {service: f"weft.{service}.v1.{service.capitalize()}Service" for service in SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_valid_openmetrics(mesh: Mesh, gateway: GatewayServiceStub, service: str) -> None:
    collect(gateway.Chat(ask("hello", max_tokens=2), timeout=60))
    families = list(text_string_to_metric_families(mesh.page(service, "/metrics")))
    assert families
    for family in families:
        # What the Gateway API Inference Extension reads has vLLM's names.
        assert re.fullmatch(r"(weft_|vllm:)[a-z0-9_]+", family.name), family.name
        assert family.documentation, f"{family.name} has no help"
    counted = [sample.value for family in families for sample in family.samples if sample.name.endswith("_total")]
    assert any(value > 0 for value in counted), "a chat left no count"


@pytest.mark.parametrize("service", SERVICES)
def test_a_ready_service_says_so_everywhere(mesh: Mesh, service: str) -> None:
    assert mesh.page(service, "/livez")
    assert '"ready":true' in mesh.page(service, "/readyz").replace(" ", "")
    with mesh.channel(service) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAMES[service]):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name or "the server as a whole"
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="weft.nothing"), timeout=5)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", SERVICES)
def test_reflection_describes_the_api_with_its_comments(mesh: Mesh, service: str) -> None:
    with mesh.channel(service) as channel:
        listed = reflect(channel, list_services="")
        names = {entry.name for entry in listed.list_services_response.service}
        assert {NAMES[service], "grpc.health.v1.Health"} <= names
        described = reflect(channel, file_containing_symbol=NAMES[service])
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in described.file_descriptor_response.file_descriptor_proto
    ]
    (own,) = [file for file in files if file.package == f"weft.{service}.v1"]
    comments = [location.leading_comments for location in own.source_code_info.location]
    assert any(comments), "reflection is the documentation of the API, so it must hold the comments"


def test_old_clients_find_the_api_by_the_reflection_that_they_speak(mesh: Mesh) -> None:
    with mesh.channel("gateway") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert NAMES["gateway"] in database.get_services()
        file = database.FindFileContainingSymbol(NAMES["gateway"])
    assert file.package == "weft.gateway.v1"


def reflect(channel: grpc.Channel, **request: str) -> reflection_pb2.ServerReflectionResponse:
    """Asks `grpc.reflection.v1`; its messages are those of v1alpha, which is all that the Python package brings."""
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return next(call(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10))
