"""Many at once, again and again: everybody is answered, and memory stays where it is."""

from concurrent.futures import ThreadPoolExecutor

from conversation import LENGTH, Answer, ask, collect
from mesh import SERVICES, Mesh
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

CHATS = 64
REPEATS = 10
# Caches, pools and the allocator's arenas fill in the first rounds.
WARM_UP_ROUNDS = 2
# What an allocator may keep of a busy moment. A leak of a conversation's buffers (10 kB in each of 64 chats and
# 8 rounds) or of one sequence's KV blocks would exceed it.
TOLERANCE_MIB = 5
TOLERANCE_SHARE = 0.02


def round_of_chats(gateway: GatewayServiceStub) -> list[Answer]:
    requests = [ask(f"Count from {start} upwards.", max_tokens=8, ignore_eos=True) for start in range(CHATS)]
    with ThreadPoolExecutor(CHATS) as pool:
        return list(pool.map(lambda request: collect(gateway.Chat(request, timeout=120)), requests))


def test_sixty_four_chats_at_once_all_finish_and_memory_does_not_grow(mesh: Mesh, gateway: GatewayServiceStub) -> None:
    memory: list[dict[str, float]] = []
    for _ in range(REPEATS):
        answers = round_of_chats(gateway)
        assert {answer.finished.reason for answer in answers} == {LENGTH}
        assert {answer.finished.usage.completion_tokens for answer in answers} == {8}
        memory.append({service: mesh.memory_mib(service) for service in SERVICES})
    for service in SERVICES:
        sizes = [size[service] for size in memory]
        settled = max(sizes[:WARM_UP_ROUNDS])
        allowed = settled * (1 + TOLERANCE_SHARE) + TOLERANCE_MIB
        assert sizes[-1] <= allowed, f"{service} grew: {[round(size, 1) for size in sizes]} MiB"
