"""All four services in release mode, by the commands that users have."""

import json
import subprocess
import time
from typing import Any

from contenders import MissingError
from places import OUT, RELEASE, ROOT

# Apart from the default layout and from the conformance tests', so that a mesh that runs stays undisturbed.
PORT_OFFSET = "5000"

# For 32 streams at once, whom the gateway would tell to come back later where a machine is slow: here the way through
# the services is measured, not who is let in (`make bench-overload` does that).
ROOM = "gateway.admission.min_tokens_in_flight=24576"


class Mesh:
    """The mesh with the default model, up while the block runs."""

    def __enter__(self) -> "Mesh":
        program = RELEASE / "weft"
        if not program.exists():
            raise MissingError("not built: cargo build --release --bins")
        self._weft = [program, "--run-dir", OUT / "run", "--color", "never"]
        began = time.monotonic()
        self._run("up", "--port-offset", PORT_OFFSET, "--no-jaeger", "--set", ROOM)
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
            said = {part: found[part] for part in ("requests", "tokens", "settings")}
            raise MissingError(f"not what was asked for: {said}")
        return found

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [*self._weft, *words], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-400:]
            raise MissingError(f"`weft {words[0]}` ended with {done.returncode}: {said}")
