"""One step of set-up: makes one file or folder, wholly or not at all.

A step works in a folder beside its target and renames the result into place, so that whatever stops it (a cut
network, a full disk, a kill) leaves the target as it was. A stamp, the hash of everything the result depends on,
tells the next run that there is nothing to do. A lock per step keeps two runs apart.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


class SetupError(Exception):
    """A step that cannot be done; the text says what happened and what to do about it."""


@dataclass(frozen=True)
class Step:
    """What a step makes, from what, and how."""

    name: str
    makes: str
    """What a person gets from it, in a few words."""
    target: Path
    """The file or folder it makes."""
    make: Callable[[Path, Path], None]
    """Makes its first argument, a path that does not exist yet; the second is a scratch folder."""
    inputs: tuple[Path, ...] = ()
    """The files that decide the result: when one changes, the step runs again."""
    facts: tuple[str, ...] = ()
    """Whatever else decides the result."""
    needs_mib: int = 64
    """Free disk space it takes while it works."""

    def digest(self) -> str:
        """The hash of everything that decides the result."""
        total = hashlib.sha256(repr((self.name, self.target.name, self.facts)).encode())
        for path in self.inputs:
            total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()


@dataclass(frozen=True)
class Ledger:
    """Remembers in a folder what has been made, and who is making what."""

    folder: Path
    say: Callable[[str], None] = field(default=lambda line: print(line, flush=True))

    def run(self, step: Step) -> bool:
        """Brings the step's target up to date; returns whether there was anything to do."""
        started = time.monotonic()
        with self._lock(step):
            if self._is_made(step):
                self.say(f"✓ {step.name}: {step.makes} already there")
                return False
            self.say(f"▸ {step.name}: {step.makes}")
            self._make(step)
        self.say(f"✓ {step.name}: ready in {duration(time.monotonic() - started)}")
        return True

    def _stamp(self, step: Step) -> Path:
        return self.folder / f"{step.name}.stamp"

    def _is_made(self, step: Step) -> bool:
        stamp = self._stamp(step)
        return step.target.exists() and stamp.exists() and stamp.read_text() == step.digest()

    def _make(self, step: Step) -> None:
        digest = step.digest()
        work = step.target.parent / f".{step.name}.part"
        # A killed run may have left this behind.
        shutil.rmtree(work, ignore_errors=True)
        try:
            scratch = work / "scratch"
            scratch.mkdir(parents=True)
            check_space(step)
            made = work / step.target.name
            step.make(made, scratch)
            self._publish(step, made, digest)
        except OSError as error:
            raise SetupError(f"{error.strerror}: {error.filename or step.target}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _publish(self, step: Step, made: Path, digest: str) -> None:
        """Puts the result in the target's place. Without a stamp, the next run starts over."""
        self._stamp(step).unlink(missing_ok=True)
        if step.target.is_dir() and not step.target.is_symlink():
            step.target.rename(made.parent / "replaced")
        made.rename(step.target)
        self._stamp(step).write_text(digest)

    @contextmanager
    def _lock(self, step: Step) -> Iterator[None]:
        """Waits until no other run works on this step. The system frees the lock when a process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{step.name}.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = path.read_text().strip() or "another run"
                self.say(f"… {step.name}: waiting for process {owner}, which is at it")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def check_space(step: Step) -> None:
    """Refuses to start what the disk cannot hold."""
    free = shutil.disk_usage(step.target.parent).free // MIB
    if free < step.needs_mib:
        raise SetupError(
            f"{step.target.parent} has {free} MiB free, this step needs {step.needs_mib} MiB: make room there"
        )


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def run_all(ledger: Ledger, steps: list[Step]) -> int:
    """Runs the steps in order, stops at the first that fails, and says how to go on; returns the exit code."""
    for step in steps:
        try:
            ledger.run(step)
        except SetupError as error:
            print(f"✗ {step.name}: {error}", file=sys.stderr)
            print(
                f"  Nothing half-made was left. Then: python3 deploy/setup/setup.py {step.name}",
                file=sys.stderr,
            )
            return 1
        except KeyboardInterrupt:
            print(
                f"✗ {step.name}: stopped; nothing half-made was left. The same command goes on.",
                file=sys.stderr,
            )
            return 130
    return 0
