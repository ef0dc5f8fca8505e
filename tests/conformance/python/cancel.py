"""Loses interest in an answer, and sees that the engine does too: `cancel.py 127.0.0.1:50051 127.0.0.1:50062`."""

import sys
import time

import grpc
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from weft.inference.v1.inference_pb2 import GetEngineStatusRequest
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub


def lose_interest(address: str) -> None:
    """Cancels a call after five pieces of its answer."""
    with grpc.insecure_channel(address) as channel:
        request = weft.ChatRequest(
            messages=[{"role": "ROLE_USER", "content": "Tell me everything."}],
            options={"stop": {"max_tokens": 4_000, "ignore_eos": True}},
        )
        call = GatewayServiceStub(channel).Chat(request, timeout=60)
        deltas = (response.delta for response in call if response.HasField("delta"))
        for _ in range(5):
            print(next(deltas).text, end="", flush=True)
        # Everything behind the call is dropped.
        call.cancel()
        if call.code() != grpc.StatusCode.CANCELLED:
            sys.exit(f"not cancelled: {call.code()}")
        print("\nCANCELLED")


def see_blocks_free(address: str) -> None:
    """Waits until the engine works on nothing and all of its KV cache is free."""
    with grpc.insecure_channel(address) as channel:
        engine = InferenceServiceStub(channel)
        end = time.monotonic() + 10
        while True:
            now = engine.GetEngineStatus(GetEngineStatusRequest(), timeout=10)
            if now.running == 0 and now.kv_blocks_free == now.kv_blocks_total:
                print(f"all {now.kv_blocks_total} blocks are free")
                return
            if time.monotonic() > end:
                sys.exit(f"the engine is not idle: {now}")
            time.sleep(0.01)


if __name__ == "__main__":
    lose_interest(sys.argv[1])
    see_blocks_free(sys.argv[2])
