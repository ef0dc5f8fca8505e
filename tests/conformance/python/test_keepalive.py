"""Keepalive pings, which load balancers and mobile networks make clients send, never cost a connection."""

import time

import grpc
from conversation import ask, collect
from mesh import Mesh
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

# Far more often than the 10 s that official clients allow or advise, during calls and between them.
PINGS = [
    ("grpc.keepalive_time_ms", 100),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def test_a_client_that_pings_often_keeps_its_connection(mesh: Mesh) -> None:
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(mesh.address("gateway"), PINGS) as channel:
        channel.subscribe(states.append)
        gateway = GatewayServiceStub(channel)
        for _ in range(2):
            answer = collect(gateway.Chat(ask("Count to ten.", max_tokens=32, ignore_eos=True), timeout=60))
            assert answer.finished.usage.completion_tokens == 32
            # Some twenty pings with nothing else on the connection.
            time.sleep(2)
        # Once it was ready, it stayed: a GOAWAY would have made it idle.
        assert states.count(grpc.ChannelConnectivity.READY) == 1
        assert states[-1] == grpc.ChannelConnectivity.READY
