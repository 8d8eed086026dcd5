"""Schedules on every broker: a tick each time, each one event."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deadlines import wait_until
from tests.e2e.project import Project
from tests.lab.base import Broker

WORKER = """
[worker]
name = "{name}"
handlers = ["h"]
processes = 1

[broker]
{broker}
"""
HANDLERS = """
from hexa_worker import Context, Tick, every


@every("1s", action="{name}-pulse")
async def pulse(tick: Tick, ctx: Context) -> None:
    with open("ticks.txt", "a") as file:
        file.write(f"{{tick.due.timestamp():.0f}} {{ctx.event_id}}\\n")
"""
IN_A_ROW = 3


def runs_each_tick(folder: Path, broker: str, name: str) -> None:
    project = Project(folder / "project").write(WORKER.format(broker=broker, name=name), HANDLERS.format(name=name))
    file = project.folder / "ticks.txt"

    def ran() -> list[tuple[int, str]]:
        rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(int(due), event_id) for due, event_id in rows]

    def some_in_a_row() -> bool:
        dues = {due for due, _ in ran()}
        return bool(dues) and dues.issuperset(range(min(dues), min(dues) + IN_A_ROW))

    with project.running("run"):
        wait_until(some_in_a_row)
        events = set(ran())
    # What is handled while a broker moves work from one process to another may be handled again; it is one event.
    assert len({due for due, _ in events}) == len(events)


@pytest.mark.kafka
def test_on_kafka(kafka: Broker, unique_name: Callable[..., str], tmp_path: Path) -> None:
    broker = f'driver = "kafka"\ncreate_channels = true\nservers = ["{kafka.address}"]'
    runs_each_tick(tmp_path, broker, unique_name("e"))


@pytest.mark.nats
def test_on_nats(nats: Broker, unique_name: Callable[..., str], tmp_path: Path) -> None:
    runs_each_tick(tmp_path, f'driver = "nats"\nservers = ["{nats.address}"]', unique_name("e"))


@pytest.mark.pulsar
def test_on_pulsar(pulsar: Broker, unique_name: Callable[..., str], tmp_path: Path) -> None:
    runs_each_tick(
        tmp_path, f'driver = "pulsar"\nadmin_url = "{pulsar.admin_address}"\nurl = "{pulsar.address}"', unique_name("e")
    )
