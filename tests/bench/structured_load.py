"""Structured answers under load, and free text of the same lengths: `structured_load.py ADDRESS CLIENT COUNT`.

Twenty schemas in turn, sampled, 16 in flight, through all services. Each answer must be valid or say that it was cut.
Then the same questions again without a schema, each as long as its structured answer was. One line of JSON. Runs in the
environment of `setup.py clients`; CLIENT is the folder of the client that was generated from `proto/`.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import jsonschema

ADDRESS, CLIENT, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, CLIENT)

from weft.common.v1 import generation_pb2 as common  # noqa: E402
from weft.gateway.v1 import gateway_pb2 as weft  # noqa: E402
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub  # noqa: E402

SCHEMAS = 20
IN_FLIGHT = 16
MAX_TOKENS = 128
CASES = json.loads((Path(__file__).parents[1] / "golden" / "schemas.json").read_text())[:SCHEMAS]
FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


def ask(stub: GatewayServiceStub, case: dict[str, Any], seed: int, tokens: int | None) -> tuple[str, Any]:
    """One answer and its end: of `tokens` free tokens, else by the schema."""
    options: dict[str, Any] = {"sampling": {"temperature": 1.0, "seed": seed}}
    if tokens is None:
        options |= {"stop": {"max_tokens": MAX_TOKENS}, "constraint": {"json_schema": json.dumps(case["schema"])}}
    else:
        options |= {"stop": {"max_tokens": tokens, "ignore_eos": True}}
    question = {"role": "ROLE_USER", "content": case["ask"]}
    request = weft.ChatRequest(messages=[question], options=weft.GenerationOptions(**options))
    text, finished = "", None
    for response in stub.Chat(request, timeout=600):
        text += response.delta.text
        finished = response.finished if response.WhichOneof("event") == "finished" else finished
    return text, finished


def verdict(case: dict[str, Any], text: str, reason: int) -> str:
    """`valid`, `length`, or what is wrong."""
    if reason == common.FINISH_REASON_LENGTH:
        return "length"
    try:
        jsonschema.Draft202012Validator(case["schema"], format_checker=FORMATS).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{case['name']}: {str(error).splitlines()[0]}: {text[:80]!r}"
    return "valid"


def load(stub: GatewayServiceStub, lengths: list[int] | None, count: int) -> tuple[list[tuple[str, Any]], float]:
    """All answers, and the output tokens a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        asked = [
            threads.submit(ask, stub, CASES[index % SCHEMAS], index, lengths and lengths[index])
            for index in range(count)
        ]
        answers = [one.result() for one in asked]
    tokens = sum(finished.usage.completion_tokens for _, finished in answers)
    return answers, tokens / (time.perf_counter() - began)


def main() -> None:
    """Measures and says what was found."""
    with grpc.insecure_channel(ADDRESS) as channel:
        stub = GatewayServiceStub(channel)
        # Grammars are compiled and prompts are cached once; both loads find it so.
        load(stub, None, SCHEMAS)
        answers, structured = load(stub, None, COUNT)
        lengths = [finished.usage.completion_tokens for _, finished in answers]
        _, free = load(stub, lengths, COUNT)
    ends = [verdict(CASES[at % SCHEMAS], text, finished.reason) for at, (text, finished) in enumerate(answers)]
    wrong = [end for end in ends if end not in ("valid", "length")]
    found = {"valid": ends.count("valid"), "length": ends.count("length"), "wrong": wrong[:20], "count": COUNT}
    print(json.dumps(found | {"structured_per_s": structured, "free_per_s": free, "tokens": sum(lengths)}))


if __name__ == "__main__":
    main()
