"""The main job: answers stream, stop when they should, and do not depend on who else asks."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from conversation import LENGTH, STOP, ask, collect
from mesh import Mesh, eventually
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from weft.inference.v1 import inference_pb2
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub

SKY = "Why is the sky blue? Answer in one sentence."


def is_idle(inference: InferenceServiceStub) -> bool:
    status = inference.GetEngineStatus(inference_pb2.GetEngineStatusRequest(), timeout=5)
    return (status.waiting, status.running) == (0, 0) and status.kv_blocks_free == status.kv_blocks_total


def test_an_answer_streams(gateway: GatewayServiceStub) -> None:
    pieces = list(gateway.Chat(ask("What is the capital of France?", max_tokens=24), timeout=60))
    answer = collect(pieces)
    assert "Paris" in answer.text
    assert len(pieces) > 4, "the answer came in one piece"
    assert answer.started.prompt_tokens == answer.finished.usage.prompt_tokens == 37
    assert 1 <= answer.finished.usage.completion_tokens <= 24


def test_the_answer_ends_at_max_tokens(gateway: GatewayServiceStub) -> None:
    answer = collect(gateway.Chat(ask(SKY, max_tokens=5, ignore_eos=True), timeout=60))
    assert answer.finished.reason == LENGTH
    assert answer.finished.usage.completion_tokens == 5


def test_the_model_ends_its_turn(gateway: GatewayServiceStub) -> None:
    answer = collect(gateway.Chat(ask("Say only the word yes.", max_tokens=512), timeout=120))
    assert answer.finished.reason == STOP
    assert "<|im_end|>" not in answer.text


def test_a_stop_string_ends_the_answer_wherever_tokens_are_cut(gateway: GatewayServiceStub) -> None:
    whole = collect(gateway.Chat(ask(SKY, max_tokens=24), timeout=60)).text
    for length in (1, 3, 7):
        stop = whole[len(whole) // 2 :][:length]
        answer = collect(gateway.Chat(ask(SKY, max_tokens=24, stop_strings=[stop]), timeout=60))
        assert answer.text == whole[: whole.index(stop)]
        assert (answer.finished.reason, answer.finished.stop_string) == (STOP, stop)


def test_a_seed_makes_sampling_repeatable(gateway: GatewayServiceStub) -> None:
    def sampled(seed: int) -> str:
        return collect(gateway.Chat(ask(SKY, sampling={"temperature": 1.2, "seed": seed}), timeout=60)).text

    assert sampled(7) == sampled(7)
    assert len({sampled(seed) for seed in range(6)}) > 1


def test_an_answer_is_the_same_alone_and_among_sixteen_others(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    request = ask(SKY, max_tokens=32, ignore_eos=True, top_logprobs=0)
    alone = collect(gateway.Chat(request, timeout=60))
    others = [ask(f"Tell me {count} things about the number {count}.", max_tokens=48) for count in range(1, 17)]
    with ThreadPoolExecutor(17) as pool:
        crowd = [pool.submit(lambda other: collect(gateway.Chat(other, timeout=120)), other) for other in others]
        among = pool.submit(lambda: collect(gateway.Chat(request, timeout=120))).result()
        for other in crowd:
            other.result()
    assert len(alone.token_ids) == 32
    assert among.token_ids == alone.token_ids
    assert among.text == alone.text


def test_a_deadline_ends_a_stream_that_has_begun(gateway: GatewayServiceStub, inference: InferenceServiceStub) -> None:
    call = gateway.Chat(ask(SKY, max_tokens=4_000, ignore_eos=True), timeout=1.5)
    received = 0
    try:
        for _ in call:
            received += 1
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        raise AssertionError("it outlived its deadline")
    assert received > 1
    eventually(lambda: is_idle(inference), 5, "an expired request left the engine")


def test_a_cancelled_stream_frees_its_blocks(gateway: GatewayServiceStub, inference: InferenceServiceStub) -> None:
    eventually(lambda: is_idle(inference), 10, "the engine is idle before")
    call = gateway.Chat(ask(SKY, max_tokens=4_000, ignore_eos=True), timeout=60)
    while next(call).WhichOneof("event") != "delta":
        pass
    status = inference.GetEngineStatus(inference_pb2.GetEngineStatusRequest(), timeout=5)
    assert status.running == 1
    assert status.kv_blocks_free < status.kv_blocks_total
    call.cancel()
    eventually(lambda: is_idle(inference), 2, "the blocks are free again")


def test_a_text_is_continued(gateway: GatewayServiceStub) -> None:
    options = weft.GenerationOptions(sampling={"temperature": 0}, stop={"max_tokens": 12})
    request = weft.CompleteRequest(prompt="The capital of France is", options=options)
    answer = collect(gateway.Complete(request, timeout=60))
    assert answer.text.strip()
    assert answer.started.prompt_tokens == 5


def test_log_probabilities_come_with_the_tokens(gateway: GatewayServiceStub) -> None:
    request = ask(SKY, max_tokens=6, ignore_eos=True, top_logprobs=3)
    tokens = [token for piece in gateway.Chat(request, timeout=60) for token in piece.delta.tokens]
    assert len(tokens) == 6
    for token in tokens:
        ranked = [top.logprob for top in token.top_logprobs]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)
        # Greedy: what was chosen is the likeliest.
        assert token.id == token.top_logprobs[0].id
        assert token.logprob <= 0


def test_the_model_is_listed(gateway: GatewayServiceStub) -> None:
    (model,) = gateway.ListModels(weft.ListModelsRequest(), timeout=10).models
    assert model.id == "smollm2-135m-instruct"
    assert (model.architecture, model.context_length, model.chat) == ("LlamaForCausalLM", 8192, True)
    assert gateway.GetModel(weft.GetModelRequest(model=model.id), timeout=10).model == model
