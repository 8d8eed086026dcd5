"""The stage of the tests of processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes.stage import Stage

MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    """Make a stage; its processes end with the test."""
    stages: list[Stage] = []

    def make(*orders: str, worker: str = "") -> Stage:
        stages.append(Stage(tmp_path, orders, worker))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()
