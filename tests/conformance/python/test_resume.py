"""`kill -9` of replicas under streams: none fails, and each says what it says undisturbed.

A replica of inference, one of the tokenizer and one of the safety filter die at the same moment. Most answers are
greedy; some are drawn, and some calls have three. `pytest test_resume.py --full` kills 20 times under 64 streams;
without it, it is a few of each. In f32 each answer must equal the undisturbed one; with `--dtype bf16` calls whose
answers do not are counted.
"""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh import eventually
from replicated import Load, Replicated, undisturbed

PEERS = ("tokenizer", "safety", "inference")


@pytest.fixture
def replicated(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Replicated]:
    with Replicated(tmp_path, dtype=pytestconfig.getoption("dtype"), **dict.fromkeys(PEERS, 2)) as replicated:
        yield replicated


def test_no_stream_is_lost_with_a_replica(
    replicated: Replicated, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills, streams = (20, 64) if pytestconfig.getoption("full") else (3, 12)
    expected, hit = undisturbed(replicated.target), Counter()
    exact = pytestconfig.getoption("dtype") == "f32"
    with Load(replicated.target, streams, expected, exact=exact) as load:
        for kill in range(kills):
            victims = [replicated.services[peer][kill % 2] for peer in PEERS]
            for victim in victims:
                eventually(
                    lambda victim=victim: replicated.streams_on(victim) >= streams // 4,
                    300,
                    f"streams on {victim.name}",
                )
            # Not always at the same moment of their lives.
            time.sleep(0.05 * (kill % 5))
            hit.update({victim.name: replicated.streams_on(victim) for victim in victims})
            for victim in victims:
                victim.kill()
            enough = load.answered + streams
            eventually(lambda enough=enough: load.answered >= enough, 300, "answers without them")
            for victim in victims:
                victim.__enter__()
            replicated.await_fit()
    assert not load.failures, f"{len(load.failures)} of {load.answered}: {Counter(load.failures).most_common(5)}"
    resumed = {peer: replicated.resumed(peer) for peer in PEERS}
    assert min(resumed.values()) >= kills, f"streams were hit: {resumed}"
    with capsys.disabled():
        print(f"\n{load.answered} calls on {streams} streams, {kills} kills that hit {dict(hit)}, resumed {resumed}")
        if not exact:
            print(f"{load.answered - len(load.different)} of them equal the undisturbed ones")
