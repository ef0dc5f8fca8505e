"""The Open Inference Protocol, spoken by Triton's own client: tensors, parameters, streams and errors."""

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from conversation import collect
from mesh import Mesh, eventually
from test_chat import is_idle
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub

MODEL = "smollm2-135m-instruct"
PROMPT = "The capital of France is"
GREEDY = {"temperature": 0.0, "max_tokens": 12}
ENDLESS = GREEDY | {"max_tokens": 4_000, "ignore_eos": True}


@pytest.fixture
def client(mesh: Mesh) -> Iterator[triton.InferenceServerClient]:
    """Triton's client, connected to the gateway."""
    with triton.InferenceServerClient(mesh.address("gateway")) as client:
        yield client


def text_input(
    text: str = PROMPT, name: str = "text_input", datatype: str = "BYTES", shape: tuple[int, ...] = (1,)
) -> list[triton.InferInput]:
    """A prompt as Triton's client packs it."""
    tensor = triton.InferInput(name, list(shape), datatype)
    elements = numpy.array([text.encode()], dtype=numpy.object_) if datatype == "BYTES" else numpy.zeros(1, "float32")
    tensor.set_data_from_numpy(elements.reshape(shape))
    return [tensor]


def text_of(result: triton.InferResult) -> str:
    """The text that came out, which is one element."""
    (element,) = result.as_numpy("text_output").flatten()
    return element.decode()


def parameters(result: triton.InferResult) -> dict[str, Any]:
    """What is said of an answer."""
    said = result.get_response().parameters
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in said.items()}


class Stream:
    """A stream of Triton's client, and what its callback was given."""

    def __init__(self, client: triton.InferenceServerClient, **options: Any) -> None:
        self._client = client
        self._given: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: self._given.put((result, error)), **options)

    def ask(self, request_id: str, given: dict[str, Any] = GREEDY, **options: Any) -> None:
        """Sends a request."""
        self._client.async_stream_infer(MODEL, text_input(), request_id=request_id, parameters=given, **options)

    def next(self) -> tuple[triton.InferResult | None, InferenceServerException | None]:
        """The next answer or error."""
        return self._given.get(timeout=60)

    def answer(self) -> tuple[list[str], triton.InferResult]:
        """All pieces of the next answer, and its last one."""
        pieces = []
        while True:
            result, error = self.next()
            assert error is None, error
            pieces.append(text_of(result))
            if parameters(result)["triton_final_response"]:
                return pieces, result


def whole(gateway: GatewayServiceStub) -> str:
    """What our own API answers to the same."""
    options = weft.GenerationOptions(sampling={"temperature": 0}, stop={"max_tokens": 12})
    return collect(gateway.Complete(weft.CompleteRequest(prompt=PROMPT, options=options), timeout=60)).text


def test_it_is_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("gpt-9")


def test_it_says_what_it_is_and_what_a_model_takes(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata().name == "weft"
    metadata = client.get_model_metadata(MODEL, as_json=True)
    assert metadata == {
        "name": MODEL,
        "versions": ["1"],
        "platform": "weft",
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": ["1"]}],
        "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": ["1"]}],
    }


def test_it_continues_a_text_as_our_own_api_does(
    client: triton.InferenceServerClient, gateway: GatewayServiceStub
) -> None:
    result = client.infer(MODEL, text_input(), request_id="7", parameters=GREEDY)
    assert text_of(result) == whole(gateway)
    assert result.get_response().id == "7"
    assert result.get_response().model_name == MODEL
    said = parameters(result)
    assert (said["finish_reason"], said["prompt_tokens"], said["completion_tokens"]) == ("length", 5, 12)


def test_a_prompt_may_be_a_batch_of_one(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("text_output")]
    result = client.infer(MODEL, text_input(shape=(1, 1)), outputs=outputs, parameters=GREEDY)
    assert result.as_numpy("text_output").shape == (1, 1)


def test_a_stop_text_and_a_seed_are_parameters(client: triton.InferenceServerClient) -> None:
    text = text_of(client.infer(MODEL, text_input(), parameters=GREEDY))
    stop = text[len(text) // 2 :][:3]
    for given in (stop, f'["never said", "{stop}"]'):
        result = client.infer(MODEL, text_input(), parameters=GREEDY | {"stop": given})
        assert text_of(result) == text[: text.index(stop)]
        assert (parameters(result)["finish_reason"], parameters(result)["stop_string"]) == ("stop", stop)
    sampled = {"temperature": "1.2", "max_tokens": 12, "seed": 7}
    first, again = (client.infer(MODEL, text_input(), parameters=sampled) for _ in range(2))
    assert text_of(first) == text_of(again)
    assert parameters(first)["seed"] == 7


def test_contents_that_came_typed_go_out_typed(client: triton.InferenceServerClient) -> None:
    request = service_pb2.ModelInferRequest(
        inputs=[{"name": "text_input", "datatype": "BYTES", "shape": [1]}],
        parameters={"max_tokens": {"int64_param": 4}},
    )
    request.inputs[0].contents.bytes_contents.append(PROMPT.encode())
    response = client._client_stub.ModelInfer(request, timeout=60)
    assert len(response.outputs[0].contents.bytes_contents) == 1
    assert not response.raw_output_contents


def test_a_stream_answers_piece_by_piece_and_one_request_after_the_other(
    client: triton.InferenceServerClient, gateway: GatewayServiceStub
) -> None:
    stream = Stream(client)
    stream.ask("a")
    stream.ask("b", GREEDY | {"stream": False})
    stream.ask("c", enable_empty_final_response=True)
    expected = whole(gateway)
    for request_id in ("a", "b", "c"):
        pieces, last = stream.answer()
        assert "".join(pieces) == expected
        assert last.get_response().id == request_id
        assert parameters(last)["completion_tokens"] == 12
        assert (len(pieces) == 1) == (request_id == "b")
    client.stop_stream()


def test_the_asynchronous_client_streams(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    async def ask() -> list[str]:
        async def requests() -> Any:
            yield {"model_name": MODEL, "inputs": text_input(), "outputs": None, "parameters": GREEDY}

        async with tritonclient.grpc.aio.InferenceServerClient(mesh.address("gateway")) as client:
            return [text_of(result) async for result, _ in client.stream_infer(requests())]

    pieces = asyncio.run(ask())
    assert len(pieces) > 2
    assert "".join(pieces) == whole(gateway)


WRONG = [
    ('`inputs[0].name` is "prompt"', {"inputs": text_input(name="prompt")}),
    ('`inputs[0].datatype` is "FP32"', {"inputs": text_input(datatype="FP32")}),
    ("`inputs[0].shape` is [1, 1, 1]", {"inputs": text_input(shape=(1, 1, 1))}),
    ("`inputs` has 2 tensors", {"inputs": text_input() * 2}),
    ('`outputs[0].name` is "logits"', {"outputs": [triton.InferRequestedOutput("logits")]}),
    ("`outputs[0].parameters` has 1", {"outputs": [triton.InferRequestedOutput("text_output", class_count=3)]}),
    ('`model_version` is "2"', {"model_version": "2"}),
    ('`parameters["temperature"]` is -1', {"parameters": {"temperature": -1}}),
    ('`parameters["temperature"]` is "hot"', {"parameters": {"temperature": "hot"}}),
    ('`parameters["max_tokens"]` is 0', {"parameters": {"max_tokens": 0}}),
    ('`parameters["max_tokens"]` is -3', {"parameters": {"max_tokens": -3}}),
    ('`parameters["stop"]` has 0 bytes', {"parameters": {"stop": ""}}),
    ('`parameters["stream"]` is true', {"parameters": {"stream": True}}),
    ('`parameters["max_token"]` is not known', {"parameters": {"max_token": 4}}),
    ('`parameters["sequence_id"]` is not known', {"sequence_id": 5}),
    ('`inputs["text_input"]` is empty', {"inputs": text_input("")}),
]


@pytest.mark.parametrize(("said", "request_of"), WRONG, ids=[said for said, _ in WRONG])
def test_what_is_wrong_is_named(client: triton.InferenceServerClient, said: str, request_of: dict[str, Any]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, **({"inputs": text_input()} | request_of))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert said in caught.value.message()


RAW = [
    ("`raw_input_contents` has 2 entries", [b"\x01\0\0\0a", b"\x01\0\0\0b"]),
    ("`raw_input_contents` has 0 entries", []),
    ("`raw_input_contents[0]` has 3 bytes", [b"abc"]),
    ("`raw_input_contents[0]` announces 9 bytes of text and has 1", [b"\x09\0\0\0a"]),
    ("`raw_input_contents[0]` announces 1 bytes of text and has 2", [b"\x01\0\0\0ab"]),
    ("`raw_input_contents[0]` is not UTF-8 from byte 1", [b"\x02\0\0\0a\xff"]),
]


@pytest.mark.parametrize(("said", "raw"), RAW, ids=[said for said, _ in RAW])
def test_raw_contents_that_do_not_fit_are_named(
    client: triton.InferenceServerClient, said: str, raw: list[bytes]
) -> None:
    request = service_pb2.ModelInferRequest(
        inputs=[{"name": "text_input", "datatype": "BYTES", "shape": [1]}], raw_input_contents=raw
    )
    with pytest.raises(grpc.RpcError) as caught:
        client._client_stub.ModelInfer(request, timeout=10)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert said in caught.value.details()


def test_an_unknown_model_is_not_found(client: triton.InferenceServerClient) -> None:
    for call in (lambda: client.infer("gpt-9", text_input()), lambda: client.get_model_metadata("gpt-9")):
        with pytest.raises(InferenceServerException, match="gpt-9") as caught:
            call()
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_a_stream_outlives_what_is_wrong_with_a_request(client: triton.InferenceServerClient) -> None:
    stream = Stream(client)
    stream.ask("bad", {"temperature": -1})
    stream.ask("good")
    _, error = stream.next()
    assert error.message() == 'INVALID_ARGUMENT: `parameters["temperature"]` is -1; must be from 0 to 100'
    _, last = stream.answer()
    assert last.get_response().id == "good"
    client.stop_stream()


def test_a_caller_may_have_the_errors_of_a_stream_as_its_status(client: triton.InferenceServerClient) -> None:
    stream = Stream(client, headers={"triton_grpc_error": "true"})
    stream.ask("bad", {"temperature": -1})
    _, error = stream.next()
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    client.stop_stream()


def test_a_stream_that_is_stopped_frees_its_blocks(
    client: triton.InferenceServerClient, inference: InferenceServiceStub
) -> None:
    stream = Stream(client)
    stream.ask("endless", ENDLESS)
    result, _ = stream.next()
    assert not parameters(result)["triton_final_response"]
    assert not is_idle(inference)
    client.stop_stream(cancel_requests=True)
    eventually(lambda: is_idle(inference), 10, "the blocks are free again")


def test_a_deadline_ends_an_answer(client: triton.InferenceServerClient, inference: InferenceServiceStub) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(MODEL, text_input(), parameters=ENDLESS, client_timeout=1.0)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    eventually(lambda: is_idle(inference), 10, "an expired request left the engine")
