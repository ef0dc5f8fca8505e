"""Who is measured: how each is started, and asked for a round.

A contender is named `NAME FORMAT`, such as `weft bf16` or `openvino int4`. All but llama.cpp are workers: processes
that load once, then answer rounds of requests with the time of every token (`peers/serve.py`). A worker that has
nothing to do is stopped by signal, so that nobody measures his neighbour.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

from measure import Round, Turn, turn_of_times
from places import HERE, MODEL, OUT, RELEASE, ROOT

# For a start (vLLM's first compiles for minutes) and for one turn.
START_PATIENCE_S, TURN_PATIENCE_S = 600, 180
THREADS = 2
STEP_TOKENS = 512
LLAMA = OUT / "llama.cpp" / "llama-batched-bench"
GGUF = {"bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
OPENVINO = {"bf16": "fp16", "int8": "int8", "int4": "int4"}


class MissingError(Exception):
    """A contender that cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Contender:
    """Who, with which weights, and with how much memory for keys and values."""

    name: str
    format: str
    cache_gib: int = 1

    @property
    def label(self) -> str:
        """As the report names it."""
        return f"{self.name} {self.format}"


@dataclass
class Worker:
    """A process that answers rounds."""

    contender: Contender
    command: list[str]
    log: Path
    about: dict[str, Any] = field(default_factory=dict)
    start_s: float = 0.0
    peak_rss: int = 0

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        began = time.monotonic()
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            )
        self.about = self._read(START_PATIENCE_S)
        self.start_s = time.monotonic() - began
        self._signal(signal.SIGSTOP)

    def turn(self, asked: Round) -> Turn:
        """One turn."""
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(asked.as_json()) + "\n")
        self._process.stdin.flush()
        found = self._read(TURN_PATIENCE_S)
        self.peak_rss = self._read_peak_rss()
        self._signal(signal.SIGSTOP)
        return turn_of_times(asked, found)

    def stop(self) -> None:
        """Ends it: by the end of its input, else by signal."""
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _read(self, patience_s: int) -> dict[str, Any]:
        # Who takes too long is ended, and that ends the wait for his answer.
        alarm = Timer(patience_s, self._signal, [signal.SIGKILL])
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if line:
            return json.loads(line)
        if self._process.wait() == -signal.SIGKILL:
            raise MissingError(f"ended after {patience_s} s without an answer")
        tail = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()][-3:]
        raise MissingError(f"ended with {self._process.returncode}: {' / '.join(tail)[-500:]}")

    def _signal(self, number: signal.Signals) -> None:
        # The group, so that helpers of its own are meant, too.
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _read_peak_rss(self) -> int:
        """The most memory it ever held, with its children, in bytes."""
        group = [path.parent for path in Path("/proc").glob("[0-9]*/stat") if group_of(path) == self._process.pid]
        return sum(status_bytes(path / "status", "VmHWM") for path in group)


def group_of(stat: Path) -> int | None:
    """The process group of a process."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[2])
    except OSError:
        return None


def status_bytes(status: Path, key: str) -> int:
    """One figure of `/proc/PID/status`."""
    lines = (line.split() for line in status.read_text().splitlines() if line.startswith(f"{key}:"))
    return sum(int(words[1]) * 1024 for words in lines)


@dataclass
class LlamaBench:
    """llama.cpp by its own `llama-batched-bench`, a process a turn: the same counts of tokens, its own random ids."""

    contender: Contender
    model: Path
    about: dict[str, Any] = field(default_factory=dict)
    start_s: float = 0.0
    peak_rss: int = 0

    def turn(self, asked: Round) -> Turn:
        """One turn. Only rounds of equal requests that all run at once."""
        prompt, output, streams = asked.uniform()
        words = ["-npp", prompt, "-ntg", output, "-npl", streams, "-c", streams * (prompt + output) + 256]
        words += ["-b", 2048, "-ub", STEP_TOKENS, "-t", THREADS, "-tb", THREADS, "--output-format", "jsonl"]
        done = subprocess.run(
            [LLAMA, "-m", self.model, *map(str, words)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode != 0 or not lines:
            raise MissingError(f"llama-batched-bench ended with {done.returncode}: {done.stderr[-300:]}")
        found = json.loads(lines[-1])
        return Turn(
            output_per_s=streams * output / found["t"],
            decode_per_s=found["speed_tg"],
            ttft_p50_s=found["t_pp"],
            raw=found,
        )

    def stop(self) -> None:
        """Nothing runs between turns."""


class Pool:
    """The contenders that run, by name; those that a cell does not need are ended before it."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self._without = without
        self._running: dict[Contender, Worker | LlamaBench] = {}
        self._missing: dict[Contender, str] = {}

    def need(self, contenders: list[Contender]) -> tuple[dict[str, Worker | LlamaBench], dict[str, str]]:
        """Starts who does not run yet; gives who there is and, with the reason, who is not."""
        for contender in [running for running in self._running if running not in contenders]:
            self._running.pop(contender).stop()
        there, missing = {}, {}
        for contender in contenders:
            try:
                there[contender.label] = self._get(contender)
            except MissingError as why:
                self._missing[contender] = missing[contender.label] = str(why)
        return there, missing

    def drop(self, contender: Contender, why: str) -> None:
        """Ends one that failed, and remembers why."""
        self._missing[contender] = why
        self._running.pop(contender).stop()

    def _get(self, contender: Contender) -> "Worker | LlamaBench":
        if contender.name in self._without:
            raise MissingError("left out by --without")
        if contender in self._missing:
            raise MissingError(self._missing[contender])
        if contender not in self._running:
            self._running[contender] = started(contender)
        return self._running[contender]

    def close(self) -> None:
        """Ends all."""
        self.need([])


@contextmanager
def pool(without: frozenset[str]) -> Iterator[Pool]:
    """A pool that is empty again at the end, however that comes; `without` are the names that stay out."""
    made = Pool(without)
    try:
        yield made
    finally:
        made.close()


def started(contender: Contender) -> Worker | LlamaBench:
    """Starts a contender; one that is not installed is missing."""
    if contender.name == "llama.cpp":
        model = OUT / "models" / "gguf" / f"{GGUF[contender.format]}.gguf"
        require("bench-llama bench-llama-models", LLAMA, model)
        return LlamaBench(contender, model)
    commands = {"weft": weft, "openvino": openvino, "vllm": vllm, "transformers": transformers}
    command = [str(word) for word in commands[contender.name](contender)]
    log = OUT / "logs" / f"{contender.label.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    worker = Worker(contender, command, log)
    worker.start()
    return worker


def require(step: str, *paths: Path) -> None:
    """Fails where something is not installed, and says which step of set-up does it."""
    if not all(path.exists() for path in paths):
        raise MissingError(f"not installed: python3 deploy/setup/setup.py {step}")


def weft(contender: Contender) -> list[Any]:
    """The engine in process."""
    program = RELEASE / "examples" / "engine_bench"
    if not program.exists():
        raise MissingError("not built: cargo build --release -p weft-inference --example engine_bench")
    config = OUT / "logs" / f"weft-{contender.format}-{contender.cache_gib}.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(weft_config(contender.format, contender.cache_gib))
    return [program, config]


def weft_config(weights: str, cache_gib: int) -> str:
    """The inference service's configuration; bf16 is how the folder is."""
    lines = ["[model]", f'folder = "{MODEL}"', 'device = "cpu"', f"threads = {THREADS}"]
    if weights != "bf16":
        lines.append(f'weights = "{weights}"')
    lines += ["[kv_cache]", f'memory = "{cache_gib}GiB"', "[scheduler]", f"max_batched_tokens = {STEP_TOKENS}"]
    return "\n".join(lines) + "\n"


def openvino(contender: Contender) -> list[Any]:
    """OpenVINO GenAI."""
    python = OUT / "venv-openvino" / "bin" / "python"
    exported = OPENVINO[contender.format]
    model = OUT / "models" / f"openvino-{exported}"
    require(f"bench bench-openvino bench-openvino-{exported}", python, model)
    return [python, HERE / "peers" / "openvino_genai_peer.py", model, contender.cache_gib]


def vllm(contender: Contender) -> list[Any]:
    """The engine of vLLM on the CPU."""
    python = OUT / "venv-vllm" / "bin" / "python"
    require("bench-vllm", python)
    # As its log recommends: these two first, in every process that it starts.
    libraries = [
        path
        for name in ("libtcmalloc_minimal.so.4", "libiomp5.so")
        if (path := python.parents[1] / "lib" / name).exists()
    ]
    preload = f"LD_PRELOAD={':'.join(map(str, libraries))}"
    return ["env", preload, python, HERE / "peers" / "vllm_peer.py", MODEL, contender.cache_gib]


def transformers(_: Contender) -> list[Any]:
    """The library transformers on the CPU."""
    python = ROOT / ".weft" / "venv-bench" / "bin" / "python"
    require("bench", python)
    return [python, HERE / "peers" / "transformers_peer.py", MODEL]
