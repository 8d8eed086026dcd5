"""The short form of the chaos run on the embedded broker; `make chaos` is the long one."""

from pathlib import Path

import pytest

from tests.chaos.plan import Amounts
from tests.chaos.run import Chaos
from tests.chaos.stages import embedded

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_is_lost_or_done_twice_without_cause_under_random_kills(tmp_path: Path, backend: str) -> None:
    chaos = Chaos(tmp_path, embedded(), Amounts(kills=25), events=6_000, killers=3, seed=7, backend=backend)
    assert chaos.run() == []
    chaos.require_all_done()
    assert chaos.seen["handle_ok"] >= 3 * 5_900
    assert chaos.dead >= 3
