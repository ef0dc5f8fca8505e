"""Gets packages from PyPI with pip, each pinned by version and by SHA-256 in a file of `pins/`."""

import sys
import venv
from pathlib import Path

from command import run, run_quietly

PINS = Path(__file__).parent / "pins"
HINT = (
    "A hash that does not match means that the download is damaged or not the file that was pinned; anything else is"
    " most likely the network or the disk. pip keeps whole downloads, so trying again continues."
)
# Platforms of the pinned wheels: pip takes each by its very name. What is only unpacked suits any Python.
WHEEL_PLATFORMS = [
    "any",
    *[f"manylinux_2_{glibc}_x86_64" for glibc in (28, 27, 25, 18, 17, 12, 5)],
    *["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"],
]


def download(pins: Path, scratch: Path) -> list[Path]:
    """Downloads the pinned wheels into a scratch folder, without what they depend on."""
    folder = scratch / "wheels"
    platforms = [word for name in WHEEL_PLATFORMS for word in ("--platform", name)]
    command = [
        *pip("download"),
        *["--no-deps", "--require-hashes", "--only-binary=:all:"],
        *["--python-version", "3.11", "--implementation", "cp", *platforms],
        *["--dest", folder, "--requirement", pins],
    ]
    run(command, scratch, HINT)
    return sorted(folder.glob("*.whl"))


def make_environment(pins: Path, place: Path, scratch: Path, progress: bool = False) -> None:
    """Makes a virtual environment with exactly the pinned packages; `progress` shows pip's own, for big ones.

    It is moved after it was made, so its programs are started as `bin/python -m NAME`.
    """
    venv.create(place, symlinks=True, with_pip=False)
    command = [
        *pip("--python", place / "bin" / "python", "install"),
        *["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-warn-script-location"],
        *["--requirement", pins],
    ]
    (run if progress else run_quietly)(command, scratch, HINT)


def pip(*words: str | Path) -> list[str | Path]:
    """A pip command that asks nothing and does not speak of its own version."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
