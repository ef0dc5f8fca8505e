"""Gives an answer less time than it needs: `deadline.py 127.0.0.1:50051`."""

import sys

import grpc
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

(address,) = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    request = weft.ChatRequest(
        messages=[{"role": "ROLE_USER", "content": "Tell me everything."}],
        options={"stop": {"max_tokens": 4_000, "ignore_eos": True}},
    )
    try:
        # It travels with the call (`grpc-timeout`), so that no service works on when nobody waits any more.
        for response in GatewayServiceStub(channel).Chat(request, timeout=2):
            # What came before the end of the time stands.
            print(response.delta.text, end="", flush=True)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        print("\nDEADLINE_EXCEEDED")
    else:
        sys.exit("the answer came in time")
