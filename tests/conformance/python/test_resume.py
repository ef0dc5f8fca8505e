"""`kill -9` of a replica of inference under streams: none fails, and each says what it says undisturbed.

`pytest test_resume.py --full` kills 20 times under 64 streams; without it, it is a few of each.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from conversation import Answer, ask, collect
from mesh import BINARIES, ROOT, eventually
from service import Service
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

# In f32 a greedy answer is the same whoever says it; in fewer bits two likely tokens can be too close to call.
MODEL = str(ROOT / "models" / "smollm2-135m-instruct-f32")
TOKENS = 48
QUESTIONS = [
    "Why is the sky blue?",
    "Count from one to thirty in words.",
    "Write a poem about a loom.",
    "What is the capital of France?",
    "Explain photosynthesis to a child.",
    "Name ten animals.",
    "How does a bicycle stay upright?",
    "Tell me a story about a fox.",
]


class Replicated:
    """Tokenizer, safety filter, two replicas of inference and the gateway, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet; logs go to `folder`."""
        self._stack = ExitStack()
        tokenizer = Service(BINARIES, "tokenizer", folder / "tokenizer.log", tokenizer__folder=MODEL)
        safety = Service(BINARIES, "safety", folder / "safety.log")
        self.replicas = [
            Service(BINARIES, "inference", folder / f"inference-{n}.log", model__folder=MODEL, model__threads="1")
            for n in range(2)
        ]
        addresses = ", ".join(f'"http://{replica.address}"' for replica in self.replicas)
        config = folder / "gateway.toml"
        config.write_text(
            f'[tokenizer]\naddress = "http://{tokenizer.address}"\n'
            f'[safety]\naddress = "http://{safety.address}"\n'
            f"[inference]\naddresses = [{addresses}]\n"
        )
        self.gateway = Service(BINARIES, "gateway", folder / "gateway.log", config)
        self._services = [tokenizer, safety, *self.replicas, self.gateway]

    def __enter__(self) -> "Replicated":
        """All of them are ready, and so are both replicas in the gateway's eyes."""
        for service in self._services:
            self._stack.enter_context(service)
        eventually(lambda: self.fit() == len(self.replicas), 60, "both replicas are fit")
        return self

    def __exit__(self, *_: object) -> None:
        """Stops them."""
        self._stack.close()

    def metric(self, start: str) -> float:
        """The sum of the gateway's series that start so."""
        lines = self.gateway.page("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def fit(self) -> int:
        """Replicas that the gateway uses."""
        return int(self.metric('weft_rpc_client_replica_fit{peer="inference"'))

    def streams_on(self, replica: Service) -> int:
        """Calls of the gateway to a replica that have not ended."""
        labels = f'{{peer="inference",replica="{replica.address}"}}'
        return int(self.metric(f"weft_rpc_client_replica_in_flight{labels}"))


class Load:
    """Chats that follow each other on several streams, whatever happens to inference."""

    def __init__(self, address: str, streams: int, expected: dict[str, Answer]) -> None:
        """`expected` are the undisturbed answers."""
        self.answered = 0
        self.failures: list[str] = []
        self._address = address
        self._expected = expected
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(streams)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, index: int) -> None:
        questions = list(self._expected)
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            gateway = GatewayServiceStub(channel)
            while not self._stopped.is_set():
                question = questions[index % len(questions)]
                index += 1
                try:
                    self._check(question, chat(gateway, question))
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()}: {error.details()}")
                self.answered += 1

    def _check(self, question: str, answer: Answer) -> None:
        expected = self._expected[question]
        if answer.token_ids != expected.token_ids or answer.text != expected.text:
            self.failures.append(f"{question}: {answer.token_ids} is not {expected.token_ids}")
        usage, whole = answer.finished.usage, expected.finished.usage
        if (usage.prompt_tokens, usage.completion_tokens) != (whole.prompt_tokens, whole.completion_tokens):
            self.failures.append(f"{question}: {usage} is not {whole}")


def chat(gateway: GatewayServiceStub, question: str) -> Answer:
    request = ask(question, max_tokens=TOKENS, ignore_eos=True, top_logprobs=0)
    return collect(gateway.Chat(request, timeout=300))


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    with Replicated(tmp_path) as replicated:
        yield replicated


def test_no_stream_is_lost_with_a_replica(
    replicated: Replicated, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills, streams = (20, 64) if pytestconfig.getoption("full") else (3, 12)
    with grpc.insecure_channel(replicated.gateway.address) as channel:
        gateway = GatewayServiceStub(channel)
        expected = {question: chat(gateway, question) for question in QUESTIONS}
    hit = []
    with Load(replicated.gateway.address, streams, expected) as load:
        for kill in range(kills):
            victim = replicated.replicas[kill % 2]
            eventually(
                lambda victim=victim: replicated.streams_on(victim) >= streams // 4, 300, "streams on the victim"
            )
            # Not always at the same moment of their lives.
            time.sleep(0.05 * (kill % 5))
            hit.append(replicated.streams_on(victim))
            victim.kill()
            enough = load.answered + streams
            eventually(lambda enough=enough: load.answered >= enough, 300, "answers without it")
            victim.__enter__()
            eventually(lambda: replicated.fit() == 2, 60, "it is used again")
    assert not load.failures, f"{len(load.failures)} of {load.answered}: {Counter(load.failures).most_common(5)}"
    resumed = int(replicated.metric('weft_gateway_resumptions_total{outcome="resumed"}'))
    assert resumed >= kills, "streams were hit"
    with capsys.disabled():
        print(f"\n{load.answered} answers on {streams} streams, {kills} kills that hit {sum(hit)}, {resumed} resumed")
