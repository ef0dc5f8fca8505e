"""A Kubernetes API: a real kube-apiserver on a real etcd, without nodes. Whoever writes EndpointSlices is the test."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from mesh import ROOT, eventually
from ports import free_port

PROGRAMS = ROOT / ".weft" / "bin"
NAMESPACE = "weft"
ADMIN = "the-administrators-token"
DISCOVERY = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
RBAC = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
ACCOUNTS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"


class Cluster:
    """The API server and its store; leaving the context stops both."""

    def __init__(self, folder: Path) -> None:
        """Certificates, keys, data and logs go to `folder`."""
        self._folder = folder
        self._etcd_port, self._port = free_port(), free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        """The API answers, and has the namespace."""
        self._make_secrets()
        self._start("etcd", self._etcd_flags())
        self.start_api()
        self.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        return self

    def __exit__(self, *_: object) -> None:
        """Stops them; nothing of it is needed again."""
        for process in reversed(self._running.values()):
            process.kill()
            process.wait()

    def start_api(self) -> None:
        """Starts the API server, and waits until it answers."""
        self._start("kube-apiserver", self._api_flags())
        eventually(self._is_ready, 180, "the API server is ready")

    def kill_api(self) -> None:
        """`kill -9`: watches end without a goodbye."""
        process = self._running.pop("kube-apiserver")
        process.kill()
        process.wait()

    def apply(self, manifest: Path) -> None:
        """Creates what a file of documents says, as `kubectl create` does."""
        kinds = {
            "ServiceAccount": ACCOUNTS,
            "Role": f"{RBAC}/roles",
            "RoleBinding": f"{RBAC}/rolebindings",
        }
        for document in manifest.read_text().split("\n---\n"):
            kind = next(line for line in document.splitlines() if line.startswith("kind: ")).split()[1]
            self._ask("POST", kinds[kind], document.encode(), "application/yaml")

    def post(self, path: str, what: dict[str, Any]) -> Any:
        """Creates something."""
        return self._ask("POST", path, json.dumps(what).encode())

    def put_slice(self, name: str, service: str, endpoint: dict[str, Any], port: int) -> None:
        """Creates or replaces the EndpointSlice of one pod."""
        labels = {"kubernetes.io/service-name": service}
        body = {"metadata": {"name": name, "labels": labels}, "addressType": "IPv4", "endpoints": [endpoint]}
        body["ports"] = [{"name": "grpc", "port": port}]
        try:
            self._ask("PUT", f"{DISCOVERY}/{name}", json.dumps(body).encode())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            self.post(DISCOVERY, body)

    def delete_slice(self, name: str) -> None:
        """Removes an EndpointSlice."""
        self._ask("DELETE", f"{DISCOVERY}/{name}")

    def kubeconfig(self, account: str) -> Path:
        """A kubeconfig with a token that the API server made for a service account."""
        token = self.token(account)
        cluster = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority": str(self._certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": account}}],
            "current-context": "it",
        }
        path = self._folder / f"{account}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def token(self, account: str) -> str:
        """A token that the API server made for a service account."""
        return self.post(f"{ACCOUNTS}/{account}/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]

    def mount(self, folder: Path, token: str) -> dict[str, str]:
        """Lays in `folder` what a pod finds of its account; gives what it finds in its environment."""
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self._certificate.read_bytes())
        (folder / "namespace").write_text(NAMESPACE)
        (folder / "token").write_text(token)
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self._port)}

    @property
    def _certificate(self) -> Path:
        """The API server makes it on its first start, for its own address."""
        return self._folder / "certificates" / "apiserver.crt"

    def _make_secrets(self) -> None:
        key = self._folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self._folder / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n")

    def _etcd_flags(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{free_port()}"
        return [
            f"--data-dir={self._folder / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def _api_flags(self) -> list[str]:
        key = self._folder / "accounts.key"
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder / 'certificates'}",
            # Nobody reaches it through a Service of its own.
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
        ]

    def _start(self, program: str, flags: list[str]) -> None:
        with (self._folder / f"{program}.log").open("ab") as log:
            self._running[program] = subprocess.Popen(
                [PROGRAMS / program, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _is_ready(self) -> bool:
        for program, process in self._running.items():
            log = self._folder / f"{program}.log"
            assert process.poll() is None, f"{program} has ended:\n{log.read_text(errors='replace')[-4000:]}"
        try:
            self._ask("GET", "/readyz")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": kind, "Accept": "application/json"}
        request = urllib.request.Request(
            f"https://127.0.0.1:{self._port}{path}", data=body, headers=headers, method=method
        )
        trust = ssl.create_default_context(cafile=str(self._certificate))
        with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith("{") else text
