"""Requests and answers in few words."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from weft.common.v1 import generation_pb2 as common
from weft.gateway.v1 import gateway_pb2 as weft

STOP = common.FINISH_REASON_STOP
LENGTH = common.FINISH_REASON_LENGTH


def ask(text: str, *, max_tokens: int = 16, ignore_eos: bool = False, **options: object) -> weft.ChatRequest:
    """A greedy request for an answer of one model to one message."""
    given = {
        "sampling": {"temperature": 0},
        "stop": {"max_tokens": max_tokens, "ignore_eos": ignore_eos},
    }
    return weft.ChatRequest(
        messages=[{"role": "ROLE_USER", "content": text}],
        options=weft.GenerationOptions(**(given | options)),
    )


@dataclass
class Answer:
    """A whole answer."""

    started: weft.Started
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finished: weft.Finished | None = None


def collect(responses: Iterable[weft.ChatResponse]) -> Answer:
    """Reads a stream of one answer to its end and holds it to the contract: Started, any TextDelta, Finished."""
    return collect_all(responses, 1)[0]


def collect_all(responses: Iterable[weft.ChatResponse], count: int) -> list[Answer]:
    """The same of so many answers, which share the first message."""
    stream = iter(responses)
    first = next(stream)
    assert first.WhichOneof("event") == "started", first
    answers = [Answer(first.started) for _ in range(count)]
    for response in stream:
        event = response.WhichOneof("event")
        assert event in ("delta", "finished"), response
        index = getattr(response, event).index
        assert index < count, f"nobody asked for this answer: {response}"
        answer = answers[index]
        assert answer.finished is None, f"something follows Finished: {response}"
        if event == "finished":
            answer.finished = response.finished
        else:
            answer.text += response.delta.text
            answer.token_ids += [token.id for token in response.delta.tokens]
    assert all(answer.finished is not None for answer in answers), "the stream ended without Finished"
    return answers
