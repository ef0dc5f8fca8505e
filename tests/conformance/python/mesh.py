"""The mesh under test: started, stopped and hurt from here, through `weft` as a user would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from ports import is_free

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[3]
GENERATED = ROOT / ".weft" / "conformance" / "client"
RUN_DIR = ROOT / ".weft" / "conformance" / "run"
# Where the executables are; they are built by the same `cargo build` as the tests.
BINARIES = Path(os.environ.get("WEFT_BINARIES", ROOT / "target" / "debug"))
SERVICES = ("tokenizer", "inference", "safety", "gateway")
# A machine with two busy cores is slow to load a model; a hang is still found.
START_LIMIT_S = 180
# Ports of the default layout, Jaeger's included, from which a free offset is sought.
PORTS = (8080, 50051, 50061, 50062, 50063, 60051, 60061, 60062, 60063, 4317, 4318, 16685, 16686, 13133)


def generate_client() -> None:
    """Generates the client from the contracts, as any user of Weft would."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    command = [
        *[sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}"],
        *[f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"],
    ]
    subprocess.run([*command, *protos], check=True)


def eventually(check: Callable[[], T | None], within_s: float, what: str) -> T:
    """Calls `check` until it returns something true; fails when that takes longer than `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


class Mesh:
    """Four services and Jaeger on ports of their own."""

    def __init__(self) -> None:
        self._offset = free_offset()

    def weft(self, *words: str, limit_s: float = 60) -> str:
        """Runs a `weft` command and returns what it printed."""
        command = [BINARIES / "weft", "--run-dir", RUN_DIR, "--color", "never", *words]
        done = subprocess.run(
            command, cwd=ROOT, timeout=limit_s, check=False, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"`weft {' '.join(words)}` ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def up(self) -> str:
        """Starts what does not run; returns when the mesh has given its first real answer."""
        return self.weft("up", "--port-offset", str(self._offset), limit_s=START_LIMIT_S)

    def down(self) -> None:
        """Stops everything."""
        self.weft("down")

    def address(self, service: str) -> str:
        """Where a service takes gRPC."""
        return self._ports(service)["listen"]

    def openai(self) -> str:
        """The base URL of the gateway's HTTP API."""
        return f"http://{self._ports('gateway')['http']}/v1"

    def channel(self, service: str) -> grpc.Channel:
        """A new channel to a service, with a connection of its own."""
        # Else channels to the same address share one connection, and its reconnect back-off after a kill.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        return grpc.insecure_channel(self.address(service), options)

    def page(self, service: str, path: str) -> str:
        """A page of a service's admin port."""
        return fetch(f"http://{self._ports(service)['admin']}{path}")

    def jaeger(self, path: str) -> Any:
        """An answer of Jaeger's query API."""
        return json.loads(fetch(f"{self.jaeger_address()}{path}"))

    def jaeger_address(self) -> str:
        """Where Jaeger answers queries."""
        return f"http://127.0.0.1:{self._state()['layout']['jaeger']['query']}"

    def pid(self, service: str) -> int:
        """The process of a service."""
        return int((RUN_DIR / f"{service}.pid").read_text().splitlines()[0])

    def kill(self, service: str) -> None:
        """`kill -9`: no goodbye."""
        os.kill(self.pid(service), signal.SIGKILL)

    def memory_mib(self, service: str) -> float:
        """Memory that a service holds for itself: without the model file, which it only maps."""
        for line in Path(f"/proc/{self.pid(service)}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the kernel does not tell RssAnon")

    def _ports(self, service: str) -> dict[str, str]:
        return self._state()["layout"]["services"][service]

    @staticmethod
    def _state() -> Any:
        return json.loads((RUN_DIR / "state.json").read_text())


def free_offset() -> int:
    """A distance from the default ports at which all are free, so that a mesh that runs already stays undisturbed."""
    for offset in range(1_100, 5_000, 100):
        if all(is_free(port + offset) for port in PORTS):
            return offset
    raise AssertionError("no free ports")


def fetch(url: str) -> str:
    """The body of a page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
