"""The files in `deploy/config` are what the services accept; a wrong one is refused with all its faults."""

import os
import subprocess

import pytest
from mesh import BINARIES, ROOT, SERVICES


def check(service: str, **overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [BINARIES / f"weft-{service}", "--config", f"deploy/config/{service}.toml", "--check"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | overrides, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("service", SERVICES)
def test_the_example_is_accepted(service: str) -> None:
    done = check(service)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_all_faults_are_reported_at_once(service: str) -> None:
    done = check(service, WEFT__SERVER__MAX_CONNECTIONS="-1", WEFT__DRAIN__LIMIT="soon", WEFT__SERVER__DRIAN="1")
    assert done.returncode != 0
    for words in ("server.max_connections", "-1", "drain.limit", "soon", "server.drian"):
        assert words in done.stderr, done.stderr
