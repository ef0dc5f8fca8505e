"""The same five examples in four languages, each with its official client and its own generated code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conversation import ask, collect
from languages import LANGUAGES, Language
from mesh import BINARIES, Mesh, eventually
from ports import free_port
from service import Service
from test_traces import find
from weft.common.v1.generation_pb2 import FinishReason
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from weft.inference.v1.inference_pb2 import GetEngineStatusRequest, GetEngineStatusResponse
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub

FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module", params=LANGUAGES, ids=lambda language: language.name)
def language(request: pytest.FixtureRequest) -> Language:
    """A language whose examples are built."""
    request.param.build()
    return request.param


def engine_status(inference: InferenceServiceStub) -> GetEngineStatusResponse:
    return inference.GetEngineStatus(GetEngineStatusRequest(), timeout=5)


def is_idle(inference: InferenceServiceStub) -> bool:
    now = engine_status(inference)
    return (now.waiting, now.running) == (0, 0) and now.kv_blocks_free == now.kv_blocks_total


def plain(code: str) -> str:
    """A status code's name, however a language writes it: `InvalidArgument`, `INVALID_ARGUMENT`."""
    return code.replace("_", "").upper()


def test_it_streams_the_same_answer(language: Language, mesh: Mesh, gateway: GatewayServiceStub) -> None:
    answer = collect(gateway.Chat(ask(FRANCE, max_tokens=128), timeout=90))
    assert "Paris" in answer.text
    reason, usage = FinishReason.Name(answer.finished.reason), answer.finished.usage
    expected = f"{answer.text}\n{reason}, {usage.prompt_tokens} + {usage.completion_tokens} tokens\n"
    assert language.output("chat", mesh.address("gateway"), FRANCE) == expected


def test_its_deadline_ends_an_answer(language: Language, mesh: Mesh, inference: InferenceServiceStub) -> None:
    assert language.output("deadline", mesh.address("gateway")).endswith("\nDEADLINE_EXCEEDED\n")
    eventually(lambda: is_idle(inference), 10, "an expired request left the engine")


def test_it_cancels_midway_and_the_blocks_are_free(
    language: Language, mesh: Mesh, inference: InferenceServiceStub
) -> None:
    before = engine_status(inference)
    said = language.output("cancel", mesh.address("gateway"), mesh.address("inference"))
    assert said.endswith(f"\nCANCELLED\nall {before.kv_blocks_total} blocks are free\n")
    # It did run: cancelled before its first token, it would have left nothing to free.
    assert engine_status(inference).generated_tokens > before.generated_tokens


def test_it_reads_which_fields_are_wrong(language: Language, mesh: Mesh) -> None:
    first, *fields = language.output("refusal", mesh.address("gateway")).splitlines()
    assert plain(first.partition(":")[0]) == "INVALIDARGUMENT"
    assert fields == [
        "field options.sampling.temperature: is -1; must be from 0 to 100",
        "field options.stop.max_tokens: is 0; must be at least 1",
    ]


@pytest.fixture
def full_gateway(mesh: Mesh, tmp_path: Path) -> Iterator[str]:
    """A second gateway of the mesh that lets one request in, and has it."""
    services = {f"{name}__address": f"http://{mesh.address(name)}" for name in ("tokenizer", "inference", "safety")}
    service = Service(BINARIES, "gateway", tmp_path / "gateway.log", **services, admission__max_in_flight="1")
    with service as channel:
        call = GatewayServiceStub(channel).Chat(ask("Go on.", max_tokens=8_000, ignore_eos=True), timeout=300)
        next(call)
        yield service.address
        call.cancel()


def test_it_reads_why_it_was_sent_away_and_until_when(language: Language, full_gateway: str) -> None:
    first, *details = language.output("refusal", full_gateway).splitlines()
    assert plain(first.partition(":")[0]) == "UNAVAILABLE"
    assert [detail for detail in details if re.fullmatch(r"retry after [1-9]\d* ms", detail)], details
    (reason,) = [detail for detail in details if detail.startswith("reason")]
    assert reason.startswith("reason weft/GATEWAY_FULL: ")
    assert "admission.max_in_flight" in reason


def test_it_finds_its_own_trace(language: Language, mesh: Mesh) -> None:
    said = language.output("tracing", mesh.address("gateway"), mesh.jaeger_address())
    trace_id, caller = re.match(r"traceparent 00-([0-9a-f]{32})-([0-9a-f]{16})-01\n", said).groups()
    trace = eventually(lambda: find(mesh, trace_id, caller), 20, "the trace is whole, with all four services")
    assert caller in trace.text, "the caller's own span is nobody's parent"


def test_it_fails_where_nobody_listens(language: Language) -> None:
    done = language.run("chat", f"127.0.0.1:{free_port()}", FRANCE)
    assert done.returncode != 0
    assert "UNAVAILABLE" in plain(done.stderr), done.stderr
