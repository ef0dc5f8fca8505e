"""grpcurl knows nothing but an address: reflection alone must do."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from mesh import ROOT, Mesh

GRPCURL = ROOT / ".weft" / "bin" / "grpcurl"


def grpcurl(mesh: Mesh, *words: str, data: Any = None) -> str:
    flags = ["-plaintext", "-max-time", "60", *(["-d", json.dumps(data)] if data is not None else [])]
    done = subprocess.run(
        [GRPCURL, *flags, mesh.address("gateway"), *words], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> Iterator[Any]:
    """The JSON documents that stand one after the other in a text."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text.rstrip()):
        document, position = decoder.raw_decode(text, position)
        yield document
        position += len(text[position:]) - len(text[position:].lstrip())


def test_it_lists_the_services(mesh: Mesh) -> None:
    assert {"weft.gateway.v1.GatewayService", "grpc.health.v1.Health"} <= set(grpcurl(mesh, "list").split())


def test_it_describes_a_method_with_its_comment(mesh: Mesh) -> None:
    described = grpcurl(mesh, "describe", "weft.gateway.v1.GatewayService.Chat")
    assert "rpc Chat ( .weft.gateway.v1.ChatRequest ) returns ( stream .weft.gateway.v1.ChatResponse )" in described
    assert "Answers a conversation." in grpcurl(mesh, "describe", "weft.gateway.v1.GatewayService")


def test_it_checks_health(mesh: Mesh) -> None:
    (answer,) = documents(grpcurl(mesh, "grpc.health.v1.Health/Check", data={"service": ""}))
    assert answer == {"status": "SERVING"}


def test_it_chats(mesh: Mesh) -> None:
    request = {
        "messages": [{"role": "ROLE_USER", "content": "What is the capital of France?"}],
        "options": {"sampling": {"temperature": 0}, "stop": {"maxTokens": 24}},
    }
    events = list(documents(grpcurl(mesh, "weft.gateway.v1.GatewayService/Chat", data=request)))
    assert "started" in events[0]
    assert "finished" in events[-1]
    assert "Paris" in "".join(event.get("delta", {}).get("text", "") for event in events)
