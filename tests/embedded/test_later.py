"""Events for later in the embedded file: each enters its channel once, whoever moves it."""

from pathlib import Path

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Message
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.storage.later import MOVED_AT_ONCE
from tests.deadlines import in_time
from tests.embedded.things import PLENTY, numbers, spec, take

pytestmark = pytest.mark.anyio


async def test_many_processes_that_look_at_once_move_each_event_once(tmp_path: Path) -> None:
    drivers = [EmbeddedDriver(tmp_path / "hexa.db", Embedded()) for _ in range(4)]
    for driver in drivers:
        await driver.open()
    count = 2 * MOVED_AT_ONCE + 10
    source = await drivers[0].subscribe(spec())
    idle = [await driver.subscribe(spec("other")) for driver in drivers[1:]]
    due_ms = SystemClock().now_ms() + 300
    await drivers[0].publish(
        [Message(channel="work", payload=b"%d" % number, due_ms=due_ms + number % 7) for number in range(count)]
    )
    with in_time():
        async with anyio.create_task_group() as group:
            for one in idle:
                group.start_soon(one.receive, 1, PLENTY)  # waits, so it looks when they are due
            come = await take(source, count)
            assert SystemClock().now_ms() >= due_ms
            assert sorted(numbers(come)) == list(range(count))
            backlog = await source.backlog()
            assert (backlog.ready, backlog.delayed) == (0, 0)
            group.cancel_scope.cancel()
    for driver in drivers:
        await driver.close()
