"""Joins Weft's spans to a trace of its own, and finds it in Jaeger: `tracing.py 127.0.0.1:50051 http://127.0.0.1:16686`.

With OpenTelemetry in your program, opentelemetry-instrumentation-grpc sends the header by itself.
"""

import json
import secrets
import sys
import time
import urllib.error
import urllib.request

import grpc
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

SERVICES = {"weft-gateway", "weft-tokenizer", "weft-safety", "weft-inference"}


def chat(address: str, traceparent: str) -> None:
    """Asks as a part of the caller's trace (https://www.w3.org/TR/trace-context/)."""
    with grpc.insecure_channel(address) as channel:
        request = weft.ChatRequest(
            messages=[{"role": "ROLE_USER", "content": "Hello!"}], options={"stop": {"max_tokens": 8}}
        )
        for _ in GatewayServiceStub(channel).Chat(request, timeout=60, metadata=[("traceparent", traceparent)]):
            pass
    print("traceparent", traceparent)


def services_of(url: str) -> set[str]:
    """Which services took part in a trace; none, while Jaeger does not know it."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            traces = json.load(answer)["data"]
    except urllib.error.HTTPError:
        return set()
    return {process["serviceName"] for trace in traces for process in trace["processes"].values()}


def find(jaeger: str, trace_id: str) -> None:
    """Waits until Jaeger knows the trace from the gateway down to inference: services send their spans in batches."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if services_of(f"{jaeger}/api/traces/{trace_id}") >= SERVICES:
            print("all four services are in it")
            return
        time.sleep(0.1)
    sys.exit(f"trace {trace_id} is not in Jaeger, or not whole")


if __name__ == "__main__":
    own = secrets.token_hex(16)
    chat(sys.argv[1], f"00-{own}-{secrets.token_hex(8)}-01")
    find(sys.argv[2], own)
