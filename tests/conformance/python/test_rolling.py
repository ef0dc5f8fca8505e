"""Every process of a mesh is restarted, one after another, under load: nobody notices.

Services wait for their calls less long than an answer takes, so most of what passes through them goes on elsewhere.

`pytest test_rolling.py --full` goes round three times under 32 streams; without it, once under 4.
"""

from collections import Counter
from pathlib import Path

import pytest
from mesh import eventually
from replicated import Load, Replicated, undisturbed


def test_a_rolling_restart_of_everything_fails_nothing(
    tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds, streams = (3, 32) if pytestconfig.getoption("full") else (1, 4)
    with Replicated(tmp_path, tokenizer=2, safety=2, inference=2, gateway=2) as replicated:
        expected, restarts = undisturbed(replicated.target), 0
        with Load(replicated.target, streams, expected) as load:
            for _ in range(rounds):
                for service in (one for replicas in replicated.services.values() for one in replicas):
                    enough = load.answered + streams // 4
                    eventually(lambda enough=enough: load.answered >= enough, 300, "answers beforehand")
                    service.restart()
                    restarts += 1
                    replicated.await_fit()
        assert not load.failures, f"{len(load.failures)} of {load.answered}: {Counter(load.failures).most_common(5)}"
    with capsys.disabled():
        print(f"\n{load.answered} answers on {streams} streams, {restarts} restarts, 0 failed")
