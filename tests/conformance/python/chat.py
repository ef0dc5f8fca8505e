"""Asks Weft a question and prints the answer while it comes: `chat.py 127.0.0.1:50051 "Why is the sky blue?"`."""

import sys

import grpc
from weft.common.v1.generation_pb2 import FinishReason
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

address, question = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    request = weft.ChatRequest(
        messages=[{"role": "ROLE_USER", "content": question}],
        options={"sampling": {"temperature": 0}, "stop": {"max_tokens": 128}},
    )
    # The deadline covers the whole answer, not only its beginning. An error of the call is a grpc.RpcError.
    for response in GatewayServiceStub(channel).Chat(request, timeout=60):
        print(response.delta.text, end="", flush=True)
        if response.HasField("finished"):
            reason, usage = response.finished.reason, response.finished.usage
            print(f"\n{FinishReason.Name(reason)}, {usage.prompt_tokens} + {usage.completion_tokens} tokens")
