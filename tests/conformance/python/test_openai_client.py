"""What else OpenAI's own clients do: helpers, raw answers, time-outs, trying again, and what is not served."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from mesh import BINARIES, ROOT, Mesh, eventually
from openai import OpenAI
from pydantic import BaseModel
from service import Service
from test_chat import is_idle
from test_openai import GREEDY, MODEL, QUESTION, WEATHER, Capital
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub

ENDLESS = GREEDY | {"max_tokens": 4000, "messages": QUESTION, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(mesh: Mesh) -> Iterator[OpenAI]:
    with OpenAI(base_url=mesh.openai(), api_key="none", max_retries=0) as client:
        yield client


def test_the_stream_helper_gathers_what_a_whole_answer_says(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, **GREEDY)
    with client.chat.completions.stream(messages=QUESTION, **GREEDY) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
    final = stream.get_final_completion()
    assert len(pieces) > 1
    assert "".join(pieces) == final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


def test_the_stream_helper_parses_an_answer_of_a_form(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "The capital of France, as JSON, in few words."}]
    request = GREEDY | {"max_tokens": 200, "messages": messages, "response_format": Capital}
    with client.chat.completions.stream(**request) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Capital)


def test_the_stream_helper_gathers_the_arguments_of_a_tool(client: OpenAI) -> None:
    tool = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    request = GREEDY | {"max_tokens": 64, "messages": messages, "tools": [tool], "tool_choice": "required"}
    with client.chat.completions.stream(**request) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    (event,) = done
    assert (event.name, set(event.parsed_arguments)) == ("get_weather", {"city"})
    (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert call.function.arguments == event.arguments


class Forecast(BaseModel):
    """What the weather is asked of."""

    city: str


def test_tools_made_of_models_need_not_be_called(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    tools = [openai.pydantic_function_tool(Forecast, name="forecast")]
    request = GREEDY | {"max_tokens": 64, "messages": messages, "tools": tools, "stop": [".", "!"]}
    answer = client.chat.completions.parse(**request).choices[0]
    for call in answer.message.tool_calls or []:
        assert isinstance(call.function.parsed_arguments, Forecast)
    assert answer.message.content or answer.message.tool_calls


def test_a_raw_answer_brings_its_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(messages=QUESTION, **GREEDY)
    assert raw.headers["content-type"] == "application/json"
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.parse().id == f"chatcmpl-{raw.request_id}"
    streaming = client.chat.completions.with_streaming_response
    with streaming.create(messages=QUESTION, stream=True, **GREEDY) as raw:
        assert raw.headers["content-type"] == "text/event-stream"
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_a_client_that_waits_no_longer_frees_what_it_held(client: OpenAI, inference: InferenceServiceStub) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1).chat.completions.create(**ENDLESS)
    eventually(lambda: is_idle(inference), 10, "the engine holds nothing for a caller who left")


def test_a_client_that_is_refused_comes_back_when_it_was_told_to(mesh: Mesh, tmp_path: Path) -> None:
    limits = tmp_path / "quota.toml"
    limits.write_text("[default]\nrequests = 1\n")
    settings = {f"{peer}__address": f"http://{mesh.address(peer)}" for peer in ("tokenizer", "inference", "safety")}
    # The client by itself would be back in half a second, and be refused for good.
    settings |= {"quota__file": str(limits), "quota__window": "5s"}
    service = Service(BINARIES, "gateway", tmp_path / "gateway.log", **settings)
    request = GREEDY | {"max_tokens": 1, "messages": QUESTION}
    with service, OpenAI(base_url=service.openai(), api_key="none", max_retries=1) as client:
        client.chat.completions.create(**request)
        answer = client.chat.completions.with_raw_response.create(**request)
        refusals = 'weft_rpc_server_calls_total{method="POST /v1/chat/completions",code="RESOURCE_EXHAUSTED"}'
        counted = [line for line in service.page("/metrics").splitlines() if line.startswith(refusals)]
    assert (answer.retries_taken, counted) == (1, [f"{refusals} 1"])


def test_what_is_not_served_is_not_found(client: OpenAI) -> None:
    for call, path in (
        (lambda: client.responses.create(model=MODEL, input="hello"), "POST /v1/responses"),
        (lambda: client.images.generate(model=MODEL, prompt="a cat"), "POST /v1/images/generations"),
        (client.files.list, "GET /v1/files"),
    ):
        with pytest.raises(openai.NotFoundError) as unknown:
            call()
        assert (unknown.value.code, unknown.value.type) == ("unknown_route", "invalid_request_error")
        assert f"there is no {path} here" in unknown.value.message


def test_the_tool_runner_for_node_runs_a_tool(mesh: Mesh) -> None:
    command = ["node", ROOT / "tests" / "conformance" / "node" / "tools.js", mesh.openai()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the weather in "), done.stdout
    assert done.stdout.endswith("404 unknown_route\n"), done.stdout
