"""Asks for what cannot be, and reads why not: `refusal.py 127.0.0.1:50051`."""

import sys

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub


def explain(error: grpc.RpcError) -> None:
    """Prints what a program can read of an error: which fields are wrong, when to come again, and why."""
    print(f"{error.code().name}: {error.details()}")
    bad, retry, info = BadRequest(), RetryInfo(), ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                print(f"field {violation.field}: {violation.description}")
        elif detail.Unpack(retry):
            print(f"retry after {retry.retry_delay.ToMilliseconds()} ms")
        elif detail.Unpack(info):
            print(f"reason {info.domain}/{info.reason}: {dict(info.metadata)}")


(address,) = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    request = weft.ChatRequest(
        messages=[{"role": "ROLE_USER", "content": "Hello!"}],
        options={"sampling": {"temperature": -1}, "stop": {"max_tokens": 0}},
    )
    try:
        for _ in GatewayServiceStub(channel).Chat(request, timeout=10):
            sys.exit("it was accepted")
    except grpc.RpcError as refusal:
        explain(refusal)
