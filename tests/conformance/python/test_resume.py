"""`kill -9` of a replica of inference under streams: none fails, and each says what it says undisturbed.

Most answers are greedy; some are drawn, and some calls have three. `pytest test_resume.py --full` kills 20 times under
64 streams; without it, it is a few of each. In f32 each answer must equal the undisturbed one; with `--dtype bf16`
calls whose answers do not are counted.
"""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh import eventually
from replicated import Load, Replicated, metric, undisturbed


@pytest.fixture
def replicated(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Replicated]:
    with Replicated(tmp_path, dtype=pytestconfig.getoption("dtype"), inference=2) as replicated:
        yield replicated


def test_no_stream_is_lost_with_a_replica(
    replicated: Replicated, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills, streams = (20, 64) if pytestconfig.getoption("full") else (3, 12)
    expected, hit = undisturbed(replicated.target), []
    exact = pytestconfig.getoption("dtype") == "f32"
    with Load(replicated.target, streams, expected, exact=exact) as load:
        for kill in range(kills):
            victim = replicated.services["inference"][kill % 2]
            eventually(
                lambda victim=victim: replicated.streams_on(victim) >= streams // 4, 300, "streams on the victim"
            )
            # Not always at the same moment of their lives.
            time.sleep(0.05 * (kill % 5))
            hit.append(replicated.streams_on(victim))
            victim.kill()
            enough = load.answered + streams
            eventually(lambda enough=enough: load.answered >= enough, 300, "answers without it")
            victim.__enter__()
            replicated.await_fit()
    assert not load.failures, f"{len(load.failures)} of {load.answered}: {Counter(load.failures).most_common(5)}"
    resumed = int(metric(replicated.gateway, 'weft_gateway_resumptions_total{outcome="resumed"}'))
    assert resumed >= kills, "streams were hit"
    with capsys.disabled():
        print(f"\n{load.answered} calls on {streams} streams, {kills} kills that hit {sum(hit)}, {resumed} resumed")
        if not exact:
            print(f"{load.answered - len(load.different)} of them equal the undisturbed ones")
