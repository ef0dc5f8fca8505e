"""Bad requests get a precise answer: the right code, the field, the value and the rule."""

from collections.abc import Iterator

import grpc
import pytest
from conversation import ask, collect
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

NAN = float("nan")

BAD_OPTIONS = [
    ("options.sampling.temperature", "NaN", {"sampling": {"temperature": NAN}}),
    ("options.sampling.temperature", "-1", {"sampling": {"temperature": -1}}),
    ("options.sampling.temperature", "inf", {"sampling": {"temperature": float("inf")}}),
    ("options.sampling.top_p", "0", {"sampling": {"top_p": 0}}),
    ("options.sampling.top_p", "NaN", {"sampling": {"top_p": NAN}}),
    ("options.sampling.min_p", "1.5", {"sampling": {"min_p": 1.5}}),
    ("options.sampling.repetition_penalty", "-0.5", {"sampling": {"repetition_penalty": -0.5}}),
    ("options.sampling.frequency_penalty", "3", {"sampling": {"frequency_penalty": 3}}),
    ("options.sampling.presence_penalty", "-3", {"sampling": {"presence_penalty": -3}}),
    ("options.sampling.logit_bias[5]", "NaN", {"sampling": {"logit_bias": {5: NAN}}}),
    ("options.stop.max_tokens", "0", {"stop": {"max_tokens": 0}}),
    ("options.top_logprobs", "21", {"top_logprobs": 21}),
    ("options.priority", "101", {"priority": 101}),
    ("options.stop_strings[0]", "0 bytes", {"stop_strings": [""]}),
]


def refusal(call: Iterator[weft.ChatResponse]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return caught.value


def violations(error: grpc.RpcError) -> dict[str, str]:
    """The fields that a `google.rpc.BadRequest` names, with their rules."""
    status = rpc_status.from_call(error)
    assert status is not None, "the error carries no google.rpc.Status"
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return {violation.field: violation.description for violation in bad.field_violations}
    raise AssertionError(f"no BadRequest in {status}")


@pytest.mark.parametrize(("field", "value", "options"), BAD_OPTIONS, ids=[f"{f}={v}" for f, v, _ in BAD_OPTIONS])
def test_a_bad_parameter_is_named(
    gateway: GatewayServiceStub, field: str, value: str, options: dict[str, object]
) -> None:
    error = refusal(gateway.Chat(ask("hello", **options), timeout=10))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert value in violations(error)[field]


def test_all_faults_are_named_at_once(gateway: GatewayServiceStub) -> None:
    options = {"sampling": {"temperature": -1, "top_p": 2}, "stop": {"max_tokens": 0}}
    error = refusal(gateway.Chat(weft.ChatRequest(options=options), timeout=10))
    assert set(violations(error)) == {
        "messages",
        "options.sampling.temperature",
        "options.sampling.top_p",
        "options.stop.max_tokens",
    }


def test_more_answers_than_may_be_asked_for_are_refused_by_name(gateway: GatewayServiceStub) -> None:
    error = refusal(gateway.Chat(ask("hello", n=1000), timeout=10))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "options.n" in violations(error)


def test_several_answers_come_side_by_side_and_each_ends(gateway: GatewayServiceStub) -> None:
    ends = [
        response.finished
        for response in gateway.Chat(ask("hello", n=2, max_tokens=8), timeout=60)
        if response.WhichOneof("event") == "finished"
    ]
    assert sorted(end.index for end in ends) == [0, 1]
    # The prompt is on the first answer's bill alone.
    assert [end.usage.prompt_tokens > 0 for end in sorted(ends, key=lambda end: end.index)] == [True, False]


def test_an_adapter_that_is_not_loaded_is_named(gateway: GatewayServiceStub) -> None:
    error = refusal(gateway.Chat(ask("hello", adapter_id="mine"), timeout=10))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "options.adapter_id" in error.details()
    assert "mine" in error.details()


def test_an_unknown_model_is_not_found(gateway: GatewayServiceStub) -> None:
    error = refusal(gateway.Chat(weft.ChatRequest(model="gpt-9", messages=ask("hello").messages), timeout=10))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "gpt-9" in error.details()
    assert "smollm2-135m-instruct" in error.details(), "what is served is not said"


def test_a_prompt_beyond_the_context_is_refused(gateway: GatewayServiceStub) -> None:
    error = refusal(gateway.Chat(ask("weave " * 9_000), timeout=30))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (rule,) = violations(error).values()
    assert "8191" in rule.replace(",", "")


def test_ten_megabytes_are_refused_and_harm_nobody(gateway: GatewayServiceStub) -> None:
    error = refusal(gateway.Chat(ask("a" * 10_000_000), timeout=30))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "10000000 bytes" in violations(error)["messages"]
    assert collect(gateway.Chat(ask("hello", max_tokens=2), timeout=30)).finished.usage.completion_tokens >= 1


def test_tokens_beyond_the_vocabulary_are_refused(gateway: GatewayServiceStub) -> None:
    error = refusal(gateway.Chat(ask("hello", sampling={"logit_bias": {49_152: 1}}), timeout=10))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "49152" in error.details()
