"""The short form of the chaos run on Pulsar; `python -m tests.chaos --broker pulsar` is the long one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.run import Chaos
from tests.chaos.short import SHORT
from tests.chaos.stages import stage_of
from tests.lab.base import Broker

pytestmark = [pytest.mark.pulsar, pytest.mark.chaos, pytest.mark.slow]


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_repeated_without_cause_while_workers_and_broker_are_broken(
    pulsar: Broker, tmp_path: Path, unique_name: Callable[..., str]
) -> None:
    chaos = Chaos(tmp_path, stage_of(pulsar), SHORT, events=1_500, killers=1, seed=14, name=unique_name("chaos"))
    assert chaos.run() == []
    chaos.require_all_done()
