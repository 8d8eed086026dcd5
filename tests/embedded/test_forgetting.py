"""A subscription was removed: the file can forget it."""

from pathlib import Path

import anyio
import pytest

from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.errors import DriverRejected
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
    with anyio.move_on_after(0.5):
        assert numbers(await take(removed, 1)) == []
    assert numbers(await take(stays, 1)) == [0]
    assert [one.name for one in await driver.groups()] == ["new"]
