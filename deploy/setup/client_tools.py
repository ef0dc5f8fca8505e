"""What the example clients in Go, Node.js and Java need: generators and libraries, by each language's own means.

Each pins and verifies in its own way: go.mod and go.sum; package-lock.json; and, since Maven's repository only vouches
for a download with a checksum of its own, `pins/java.txt` with the SHA-256 of every archive and program.
"""

import hashlib
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import go_tools
from command import run_quietly
from step import SetupError, Step

PINS = Path(__file__).parent / "pins" / "java.txt"
NODE = 20
JAVA = 17
AGAIN = "What was fetched is kept where it can be, so trying again continues. It said:"
# The smallest contract that takes every generator and compiler through its work.
PROBE = """\
    syntax = "proto3";
    package probe;
    service Probe {
      rpc Ask(Question) returns (stream Question);
    }
    message Question {
      string text = 1;
    }
    """


def steps(root: Path) -> list[Step]:
    """The steps, one for each language."""
    clients = root / "tests" / "conformance"
    go, node, java = clients / "go", clients / "node", clients / "java"
    own = Path(__file__)
    return [
        Step(
            name="client-go",
            makes="protoc-gen-go and protoc-gen-go-grpc, and gRPC for Go",
            target=root / ".weft" / "client-go",
            inputs=(go / "go.mod", go / "go.sum", own),
            make=lambda place, scratch: make_go(go, place, scratch),
            needs_mib=500,
        ),
        Step(
            name="client-node",
            makes="gRPC for Node.js",
            target=node / "node_modules",
            inputs=(node / "package.json", node / "package-lock.json", own),
            make=lambda place, scratch: make_node(node, place, scratch),
            needs_mib=300,
        ),
        Step(
            name="client-java",
            makes="protoc, protoc-gen-grpc-java and gRPC for Java",
            target=root / ".weft" / "client-java",
            inputs=(java / "pom.xml", PINS, own),
            make=lambda place, scratch: make_java(java / "pom.xml", place, scratch),
            needs_mib=300,
        ),
    ]


def make_go(module: Path, place: Path, scratch: Path) -> None:
    """Builds the module's tools into a folder, and fetches the libraries."""
    go_tools.check_go()
    variables = go_tools.VARIABLES | {"GOBIN": str(place)}
    run_quietly(["go", "-C", module, "mod", "download"], scratch, AGAIN, variables)
    run_quietly(["go", "-C", module, "install", "-mod=readonly", "-trimpath", "tool"], scratch, AGAIN, variables)


def make_node(package: Path, place: Path, scratch: Path) -> None:
    """Installs what package-lock.json names, without running scripts of packages."""
    check_version("node", ["node", "--version"], r"v(\d+)", NODE, "Node.js")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(package / name, scratch)
    run_quietly(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", scratch], scratch, AGAIN)
    (scratch / "node_modules").rename(place)


def make_java(pom: Path, place: Path, scratch: Path) -> None:
    """Fills a Maven repository of its own with what the build needs, by a build, and holds it to the pins."""
    check_version("javac", ["javac", "-version"], r"javac (\d+)", JAVA, "a JDK")
    check_version("mvn", ["mvn", "--version"], r"Apache Maven (\d+)", 3, "Maven")
    shutil.copy(pom, scratch)
    protos = scratch / "protos"
    protos.mkdir()
    (protos / "probe.proto").write_text(textwrap.dedent(PROBE))
    options = ["--batch-mode", "--strict-checksums", f"-Dmaven.repo.local={place}", f"-Dprotos={protos}"]
    run_quietly(["mvn", "compile", *options, "--file", scratch / "pom.xml"], scratch, AGAIN)
    check_pins(place)


def check_pins(repository: Path) -> None:
    """Refuses a repository that holds another archive or program than those that are pinned."""
    pinned = dict(reversed(line.split()) for line in PINS.read_text().splitlines())
    found = {
        str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in repository.rglob("*")
        if path.suffix in (".jar", ".exe")
    }
    for name in sorted(pinned | found):
        if pinned.get(name) != found.get(name):
            raise SetupError(f"{name} has SHA-256 {found.get(name)}, {PINS.name} says {pinned.get(name)}")


def check_version(program: str, command: list[str], pattern: str, least: int, what: str) -> None:
    """Refuses early, and by name, when a program is missing or too old."""
    if shutil.which(program) is None:
        raise SetupError(f"needs {what} {least} or newer, and there is no `{program}` on the PATH: install it")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(pattern, said)
    if found is None or int(found[1]) < least:
        raise SetupError(f"needs {what} {least} or newer, found {said.strip()!r}: install a newer one")
