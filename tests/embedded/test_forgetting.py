"""A subscription was removed: the file can forget it."""

from pathlib import Path

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.errors import DriverRejected
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.deadlines import in_time, until
from tests.embedded.things import numbers, publish, spec, take

pytestmark = pytest.mark.anyio


async def test_what_only_a_forgotten_group_kept_is_removed_and_others_keep_theirs(driver: EmbeddedDriver) -> None:
    stays = await driver.subscribe(spec("stays"))
    await driver.declare([spec("removed")])
    await publish(driver, 3)
    taken = await take(stays, 3)
    await stays.settle([Acked(one) for one in taken[:2]])
    assert [(one.name, one.unread) for one in await driver.groups()] == [("removed", 3), ("stays", 0)]
    assert await driver.forget("removed") == 0
    with anyio.fail_after(10):
        while len(await driver.browse("work", -1, 10)) > 1:
            await anyio.sleep(0.02)
    assert numbers(await driver.browse("work", -1, 10)) == [2]
    await stays.settle([Acked(taken[2])])
    assert (await stays.backlog()).idle


async def test_a_channel_that_nobody_reads_any_more_is_emptied_and_its_retries_stay(driver: EmbeddedDriver) -> None:
    await driver.declare([spec("removed")])
    await publish(driver, 2_500)
    await driver.publish([Message(channel="removed.retry.1", payload=b"1")])
    assert await driver.forget("removed") == 2_500
    assert await driver.browse("work", -1, 10) == []
    assert await driver.groups() == []
    assert len(await driver.browse("removed.retry.1", -1, 10)) == 1
    again = await driver.subscribe(spec("removed"))
    assert numbers(await take(again, 1)) == [1]


async def test_a_group_in_use_is_not_forgotten(driver: EmbeddedDriver, path: Path) -> None:
    source = await driver.subscribe(spec("used"))
    await publish(driver, 1)
    await take(source, 1)
    other = EmbeddedDriver(path)
    await other.open()
    with pytest.raises(DriverRejected, match="in flight"):
        await other.forget("used")
    with pytest.raises(DriverRejected, match="no group"):
        await other.forget("nobody")
    await other.close()


async def test_a_group_never_gets_the_place_of_a_forgotten_one(driver: EmbeddedDriver) -> None:
    removed = await driver.subscribe(spec("removed"))
    await driver.forget("removed")
    stays = await driver.subscribe(spec("new"))
    await publish(driver, 1)
    with in_time(), pytest.raises(DriverRejected, match="'removed' was forgotten"):
        await take(removed, 1)
    assert numbers(await take(stays, 1)) == [0]
    assert [one.name for one in await driver.groups()] == ["new"]


async def test_an_idle_worker_whose_group_is_forgotten_says_so_and_reads_on_as_a_new_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    async def handle(payload: int, _ctx: Context) -> None:
        seen.append(payload)

    stage = WorkerFixture()
    async with stage.running(plan_of(handle, channels=("work",)), driver=EmbeddedDriver(path)):
        operator = EmbeddedDriver(path)
        await operator.open()
        await publish(operator, 1)
        await until(lambda: seen == [0])
        (group,) = await operator.groups()
        with in_time():
            while True:
                try:
                    await operator.forget(group.name)
                    break
                except DriverRejected:  # its event is in flight still
                    await anyio.sleep(0.02)
        await until(lambda: "was forgotten while it was read" in caplog.text)
        await publish(operator, 1)
        await until(lambda: len(seen) >= 2)
        await operator.close()
