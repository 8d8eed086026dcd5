"""The short form of the chaos run; `make chaos` is the long one."""

from pathlib import Path

import pytest

from tests.chaos.run import Chaos

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_is_lost_or_done_twice_without_cause_under_random_kills(tmp_path: Path, backend: str) -> None:
    chaos = Chaos(tmp_path, events=6_000, kills=25, killers=3, seed=7, backend=backend, pause_s=0.4)
    assert chaos.run() == []
    assert chaos.seen["handle_ok"] >= 3 * 5_900
    assert chaos.dead >= 3
