"""The example clients beside this folder: how each language's are generated, built and started."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mesh import GENERATED, ROOT

CLIENTS = ROOT / "tests" / "conformance"
GO_BINARIES = ROOT / ".weft" / "conformance" / "go"
BUF = ROOT / ".weft" / "venv-tools" / "bin" / "buf"
# A build from nothing, on two cores that have other work too.
BUILD_LIMIT_S = 600


@dataclass(frozen=True)
class Language:
    """One language's examples."""

    name: str
    build: Callable[[], None]
    """Generates and compiles them."""
    command: Callable[[str], list[str | Path]]
    """What starts the one of this name."""

    def run(self, example: str, *words: str, limit_s: float = 90) -> subprocess.CompletedProcess[str]:
        """Runs an example to its end."""
        return subprocess.run(
            [*self.command(example), *words],
            env=os.environ | {"PYTHONPATH": str(GENERATED)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def output(self, example: str, *words: str) -> str:
        """Runs an example that must succeed; returns what it printed."""
        done = self.run(example, *words)
        assert done.returncode == 0, f"{self.name} {example} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


def build_go() -> None:
    """The plugins of `client-go` generate the client; Go verifies every module against go.sum."""
    folder = CLIENTS / "go"
    shutil.rmtree(folder / "gen", ignore_errors=True)
    run([BUF, "generate", ROOT / "proto"], folder, {"PATH": f"{ROOT / '.weft' / 'client-go'}:{os.environ['PATH']}"})
    GO_BINARIES.mkdir(parents=True, exist_ok=True)
    # As set-up calls Go, so that nothing of the standard library is compiled twice; and fetch nothing.
    variables = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0", "GOPROXY": "off"}
    run(["go", "build", "-mod=readonly", "-trimpath", "-o", GO_BINARIES, "./..."], folder, variables)


def build_java() -> None:
    """Maven generates the client and compiles, from the repository of `client-java` alone."""
    folder = CLIENTS / "java"
    # Of another version of the pom there may be libraries of other versions.
    shutil.rmtree(folder / "target" / "lib", ignore_errors=True)
    repository = f"-Dmaven.repo.local={ROOT / '.weft' / 'client-java'}"
    run(["mvn", "--batch-mode", "--quiet", "--offline", repository, "compile"], folder)


def build_nothing() -> None:
    """Node.js loads the contracts when it starts; for Python, `conftest` has generated the client."""


def java(example: str) -> list[str | Path]:
    """The command that starts an example in Java."""
    target = CLIENTS / "java" / "target"
    return ["java", "-cp", f"{target / 'classes'}:{target / 'lib'}/*", f"example.{example.capitalize()}"]


def run(command: list[str | Path], folder: Path, variables: dict[str, str] | None = None) -> None:
    """Runs a step of a build; a missing tool or a failure is said in full."""
    name = " ".join(Path(word).name for word in command[:2])
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | (variables or {}), stdin=subprocess.DEVNULL, timeout=BUILD_LIMIT_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as missing:
        raise AssertionError(f"`{name}` cannot be started: run `make test-setup`") from missing
    assert done.returncode == 0, f"`{name}` ended with {done.returncode}:\n{done.stdout}"


LANGUAGES = [
    Language("python", build_nothing, lambda example: [sys.executable, CLIENTS / "python" / f"{example}.py"]),
    Language("go", build_go, lambda example: [GO_BINARIES / example]),
    Language("node", build_nothing, lambda example: ["node", CLIENTS / "node" / f"{example}.js"]),
    Language("java", build_java, java),
]
