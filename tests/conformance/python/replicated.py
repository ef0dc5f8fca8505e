"""A mesh of several replicas, each a process of its own, and a load whose every answer is checked."""

import threading
from contextlib import ExitStack
from pathlib import Path

import grpc
from callers import Callers
from conversation import Answer, ask, collect_all
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
# What is asked for beside a greedy answer: whoever goes on must draw as the first one would have, for each answer.
OPTIONS = {
    "Write a poem about a loom.": {"n": 3, "sampling": {"temperature": 1, "seed": 7}},
    "Tell me a story about a fox.": {"sampling": {"temperature": 0.8, "top_p": 0.9, "seed": 11}},
}
# Services do not wait for their calls for long, so most of them go on elsewhere. A gateway waits for its own as long as
# they may take on a slow machine: nobody goes on for it. There admission would refuse what must wait longer than usual
# while a replica is away, so it lets all streams in: here every stream is to be seen through.
SERVICE_DRAIN_LIMIT = "1s"
GATEWAY = """
[drain]
announce = "1s"
limit = "300s"
[admission]
min_tokens_in_flight = 24576
max_wait = "60s"
"""
# For a channel to several gateways, whose addresses in a row are no authority. One that was away is found again soon
# after it is back: by default a client leaves it alone the longer, the longer it was away, and by then the next one may
# be gone.
SEVERAL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.default_authority", "weft"),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
]


class Replicated:
    """The four services, some of them more than once."""

    def __init__(self, folder: Path, dtype: str = "f32", **counts: int) -> None:
        """Nothing runs yet; logs go to `folder`. One of each, unless `counts` says otherwise."""
        self._stack = ExitStack()
        settings = {
            "tokenizer": {"tokenizer__folder": MODEL},
            "inference": {"model__folder": MODEL, "model__dtype": dtype, "model__threads": "1"},
        }
        self.services = {
            name: [
                Service(
                    BINARIES,
                    name,
                    folder / f"{name}-{n}.log",
                    drain__limit=SERVICE_DRAIN_LIMIT,
                    **settings.get(name, {}),
                )
                for n in range(counts.get(name, 1))
            ]
            for name in ("tokenizer", "safety", "inference")
        }
        config = folder / "gateway.toml"
        config.write_text(GATEWAY + "\n".join(map(self._section, self.services)))
        self.services["gateway"] = [
            Service(BINARIES, "gateway", folder / f"gateway-{n}.log", config) for n in range(counts.get("gateway", 1))
        ]
        self.gateway = self.services["gateway"][0]
        gateways = ",".join(gateway.address for gateway in self.services["gateway"])
        self.target = f"ipv4:{gateways}"
        """All gateways, as a gRPC client is given them."""

    def _section(self, name: str) -> str:
        addresses = ", ".join(f'"http://{replica.address}"' for replica in self.services[name])
        return f"[{name}]\naddresses = [{addresses}]\n"

    def __enter__(self) -> "Replicated":
        """All of them are ready, and so are all replicas in every gateway's eyes."""
        for replicas in self.services.values():
            for service in replicas:
                self._stack.enter_context(service)
        self.await_fit()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops them."""
        self._stack.close()

    def await_fit(self) -> None:
        """Waits until every gateway uses every replica."""
        for peer in ("tokenizer", "safety", "inference"):
            eventually(lambda peer=peer: self.fit(peer) == len(self.services[peer]), 60, f"all of {peer} are fit")

    def fit(self, peer: str) -> int:
        """Replicas that every gateway uses."""
        start = f'weft_rpc_client_replica_fit{{peer="{peer}"'
        return min(int(metric(gateway, start)) for gateway in self.services["gateway"])

    def resumed(self, peer: str) -> int:
        """Answers that went on at another replica of a service, in the first gateway."""
        labels = f'{{service="{peer}",outcome="resumed"}}'
        return int(metric(self.gateway, f"weft_gateway_resumptions_total{labels}"))

    def streams_on(self, replica: Service) -> int:
        """Calls of the first gateway to a replica that have not ended."""
        labels = f'{{peer="{replica.name}",replica="{replica.address}"}}'
        return int(metric(self.gateway, f"weft_rpc_client_replica_in_flight{labels}"))


def metric(service: Service, start: str) -> float:
    """The sum of a service's series that start so."""
    lines = service.page("/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))


class Load(Callers):
    """Chats that follow each other on several streams, whatever happens meanwhile."""

    def __init__(self, address: str, streams: int, expected: dict[str, list[Answer]], *, exact: bool = True) -> None:
        """`expected` are the undisturbed answers, which others must equal if `exact`; `address` may be several."""
        self.answered = 0
        self.failures: list[str] = []
        self.different: list[str] = []
        """Calls whose answers say something else than the undisturbed ones, where they need not be equal."""
        self._exact = exact
        self._address = address
        self._expected = expected
        super().__init__(streams, self._run)

    def _run(self, index: int, stopped: threading.Event) -> None:
        questions = list(self._expected)
        with grpc.insecure_channel(self._address, SEVERAL) as channel:
            gateway = GatewayServiceStub(channel)
            while not stopped.is_set():
                question = questions[index % len(questions)]
                index += 1
                try:
                    self._check(question, chat(gateway, question))
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()}: {error.details()}")
                # A stream that does not keep to the contract must not end its thread unseen.
                except (AssertionError, StopIteration) as error:
                    self.failures.append(f"{question}: {error!r}")
                self.answered += 1

    def _check(self, question: str, answers: list[Answer]) -> None:
        pairs = list(zip(answers, self._expected[question], strict=True))
        different = [
            f"{answer.token_ids} is not {expected.token_ids}"
            for answer, expected in pairs
            if (answer.token_ids, answer.text) != (expected.token_ids, expected.text)
        ]
        if different:
            (self.failures if self._exact else self.different).append(f"{question}: {'; '.join(different)}")
        for usage, whole in ((answer.finished.usage, expected.finished.usage) for answer, expected in pairs):
            if (usage.prompt_tokens, usage.completion_tokens) != (whole.prompt_tokens, whole.completion_tokens):
                self.failures.append(f"{question}: {usage} is not {whole}")


def chat(gateway: GatewayServiceStub, question: str) -> list[Answer]:
    """All answers to a question, whole."""
    options = OPTIONS.get(question, {})
    request = ask(question, max_tokens=TOKENS, ignore_eos=True, top_logprobs=0, **options)
    return collect_all(gateway.Chat(request, timeout=300), options.get("n", 1))


def undisturbed(address: str) -> dict[str, list[Answer]]:
    """What the answers to each question are."""
    with grpc.insecure_channel(address, SEVERAL) as channel:
        gateway = GatewayServiceStub(channel)
        return {question: chat(gateway, question) for question in QUESTIONS}
