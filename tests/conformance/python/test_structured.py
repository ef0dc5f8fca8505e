"""Structured output as a client sees it: every answer holds to what was asked for, or says that it was cut."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import grpc
import jsonschema
import pytest
from conversation import LENGTH, STOP, ask, collect
from mesh import ROOT
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

CASES = json.loads((ROOT / "tests" / "golden" / "schemas.json").read_text())
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def structured(question: str, seed: int = 1, max_tokens: int = 160, **constraint: object) -> weft.ChatRequest:
    """A sampled request with a constraint."""
    sampling = {"temperature": 1.0, "seed": seed}
    return ask(question, max_tokens=max_tokens, sampling=sampling, constraint=constraint)


def test_every_schema_is_kept(gateway: GatewayServiceStub) -> None:
    def answer(case: dict[str, object], seed: int) -> tuple[str, int]:
        request = structured(case["ask"], seed, json_schema=json.dumps(case["schema"]))
        whole = collect(gateway.Chat(request, timeout=300))
        return whole.text, whole.finished.reason

    with ThreadPoolExecutor(len(CASES)) as threads:
        answers = list(threads.map(answer, CASES, range(len(CASES))))
    complete = 0
    for case, (text, reason) in zip(CASES, answers, strict=True):
        if reason == LENGTH:
            continue
        assert reason == STOP, case["name"]
        jsonschema.Draft202012Validator(case["schema"], format_checker=CHECKER).validate(json.loads(text))
        complete += 1
    assert complete >= 0.7 * len(CASES)


def test_a_structured_answer_streams(gateway: GatewayServiceStub) -> None:
    # Of four digits each: in a longer run the filter would look for a card's number, and hold it until it ends.
    number = {"type": "integer", "minimum": 1000, "maximum": 9999}
    schema = {"type": "array", "items": number, "minItems": 8, "maxItems": 8}
    pieces = list(gateway.Chat(structured("Count.", json_schema=json.dumps(schema)), timeout=60))
    assert sum(piece.WhichOneof("event") == "delta" for piece in pieces) > 4, "the answer came in one piece"
    jsonschema.validate(json.loads(collect(pieces).text), schema)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ({"regex": "[A-Z][a-z]{2,9}"}, "[A-Z][a-z]{2,9}"),
        ({"choice": {"options": ["left", "right", "right ahead"]}}, "left|right|right ahead"),
        ({"lark_grammar": 'start: WORD ("," WORD){1,3}\nWORD: /[a-z]{1,8}/'}, "[a-z]{1,8}(,[a-z]{1,8}){1,3}"),
    ],
)
def test_a_form_is_kept(gateway: GatewayServiceStub, constraint: dict[str, object], expected: str) -> None:
    answer = collect(gateway.Chat(structured("Which?", **constraint), timeout=60))
    assert answer.finished.reason == STOP
    assert re.fullmatch(expected, answer.text), answer.text


def test_an_answer_that_was_cut_says_so(gateway: GatewayServiceStub) -> None:
    answer = collect(gateway.Chat(structured("Count.", max_tokens=5, regex="[0-9]{50}"), timeout=60))
    assert answer.finished.reason == LENGTH
    assert re.fullmatch("[0-9]{1,49}", answer.text)


def test_a_tool_is_called(gateway: GatewayServiceStub) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 16}},
        "required": ["city"],
        "additionalProperties": False,
    }
    request = structured("How warm is it in Paris?", max_tokens=80, regex="x")
    request.options.ClearField("constraint")
    request.tools.add(name="weather", description="The weather.", parameters_json_schema=json.dumps(parameters))
    request.tool_choice.name = "weather"
    answer = collect(gateway.Chat(request, timeout=60))
    assert answer.finished.reason == STOP
    call = json.loads(answer.text)
    assert (list(call), call["name"]) == (["name", "arguments"], "weather")
    jsonschema.validate(call["arguments"], parameters)


def test_a_seed_gives_the_same_structure_whatever_else_runs(gateway: GatewayServiceStub) -> None:
    case = next(case for case in CASES if case["name"] == "person")

    def answer(seed: int) -> str:
        request = structured(case["ask"], seed, json_schema=json.dumps(case["schema"]))
        return collect(gateway.Chat(request, timeout=120)).text

    alone = answer(5)
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(answer, range(6)))[5] == alone


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        ({"json_schema": "{"}, "options.constraint.json_schema"),
        ({"json_schema": '{"$ref": "https://example.com/s"}'}, "options.constraint.json_schema"),
        ({"regex": "("}, "options.constraint.regex"),
        ({"lark_grammar": "start: x"}, "options.constraint.lark_grammar"),
        ({"choice": {"options": ["a", ""]}}, "options.constraint.choice.options[1]"),
        ({"json_object": False}, "options.constraint.json_object"),
    ],
)
def test_what_is_no_constraint_is_refused(
    gateway: GatewayServiceStub, constraint: dict[str, object], field: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        collect(gateway.Chat(structured("Hello?", **constraint), timeout=60))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in refused.value.details()
