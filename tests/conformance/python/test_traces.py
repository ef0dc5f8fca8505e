"""One trace per request over all services, found through Jaeger's query API, and never a word of the prompt in it."""

import json
import secrets
from typing import Any

from conversation import ask, collect
from mesh import Mesh, eventually
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

# A word that no span would hold by chance.
PRIVATE = "zanzibarquux"
SERVICES = {"weft-gateway", "weft-tokenizer", "weft-safety", "weft-inference"}


class Trace:
    """A trace as Jaeger tells it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.text = json.dumps(document)
        processes = {key: process["serviceName"] for key, process in document["processes"].items()}
        self.spans = [span | {"service": processes[span["processID"]]} for span in document["spans"]]

    @property
    def services(self) -> set[str]:
        """The services that took part."""
        return {span["service"] for span in self.spans}

    def named(self, service: str, name: str) -> list[dict[str, Any]]:
        """The attributes of a service's spans of one name."""
        found = [span for span in self.spans if (span["service"], span["operationName"]) == (service, name)]
        return [{tag["key"]: tag["value"] for tag in span["tags"]} for span in found]


def find(mesh: Mesh, trace_id: str, caller: str) -> Trace | None:
    """The trace, once it is whole: services send their spans in batches, and an outer span ends after an inner one."""
    try:
        (document,) = mesh.jaeger(f"/api/traces/{trace_id}")["data"]
    except OSError:
        return None
    trace = Trace(document)
    known = {span["spanID"] for span in trace.spans} | {caller}
    parents = {
        reference["spanID"]
        for span in trace.spans
        for reference in span["references"]
        if reference["refType"] == "CHILD_OF"
    }
    return trace if trace.services == SERVICES and parents <= known else None


def traced_chat(mesh: Mesh, gateway: GatewayServiceStub) -> tuple[Trace, str]:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    metadata = [("traceparent", f"00-{trace_id}-{caller}-01")]
    request = ask(f"What is a {PRIVATE}?", max_tokens=12, ignore_eos=True)
    collect(gateway.Chat(request, timeout=60, metadata=metadata))
    trace = eventually(lambda: find(mesh, trace_id, caller), 20, "the trace is whole, with all four services")
    assert caller in trace.text, "the caller's own span is nobody's parent"
    return trace, trace_id


def test_one_trace_covers_all_four_services(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    trace, _ = traced_chat(mesh, gateway)
    for name in ("queue", "prefill", "decode"):
        assert len(trace.named("weft-inference", name)) == 1, name
    (generate,) = trace.named("weft-gateway", "generate")
    assert generate["gen_ai.operation.name"] == "chat"
    assert generate["gen_ai.request.model"] == "smollm2-135m-instruct"
    assert generate["gen_ai.usage.output_tokens"] == 12
    (decode,) = trace.named("weft-inference", "decode")
    assert decode["gen_ai.usage.output_tokens"] == 12


def test_every_hop_has_a_server_span_with_its_method_and_code(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    trace, _ = traced_chat(mesh, gateway)
    calls = [
        {tag["key"]: tag["value"] for tag in span["tags"]} | {"service": span["service"]}
        for span in trace.spans
        if any(tag["key"] == "rpc.method" for tag in span["tags"])
    ]
    served = {(call["service"], call["rpc.method"]) for call in calls if call.get("span.kind") == "server"}
    assert ("weft-gateway", "weft.gateway.v1.GatewayService/Chat") in served
    assert ("weft-inference", "weft.inference.v1.InferenceService/Generate") in served
    assert {service for service, _ in served} == SERVICES
    assert {call["rpc.response.status_code"] for call in calls} == {"OK"}


def test_no_word_of_prompt_or_answer_is_in_a_trace(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    trace, _ = traced_chat(mesh, gateway)
    assert PRIVATE not in trace.text


def test_the_command_line_shows_the_trace(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    _, trace_id = traced_chat(mesh, gateway)
    shown = mesh.weft("trace", trace_id)
    for word in ("gateway", "tokenizer", "inference", "safety", "prefill", "decode"):
        assert word in shown, shown
