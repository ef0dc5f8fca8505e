"""Runs the programs that set-up stands on (pip, go), with their progress shown and their failures explained."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread

from step import SetupError, duration

TAIL_LINES = 15


def run(command: Sequence[str | Path], scratch: Path, hint: str) -> None:
    """Runs a command that shows its own progress; `hint` says what to do when it fails."""
    done = subprocess.run(command, env=environment(scratch), stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise SetupError(f"`{spoken(command)}` ended with {done.returncode}. {hint}")


def run_quietly(
    command: Sequence[str | Path],
    scratch: Path,
    hint: str,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Runs a long command that shows nothing useful: a clock instead, and its last lines if it fails."""
    started = time.monotonic()
    log = scratch / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment(scratch) | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        Thread(target=show_clock, args=(process, started), daemon=True).start()
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        raise SetupError("\n    ".join([f"`{spoken(command)}` ended with {code}. {hint}", *tail]))


def show_clock(process: "subprocess.Popen[bytes]", started: float) -> None:
    """Says how long it has taken so far: on a terminal each second, in a log each half minute."""
    on_terminal = sys.stdout.isatty()
    while True:
        try:
            process.wait(timeout=1 if on_terminal else 30)
        except subprocess.TimeoutExpired:
            elapsed = duration(time.monotonic() - started)
            print(f"  … {elapsed}", end="\r" if on_terminal else "\n", flush=True)
        else:
            return


def environment(scratch: Path) -> dict[str, str]:
    """This process's environment, with temporary files where they are cleaned up whatever happens."""
    return os.environ | {"TMPDIR": str(scratch)}


def spoken(command: Sequence[str | Path]) -> str:
    """The command as a person would name it: `pip download`, `go build`."""
    words = [Path(word).name for word in command if not str(word).startswith("-")]
    if words[0].startswith("python"):
        words = words[1:]
    return " ".join(words[:2])
