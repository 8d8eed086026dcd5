"""Leases: several changes of one at once."""

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from hexa_worker.core.settlement import Acked, Released, Settlement
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.source import EmbeddedSource
from tests.embedded.things import numbers, publish, spec, take

pytestmark = pytest.mark.anyio


async def in_one_turn(driver: EmbeddedDriver, *calls: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Ask for all `calls` while the broker thread is held up, so that it finds them together."""
    held, go = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        go.wait(10)

    thread = driver._running
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thread.read, hold)
        while not held.is_set():
            await anyio.sleep(0.001)
        for call in calls:
            tasks.start_soon(call)
        while len(thread._jobs) < len(calls):
            await anyio.sleep(0.001)
        go.set()


async def settle_in_one_turn(driver: EmbeddedDriver, source: EmbeddedSource, *calls: list[Settlement]) -> None:
    await in_one_turn(driver, *[lambda call=call: source.settle(call) for call in calls])


async def test_two_settlements_of_one_lease_at_once_both_count(driver: EmbeddedDriver) -> None:
    await publish(driver, 4)
    source = await driver.subscribe(spec())
    taken = await take(source, 4)
    done = [Acked(one) for one in taken]
    await settle_in_one_turn(driver, source, [done[0], done[1]], [done[2], done[3]])
    assert (await source.backlog()).idle


async def test_what_is_acknowledged_while_the_rest_of_its_lease_is_handed_back_does_not_come_again(
    driver: EmbeddedDriver,
) -> None:
    await publish(driver, 4)
    source = await driver.subscribe(spec())
    taken = await take(source, 4)
    handed_back: list[Settlement] = [Released(one) for one in taken[2:]]
    await settle_in_one_turn(driver, source, [Acked(one) for one in taken[:2]], handed_back)
    await source.close()
    other = await driver.subscribe(spec())
    await publish(driver, 1)
    assert numbers(await take(other, 3)) == [2, 3, 0]
