"""What a conversation began with is computed once, and only for those who share a salt."""

from conversation import Answer, ask, collect
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

QUESTION = "Which of the planets that were known to the ancients have no moon at all? " * 4


def test_a_prompt_seen_before_is_found_but_not_by_another_salt(gateway: GatewayServiceStub) -> None:
    def answer(salt: str) -> Answer:
        return collect(gateway.Chat(ask(QUESTION, max_tokens=8, cache_salt=salt, top_logprobs=0), timeout=60))

    first, again, other = answer("ours"), answer("ours"), answer("theirs")
    cached = [one.finished.usage.cached_prompt_tokens for one in (first, again, other)]
    assert cached[0] == 0
    assert cached[2] == 0, "another salt shows what ours has cached"
    prompt = first.started.prompt_tokens
    assert prompt - 16 <= cached[1] < prompt, "all full blocks but the last token"
    assert first.token_ids == again.token_ids == other.token_ids
