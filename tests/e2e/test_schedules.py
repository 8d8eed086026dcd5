"""Schedules in real processes: two workers that share a file, and the one that runs a tick is killed."""

import os
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deadlines import wait_until
from tests.e2e.project import Project

WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
driver = "embedded"
path = "var/hexa.db"
"""
HANDLERS = """
import os

from hexa_worker import Context, Tick, every


@every("1s")
async def pulse(tick: Tick, ctx: Context) -> None:
    with open("ticks.txt", "a") as file:
        file.write(f"{tick.due.timestamp():.0f} {os.getpid()} {ctx.event_id} {tick.missed}\\n")
"""
KILLS = 2


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project").write(WORKER, HANDLERS)


def ticks(project: Project) -> list[tuple[int, int, str, str]]:
    """Due time, process and event of each tick that ran, and whether it was missed."""
    try:
        lines = (project.folder / "ticks.txt").read_text().splitlines()
    except FileNotFoundError:
        return []
    rows = [line.split() for line in lines]
    return [(int(due), int(pid), event_id, missed) for due, pid, event_id, missed in rows]


def test_each_tick_runs_though_whoever_ran_the_one_before_is_killed(project: Project) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(project.running("run"))
        for _ in range(KILLS):
            seen = len(ticks(project))
            wait_until(lambda seen=seen: len(ticks(project)) > seen + 1)  # type: ignore[misc]  # of this round
            os.kill(ticks(project)[-1][1], signal.SIGKILL)
        seen = len(ticks(project))
        wait_until(lambda: len(ticks(project)) > seen + 2)
    ran = ticks(project)
    dues = Counter(due for due, *_ in ran)
    assert sorted(dues) == list(range(min(dues), max(dues) + 1))
    # A process that is killed between the end of a handler and its acknowledgement leaves a tick to run again.
    assert sum(dues.values()) - len(dues) <= KILLS
    assert len({event_id for _, _, event_id, _ in ran}) == len(dues)


def test_what_waits_for_its_next_time_is_nothing_left_to_do(project: Project) -> None:
    (project.folder / "h.py").write_text(HANDLERS.replace('"1s"', '"1d"'))
    project("run", "--until-idle")
    lag = project("lag").stdout
    assert "hexa-schedules" in lag
    assert "pulse" in lag
