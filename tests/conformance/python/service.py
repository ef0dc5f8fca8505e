"""One service as a process of its own, on ports of its own."""

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mesh import ROOT, START_LIMIT_S, fetch
from ports import free_port

# Longer than any of them waits for its calls.
STOP_LIMIT_S = 330


class Service:
    """A running service; leaving the context stops it."""

    def __init__(
        self,
        binaries: Path,
        name: str,
        log: Path,
        config: Path | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        **settings: str,
    ) -> None:
        """`settings` override keys of its config (the one of the repository), as `model__folder="models/m"`.

        `credentials` are those of the channel to it, where it serves TLS.
        """
        self.address = f"127.0.0.1:{free_port()}"
        self._admin = f"127.0.0.1:{free_port()}"
        self._log = log
        self.name = name
        self._credentials = credentials
        own = {"server__listen": self.address, "server__admin": self._admin}
        self.http = f"127.0.0.1:{free_port()}"
        if name == "gateway":
            own["http__listen"] = self.http
        given = own | {"telemetry__otlp_endpoint": ""} | settings
        self._variables = {f"WEFT__{key.upper()}": value for key, value in given.items()}
        config = config or ROOT / "deploy" / "config" / f"{name}.toml"
        self._command = [binaries / f"weft-{name}", "--config", config]

    def kill(self) -> None:
        """`kill -9`: no goodbye. Entering the context again starts it again, at the same address."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Asks it to end, as an orchestrator does, and starts it again at the same address."""
        self._channel.close()
        self._stop()
        self.__enter__()

    def openai(self) -> str:
        """The base URL of a gateway's HTTP API."""
        return f"http://{self.http}/v1"

    def page(self, path: str) -> str:
        """A page of its admin port."""
        return fetch(f"http://{self._admin}{path}")

    def __enter__(self) -> grpc.Channel:
        """A channel to the service, which is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=os.environ | self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._channel = self._connect()
        except BaseException:
            self._stop()
            raise
        return self._channel

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stops the service."""
        self._channel.close()
        self._stop()

    def _connect(self) -> grpc.Channel:
        """The service listens from its first moment and is healthy when its model is warm."""
        options = [("grpc.max_receive_message_length", -1)]
        if self._credentials:
            channel = grpc.secure_channel(self.address, self._credentials, options)
        else:
            channel = grpc.insecure_channel(self.address, options)
        deadline = time.monotonic() + START_LIMIT_S
        while not self._is_healthy(channel):
            if self._process.poll() is not None or time.monotonic() > deadline:
                channel.close()
                raise RuntimeError(f"{self.name} did not start; its log:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.05)
        return channel

    @staticmethod
    def _is_healthy(channel: grpc.Channel) -> bool:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
