"""The gateway with its replicas of inference from a real API server's EndpointSlices."""

import json
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from cluster import ACCOUNTS, NAMESPACE, RBAC, Cluster
from conversation import LENGTH, ask, collect
from mesh import BINARIES, ROOT, eventually
from service import Service
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

ADDRESS = f"kubernetes://{NAMESPACE}/inference:grpc"
MANIFEST = ROOT / "deploy" / "kubernetes" / "gateway-discovery.yaml"
ACCOUNT = "weft-gateway"
# Runs a program where the folder of a pod's account is, and no kubeconfig.
AS_IN_A_POD = """
set -e
mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
mount --bind "$1" /run/secrets/kubernetes.io/serviceaccount
shift
exec env -u KUBECONFIG "$@"
"""


def own_address() -> str:
    """An address of this machine beside loopback's, which Kubernetes refuses in a slice."""
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    found = [address for address in said if ":" not in address]
    assert found, "this machine has no IPv4 address but loopback's; EndpointSlices may not hold those"
    return found[0]


class Pod(Service):
    """A replica of inference, where a slice can say that it is."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(BINARIES, "inference", folder / f"{name}.log", model__threads="1")
        self.name = name
        self.host, self.port = own_address(), int(self.address.rsplit(":", 1)[1])
        self.address = f"{self.host}:{self.port}"
        self._variables["WEFT__SERVER__LISTEN"] = self.address

    def generations(self) -> int:
        """Generations that it has been asked for, the running ones included."""
        method = 'method="weft.inference.v1.InferenceService/Generate"'
        lines = [line for line in self.page("/metrics").splitlines() if method in line]
        names = ("weft_rpc_server_calls_total", "weft_rpc_server_calls_in_flight")
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(names))


class Gateway(Service):
    """A gateway that finds inference in Kubernetes."""

    def __init__(self, log: Path, kubeconfig: Path, **peers: str) -> None:
        super().__init__(BINARIES, "gateway", log, inference__address=ADDRESS, **peers)
        self._variables["KUBECONFIG"] = str(kubeconfig)

    def metric(self, start: str) -> float:
        """The sum of its series that start so."""
        lines = self.page("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def fit(self) -> int:
        """Replicas of inference that it uses."""
        return int(self.metric('weft_rpc_client_replica_fit{peer="inference"'))

    def stale_since(self) -> float:
        return self.metric('weft_gateway_discovery_stale_since_timestamp_seconds{service="inference"}')

    def missing(self) -> dict[str, str]:
        """The conditions that do not hold, and why."""
        try:
            page = self.page("/readyz")
        except urllib.error.HTTPError as error:
            page = error.read().decode()
        except urllib.error.URLError as error:
            return {"process": f"does not listen yet: {error.reason}"}
        return {one["name"]: one["reason"] for one in json.loads(page)["conditions"] if not one["holds"]}


class Unready(Gateway):
    """One that is not ready at first."""

    def _connect(self) -> grpc.Channel:
        eventually(lambda: "process" not in self.missing(), 60, "it listens")
        return grpc.insecure_channel(self.address)


class InPod(Unready):
    """One that has nothing but what a pod is given: the token, the authority and the address of the API server."""

    def __init__(self, folder: Path, cluster: Cluster, token: str, **peers: str) -> None:
        super().__init__(folder / "in-pod.log", folder / "no-kubeconfig", **peers)
        account = folder / "account"
        self._variables |= {"HOME": str(folder), **cluster.mount(account, token)}
        self._command = ["unshare", "-rm", "sh", "-c", AS_IN_A_POD, "sh", account, *self._command]


class Deployed:
    """The mesh: two pods of inference behind a Service, the rest beside them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.pods = [Pod("inference-0", folder), Pod("inference-1", folder)]

    def __enter__(self) -> "Deployed":
        self.cluster = self._stack.enter_context(Cluster(self._folder))
        self.cluster.apply(MANIFEST)
        tokenizer = Service(BINARIES, "tokenizer", self._folder / "tokenizer.log")
        safety = Service(BINARIES, "safety", self._folder / "safety.log")
        self.peers = {
            "tokenizer__address": f"http://{tokenizer.address}",
            "safety__address": f"http://{safety.address}",
        }
        for service in [tokenizer, safety, *self.pods]:
            self._stack.enter_context(service)
        for pod in self.pods:
            self.place(pod)
        self.gateway = Gateway(self._folder / "gateway.log", self.cluster.kubeconfig(ACCOUNT), **self.peers)
        self.stub = GatewayServiceStub(self._stack.enter_context(self.gateway))
        self.uses(2)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def place(self, pod: Pod, **conditions: bool) -> None:
        """The slice of a pod says where it is and how it is."""
        endpoint = {"addresses": [pod.host], "conditions": {"ready": True} | conditions}
        self.cluster.put_slice(pod.name, "inference", endpoint, pod.port)

    def uses(self, count: int) -> None:
        """Waits until the gateway uses so many replicas."""
        eventually(lambda: self.gateway.fit() == count, 60, f"{count} replicas are used")

    def chat(self, text: str, tokens: int = 4) -> None:
        """A short answer, whole."""
        answer = collect(self.stub.Chat(ask(text, max_tokens=tokens, ignore_eos=True), timeout=120))
        assert answer.finished.reason == LENGTH

    def reaches(self, pod: Pod) -> None:
        """Some of many generations come to a pod: one after another, they would follow their common beginning."""
        before = pod.generations()

        def arrived() -> bool:
            request = ask("What is the capital of France?", max_tokens=8, ignore_eos=True)
            for stream in [self.stub.Chat(request, timeout=120) for _ in range(24)]:
                assert collect(stream).finished.reason == LENGTH
            return pod.generations() > before

        eventually(arrived, 120, f"a generation at {pod.name}")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with Deployed(tmp_path_factory.mktemp("kubernetes")) as deployed:
        yield deployed


def test_calls_go_to_all_endpoints(deployed: Deployed):
    for pod in deployed.pods:
        deployed.reaches(pod)
    assert deployed.gateway.stale_since() == 0


def test_a_pod_that_is_about_to_stop_gets_no_new_stream_and_its_running_one_ends_whole(deployed: Deployed):
    tokens = 600
    before = [pod.generations() for pod in deployed.pods]
    stream = deployed.stub.Chat(ask("Tell me a long story.", max_tokens=tokens, ignore_eos=True, top_logprobs=0))
    started = next(stream)
    leaving = next(pod for pod, count in zip(deployed.pods, before, strict=True) if pod.generations() > count)
    deployed.place(leaving, ready=False, serving=True, terminating=True)
    deployed.uses(1)
    held = leaving.generations()
    for number in range(6):
        deployed.chat(f"What is {number} and {number}?")
    assert leaving.generations() == held, "a new stream came to it"
    answer = collect([started, *stream])
    assert answer.finished.reason == LENGTH
    assert len(answer.token_ids) == tokens
    assert deployed.gateway.metric("weft_gateway_resumptions_total") == 0, "it ended where it began"
    deployed.cluster.delete_slice(leaving.name)
    deployed.place(leaving)
    deployed.uses(2)
    deployed.reaches(leaving)


def test_an_api_server_that_is_away_changes_nothing(deployed: Deployed):
    deployed.cluster.kill_api()
    eventually(lambda: deployed.gateway.stale_since() > 0, 30, "it is known to be away")
    for pod in deployed.pods:
        deployed.reaches(pod)
    assert deployed.gateway.fit() == 2
    assert deployed.gateway.missing() == {}
    deployed.cluster.start_api()
    eventually(lambda: deployed.gateway.stale_since() == 0, 60, "it is known to be back")
    deployed.cluster.delete_slice(deployed.pods[0].name)
    deployed.uses(1)
    deployed.place(deployed.pods[0])
    deployed.uses(2)


def test_an_account_without_the_role_is_told_what_it_lacks_and_is_let_in_when_it_has_it(
    deployed: Deployed, tmp_path: Path
):
    cluster = deployed.cluster
    cluster.post(ACCOUNTS, {"metadata": {"name": "stranger"}})
    gateway = Unready(tmp_path / "stranger.log", cluster.kubeconfig("stranger"), **deployed.peers)
    with gateway:
        refusal = 'cannot list resource "endpointslices" in API group "discovery.k8s.io" in the namespace "weft"'
        found = eventually(lambda: told(gateway, "is forbidden"), 60, "the refusal is shown")
        assert refusal in found
        assert f"system:serviceaccount:{NAMESPACE}:stranger" in found
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "weft-gateway-discovery"}
        subject = {"kind": "ServiceAccount", "name": "stranger", "namespace": NAMESPACE}
        binding = {"metadata": {"name": "stranger"}, "roleRef": role, "subjects": [subject]}
        cluster.post(f"{RBAC}/rolebindings", binding)
        eventually(lambda: gateway.fit() == 2, 60, "both replicas are used")
        eventually(lambda: gateway.missing() == {}, 60, "it is ready")


def test_a_pods_own_account_is_used_and_its_token_read_again_when_it_was_renewed(deployed: Deployed, tmp_path: Path):
    cluster = deployed.cluster
    gateway = InPod(tmp_path, cluster, "a-token-of-yesterday", **deployed.peers)
    with gateway:
        eventually(lambda: told(gateway, "Unauthorized"), 60, "the refusal is shown")
        cluster.mount(tmp_path / "account", cluster.token(ACCOUNT))
        # As with the kubelet, which renews it long before it expires, the file is looked at once a minute.
        eventually(lambda: gateway.fit() == 2, 120, "both replicas are used")
        eventually(lambda: gateway.missing() == {}, 60, "it is ready")


def told(gateway: Gateway, word: str) -> str | None:
    """Why the replicas are not known, once that has a certain word."""
    why = gateway.missing().get("inference-discovery", "")
    return why if word in why else None
