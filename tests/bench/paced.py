"""The mesh with an engine that takes a fixed time for each step: real processes, and none of a real model's noise."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from places import OUT, RELEASE, ROOT

sys.path.insert(0, str(ROOT / "tests" / "conformance" / "python"))

from ports import free_port

CLIENT = OUT / "client"
START_LIMIT_S = 60
# Another build, as in the conformance tests.
BINARIES = Path(os.environ.get("WEFT_BINARIES", RELEASE))
EXAMPLES = BINARIES / "examples"
CONFIG = ROOT / "deploy" / "config"
SERVICES = ("tokenizer", "inference", "safety", "gateway")


def generate_client() -> None:
    """Generates the Python client from the contracts, and makes it importable."""
    CLIENT.mkdir(parents=True, exist_ok=True)
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    command = [
        *[sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}"],
        *[f"--python_out={CLIENT}", f"--grpc_python_out={CLIENT}"],
    ]
    subprocess.run([*command, *protos], check=True)
    sys.path.insert(0, str(CLIENT))


class Mesh:
    """Four processes on free ports of the loopback interface; leaving the context stops them."""

    def __init__(self, engine: str, settings: dict[str, dict[str, str]]) -> None:
        """`engine` is an example; `settings` are of each service, as `{"gateway": {"limits__max_tools": "0"}}`."""
        self.engine = engine
        self.settings = settings
        self.address = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
        self.admin = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
        self.pid: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Mesh":
        try:
            for name in SERVICES:
                self.pid[name] = self._stack.enter_context(self._process(name))
            for name in SERVICES:
                self._await_ready(name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def metric(self, service: str, name: str) -> float:
        """The sum of a metric over its labels."""
        page = fetch(f"http://{self.admin[service]}/metrics")
        lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
        return sum(float(value) for key, value in lines if key.split("{")[0] == name)

    @contextmanager
    def _process(self, name: str) -> Iterator[int]:
        program = EXAMPLES / self.engine if name == "inference" else BINARIES / f"weft-{name}"
        own = {"server__listen": self.address[name], "server__admin": self.admin[name], "telemetry__otlp_endpoint": ""}
        if name == "gateway":
            own |= {f"{peer}__address": f"http://{self.address[peer]}" for peer in SERVICES[:3]}
            # Such an engine has no vocabulary to show.
            own["readiness__allow_unknown_vocabulary"] = "true"
        settings = own | self.settings.get(name, {})
        variables = {f"WEFT__{key.upper()}": value for key, value in settings.items()}
        # A metronome knows none of the keys of inference.
        config = Path(os.devnull) if self.engine == "metronome" and name == "inference" else CONFIG / f"{name}.toml"
        with (OUT / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--config", config], cwd=ROOT, env=os.environ | variables,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await_ready(self, name: str) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                fetch(f"http://{self.admin[name]}/readyz")
            except OSError:
                if time.monotonic() > deadline:
                    log = (OUT / f"{name}.log").read_text(errors="replace")
                    raise RuntimeError(f"{name} is not ready; its log:\n{log[-2000:]}") from None
                time.sleep(0.05)
            else:
                return


def cpu_s(pid: int) -> float:
    """Seconds that a process has spent on a core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def await_listener(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when somebody listens on a port."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (OUT / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} does not listen; its log:\n{log[-2000:]}") from None
            time.sleep(0.05)
        else:
            return


def fetch(url: str) -> str:
    """The body of a page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def channel(address: str) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    return grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
