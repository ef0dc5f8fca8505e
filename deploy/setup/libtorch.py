"""libtorch: headers and libraries out of the PyTorch wheel, in the layout that the build and the rpath expect.

No Python torch is installed. A CPU machine gets the CPU library and the two small CUDA libraries that it is linked
against; a machine with an NVIDIA GPU gets torch's CUDA libraries and NVIDIA's own as well, all in one folder, where
each finds the others by its `$ORIGIN`.
"""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from packages import PINS, download
from step import SetupError, Step

CPU_PINS = PINS / "libtorch-cpu.txt"
CUDA_PINS = PINS / "libtorch-cuda.txt"
CPU_LIBRARIES = {
    "libc10.so",
    "libtorch.so",
    "libtorch_cpu.so",
    "libtorch_global_deps.so",
    "libgomp.so.1",
    "libcudart.so.13",
    "libcupti.so.13",
}


def step(root: Path) -> Step:
    """The step that makes `.weft/libtorch`."""
    cuda = has_gpu()
    pins = (CPU_PINS, CUDA_PINS) if cuda else (CPU_PINS,)
    return Step(
        name="libtorch",
        makes="libtorch 2.11.0 for CUDA 13" if cuda else "libtorch 2.11.0 for the CPU",
        target=root / ".weft" / "libtorch",
        inputs=(*pins, Path(__file__)),
        facts=("cuda" if cuda else "cpu",),
        make=lambda place, scratch: make(pins, place, scratch),
        needs_mib=8_000 if cuda else 1_500,
    )


def has_gpu() -> bool:
    """Whether to bring CUDA: when the driver shows a GPU, or as `WEFT_CUDA=1` or `0` says."""
    wish = os.environ.get("WEFT_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SetupError(f"WEFT_CUDA is {wish!r}; it must be 0, 1 or unset")
    return wish == "1" if wish else Path("/dev/nvidia0").exists()


def make(pins: tuple[Path, ...], place: Path, scratch: Path) -> None:
    """Downloads the wheels and unpacks what is needed of each."""
    wheels = [wheel for path in pins for wheel in download(path, scratch)]
    keep_all = CUDA_PINS in pins
    (place / "lib").mkdir(parents=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member, target in wanted(archive, keep_all):
                extract(archive, member, place / target)
    version = python_constant(place / "version.py", "__version__")
    (place / "build-version").write_text(version)
    missing = sorted(CPU_LIBRARIES - {path.name for path in (place / "lib").iterdir()})
    if missing:
        raise SetupError(f"the wheels lack {', '.join(missing)}: {pins[0].name} names the wrong versions")


def wanted(archive: zipfile.ZipFile, keep_all: bool) -> Iterator[tuple[str, PurePosixPath]]:
    """Yields what to unpack and where to: headers, torch's version, and the libraries this machine can use."""
    for name in archive.namelist():
        path = PurePosixPath(name)
        if name == "torch/version.py" or name.startswith("torch/include/"):
            yield name, path.relative_to("torch")
        elif is_library(path) and (keep_all or path.name in CPU_LIBRARIES):
            yield name, PurePosixPath("lib") / path.name


def is_library(path: PurePosixPath) -> bool:
    """Whether this is a shared library that a program other than Python may load."""
    return ".so" in path.name and path.parent.name == "lib" and "python" not in path.name


def extract(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    """Unpacks one file; zipfile checks its CRC."""
    if member.endswith("/"):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def python_constant(path: Path, name: str) -> str:
    """The text that a Python file assigns to a name."""
    for line in path.read_text().splitlines():
        left, _, right = line.partition("=")
        if left.strip() == name:
            return right.strip().strip("'\"")
    raise SetupError(f"{path.name} of the wheel does not assign {name}")
