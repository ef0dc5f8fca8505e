"""All four services in release mode, by the commands that users have."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from contenders import MissingError
from places import HERE, OUT, RELEASE, ROOT

# Apart from the default layout and from the conformance tests', so that a mesh that runs stays undisturbed.
PORT_OFFSET = "5000"
GATEWAY_PORT = 50051


class Mesh:
    """The mesh with the default model, up while the block runs."""

    def __enter__(self) -> "Mesh":
        program = RELEASE / "weft"
        if not program.exists():
            raise MissingError("not built: cargo build --release --bins")
        self._weft = [program, "--run-dir", OUT / "run", "--color", "never"]
        began = time.monotonic()
        self._run("up", "--port-offset", PORT_OFFSET, "--no-jaeger")
        self.up_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._run("down")

    def bench(self, streams: int) -> dict[str, Any]:
        """One closed loop of as many requests as streams, 128 in and 128 out; gives `weft bench`'s report."""
        report = OUT / "weft.json"
        self._run(
            *["bench", "--json", str(report), "--temperature", "0", "--ignore-eos", "--concurrency", str(streams)],
            *["--requests", str(streams), "--warm-up", str(min(streams, 8))],
            *["--prompt-tokens", "128", "--max-tokens", "128"],
        )
        found = json.loads(report.read_text())
        if found["tokens"]["completion"] != streams * 128 or not found["settings"]["exact_prompts"]:
            raise MissingError(f"not what was asked for: {found['tokens']}, {found['settings']}")
        return found

    def structured_load(self, count: int) -> dict[str, Any]:
        """What `structured_load.py` found, with a client that is generated for it."""
        python = ROOT / ".weft" / "venv-clients" / "bin" / "python"
        if not python.exists():
            raise MissingError("not installed: python3 deploy/setup/setup.py clients")
        client = OUT / "client"
        client.mkdir(exist_ok=True)
        protos = sorted((ROOT / "proto").rglob("*.proto"))
        words = ["-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={client}"]
        run([python, *words, f"--grpc_python_out={client}", *protos])
        address = f"127.0.0.1:{GATEWAY_PORT + int(PORT_OFFSET)}"
        return json.loads(run([python, HERE / "structured_load.py", address, client, str(count)]).splitlines()[-1])

    def _run(self, *words: str) -> None:
        run([*self._weft, *words])


def run(command: list[str | Path]) -> str:
    """Runs a command to its end; gives what it printed."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-400:]
        raise MissingError(
            f"`{' '.join(Path(word).name for word in command[:5])}` ended with {done.returncode}: {said}"
        )
    return done.stdout
