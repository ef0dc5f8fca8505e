"""OpenAI's own Python client, unmodified, against the HTTP API; and a reader of event streams that knows no client."""

import base64
import http.client
import json
import secrets
import struct
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from conversation import ask, collect
from mesh import ROOT, Mesh, eventually
from openai import OpenAI
from pydantic import BaseModel
from test_chat import is_idle
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub
from weft.tokenizer.v1.tokenizer_pb2 import EncodeRequest
from weft.tokenizer.v1.tokenizer_pb2_grpc import TokenizerServiceStub

MODEL = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 24}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(mesh: Mesh) -> Iterator[OpenAI]:
    with OpenAI(base_url=mesh.openai(), api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_answered_as_by_grpc(client: OpenAI, gateway: GatewayServiceStub) -> None:
    answer = client.chat.completions.create(messages=QUESTION, **GREEDY)
    by_grpc = collect(gateway.Chat(ask(QUESTION[0]["content"], max_tokens=24)))
    assert answer.choices[0].message.content == by_grpc.text
    assert answer.choices[0].message.role == "assistant"
    usage = by_grpc.finished.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    assert answer.id.startswith("chatcmpl-")
    assert answer._request_id


def test_a_stream_is_the_same_answer_in_pieces(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, **GREEDY)
    stream = client.chat.completions.create(
        messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == [whole.choices[0].finish_reason]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_several_answers_differ_and_add_up(client: OpenAI) -> None:
    request = {"messages": QUESTION, "model": MODEL, "max_tokens": 12, "temperature": 1.2, "seed": 7, "n": 3}
    answer = client.chat.completions.create(**request)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) > 1, texts
    assert answer.usage.prompt_tokens == client.chat.completions.create(**request | {"n": 1}).usage.prompt_tokens
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_log_probabilities_spell_the_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(messages=QUESTION, logprobs=True, top_logprobs=2, **GREEDY)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    spelled = b"".join(bytes(token.bytes) for token in content).decode()
    assert spelled.startswith(answer.choices[0].message.content)
    for token in content:
        assert token.top_logprobs[0].logprob == token.logprob, "greedy"
        assert len(token.top_logprobs) == 2


def test_a_tool_that_must_be_called_is_called(client: OpenAI) -> None:
    request = {
        "messages": [{"role": "user", "content": "How is the weather in Rome?"}],
        "tools": [WEATHER],
        "tool_choice": "required",
        **GREEDY,
        "max_tokens": 64,
    }
    choice = client.chat.completions.create(**request).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    arguments = ""
    for chunk in client.chat.completions.create(stream=True, **request):
        for streamed in chunk.choices[0].delta.tool_calls or []:
            arguments += streamed.function.arguments
    assert json.loads(arguments) == json.loads(call.function.arguments)
    follow_up = [*request["messages"], choice.message.model_dump(), tool_answer(call.id)]
    answer = client.chat.completions.create(messages=follow_up, tools=[WEATHER], **GREEDY)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def tool_answer(call_id: str) -> dict[str, str]:
    return {"role": "tool", "tool_call_id": call_id, "content": "Sunny, 25 degrees"}


class Capital(BaseModel):
    country: str
    capital: str


def test_an_answer_is_parsed_into_the_form_that_was_asked_for(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "The capital of France, as JSON, in few words."}]
    request = GREEDY | {"max_tokens": 200}
    parsed = client.chat.completions.parse(messages=messages, response_format=Capital, **request)
    assert isinstance(parsed.choices[0].message.parsed, Capital)


def test_prompts_of_text_and_of_tokens_are_continued_alike(mesh: Mesh, client: OpenAI) -> None:
    request = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    texts = ["The quick brown fox", "To be or not"]
    by_text = client.completions.create(prompt=texts, **request)
    assert [choice.index for choice in by_text.choices] == [0, 1]
    ids = [token_ids(mesh, text) for text in texts]
    by_ids = client.completions.create(prompt=ids, **request)
    assert [choice.text for choice in by_ids.choices] == [choice.text for choice in by_text.choices]
    streamed = ["", ""]
    for chunk in client.completions.create(prompt=texts, stream=True, **request):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in by_text.choices]


def token_ids(mesh: Mesh, text: str) -> list[int]:
    with mesh.channel("tokenizer") as channel:
        return list(TokenizerServiceStub(channel).Encode(EncodeRequest(text=text), timeout=10).token_ids)


def test_a_prompt_is_scored_without_an_answer(client: OpenAI) -> None:
    text = "The capital of France is Paris."
    request = {"model": MODEL, "prompt": text, "echo": True, "logprobs": 1, "temperature": 0}
    scored = client.completions.create(max_tokens=0, **request).choices[0]
    assert scored.text == text
    told = scored.logprobs
    assert "".join(told.tokens) == text
    assert told.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in told.token_logprobs[1:])
    assert [text[start : start + len(token)] for start, token in zip(told.text_offset, told.tokens, strict=True)] == (
        told.tokens
    )
    # What lm-eval reads: the likeliest token of each position, the token's own among them where it is greedy.
    assert all(
        max(top.values()) >= own for top, own in zip(told.top_logprobs[1:], told.token_logprobs[1:], strict=True)
    )
    one_more = client.completions.create(max_tokens=1, **request).choices[0]
    assert one_more.logprobs.token_logprobs[:-1] == told.token_logprobs
    assert one_more.logprobs.tokens[:-1] == told.tokens


def test_embeddings_come_as_numbers_and_as_base64(client: OpenAI) -> None:
    texts = ["The sky is blue.", "Bread is baked."]
    default = client.embeddings.create(model=MODEL, input=texts)
    numbers = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    encoded = client.embeddings.create(model=MODEL, input=texts, encoding_format="base64")
    for one, other, raw in zip(default.data, numbers.data, encoded.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        decoded = struct.unpack(f"<{len(one.embedding)}f", base64.b64decode(raw.embedding))
        assert list(decoded) == pytest.approx(one.embedding, abs=1e-6)
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-3)
    assert default.usage.prompt_tokens > 0


def test_moderation_tells_what_the_safety_filter_finds(client: OpenAI) -> None:
    texts = ["Write to ann@example.com", "Bread is baked."]
    moderation = client.moderations.create(input=texts)
    found, clean = moderation.results
    assert found.flagged
    assert found.categories.model_extra["pii.email"]
    assert not clean.flagged
    assert not any(clean.categories.model_extra.values())
    # The name that OpenAI's own examples give.
    named = client.moderations.create(input=texts, model="omni-moderation-latest")
    assert (named.model, named.results) == (moderation.model, moderation.results)


def test_the_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model


def test_refusals_are_the_clients_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(messages=QUESTION, model=MODEL, temperature=200, top_p=2)
    assert refused.value.param == "temperature"
    assert "`top_p` is 2; must be above 0 and at most 1" in refused.value.message
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(messages=QUESTION, model="gpt-99")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unserved:
        client.chat.completions.create(messages=QUESTION, model=MODEL, functions=[])
    assert "`functions` is not served: use `tools`" in unserved.value.message


def test_a_deadline_ends_a_stream_with_an_error(client: OpenAI) -> None:
    request = GREEDY | {"max_tokens": 4000, "messages": QUESTION, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(stream=True, extra_headers={"x-request-timeout": "1.5"}, **request)
    with pytest.raises(openai.APIError) as late:
        list(stream)
    assert late.value.code == "deadline"


def test_a_client_that_leaves_frees_what_it_held(client: OpenAI, inference: InferenceServiceStub) -> None:
    request = GREEDY | {"max_tokens": 4000, "messages": QUESTION, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(stream=True, **request)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    assert not is_idle(inference)
    stream.close()
    eventually(lambda: is_idle(inference), 10, "the engine holds nothing for a caller who left")


def events(answer: http.client.HTTPResponse) -> Iterator[str]:
    """What an event stream says, event by event: one `data:` line and an empty one, as they come."""
    for line in answer:
        data, empty = line.decode().removesuffix("\n"), answer.readline()
        assert data.startswith("data: ") and empty == b"\n", (line, empty)
        yield data.removeprefix("data: ")


def test_events_can_be_read_without_a_client(mesh: Mesh, inference: InferenceServiceStub) -> None:
    body = GREEDY | {"messages": QUESTION, "stream": True, "max_tokens": 128, "ignore_eos": True}
    request = urllib.request.Request(
        f"{mesh.openai()}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    texts: list[str] = []
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for data in events(answer):
            if data == "[DONE]":
                break
            chunk = json.loads(data)
            assert chunk["object"] == "chat.completion.chunk"
            text = chunk["choices"][0]["delta"].get("content")
            if text and not texts:
                # The engine has yet to make the last token: the event that tells it cannot have been sent.
                assert not is_idle(inference)
            texts += [text] if text else []
        assert data == "[DONE]"
        assert answer.read() == b""
    assert len(texts) > 1
    assert "Paris" in "".join(texts)
    assert chunk["choices"][0]["finish_reason"] == "length"


def test_the_official_client_for_node_reads_the_same(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    question = QUESTION[0]["content"]
    answer = collect(gateway.Chat(ask(question, max_tokens=128), timeout=90))
    command = ["node", ROOT / "tests" / "conformance" / "node" / "openai.js", mesh.openai(), question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    usage = answer.finished.usage
    told = f"{answer.text}\nstop, {usage.prompt_tokens} + {usage.completion_tokens} tokens\n576 numbers\n400 messages: "
    assert done.stdout.startswith(told), done.stdout
    assert "`temperature` is -1; must be from 0 to 100" in done.stdout


def test_a_call_joins_its_callers_trace(mesh: Mesh, client: OpenAI) -> None:
    trace_id = secrets.token_hex(16)
    traceparent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    answer = client.chat.completions.create(
        messages=QUESTION, extra_headers={"traceparent": traceparent}, **GREEDY | {"max_tokens": 4}
    )
    assert answer._request_id == trace_id

    def names() -> set[str] | None:
        try:
            (trace,) = mesh.jaeger(f"/api/traces/{trace_id}")["data"]
        except OSError:
            return None
        found = {span["operationName"] for span in trace["spans"]}
        wanted = {"POST /v1/chat/completions", "weft.inference.v1.InferenceService/Generate"}
        return found if wanted <= found else None

    eventually(names, 20, "the trace holds the HTTP call and what it led to")
