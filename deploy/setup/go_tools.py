"""Programs built from Go modules: Jaeger, grpcurl, a Kubernetes API; go.mod and go.sum pin and verify them."""

import re
import shutil
import subprocess
from pathlib import Path

from command import run_quietly
from step import SetupError, Step

HERE = Path(__file__).parent
# The oldest Go that builds them all.
GO = (1, 26)
# The toolchain at hand, never a download of another; no VCS stamp, so that any clone builds the same.
VARIABLES = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}


def step(root: Path, name: str, makes: str, package: str, folder: str | None = None) -> Step:
    """The step that builds `.weft/bin/NAME` from the module in the folder NAME, or in another."""
    module = HERE / (folder or name)
    return Step(
        name=name,
        makes=makes,
        target=root / ".weft" / "bin" / name,
        inputs=(module / "go.mod", module / "go.sum", Path(__file__)),
        make=lambda place, scratch: build(module, package, place, scratch),
        needs_mib=4_000,
    )


def build(module: Path, package: str, place: Path, scratch: Path) -> None:
    """Builds one program; Go checks every module against go.sum."""
    check_go()
    command = ["go", "build", "-C", module, "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", place, package]
    hint = "Go keeps what it has built, so trying again continues. It said:"
    run_quietly(command, scratch, hint, VARIABLES)


def check_go() -> None:
    """Refuses early, and by name, when Go is missing or too old."""
    if shutil.which("go") is None:
        raise SetupError(f"needs Go {GO[0]}.{GO[1]} or newer, and there is no `go` on the PATH: install it")
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < GO:
        raise SetupError(f"needs Go {GO[0]}.{GO[1]} or newer, found {said.strip()}: install a newer one")
