"""Leases: several changes of one at once, and stripes that are read on while a retry waits in its place."""

import sqlite3
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import structs

from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.core.settlement import Acked, Failure, Postponed, Released, Settlement
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.source import EmbeddedSource
from hexa_worker.drivers.embedded.storage.schema import STRIPES
from tests.deadlines import in_time, until
from tests.embedded.things import PLENTY, numbers, publish, spec, take

pytestmark = pytest.mark.anyio
FAILURE = Failure(error="ValueError", message="not yet", reason="failed")


def in_place() -> SubscriptionSpec:
    return structs.replace(spec(order_by=OrderBy.KEY), in_place=True)


def postponed(delivery: Delivery) -> Postponed:
    return Postponed(delivery, structs.replace(delivery, attempt=1, due_ms=1 << 50), 1e9, FAILURE)


def stripe(delivery: Delivery) -> int:
    return stripe_of(delivery.key, delivery.offset, STRIPES)


async def in_one_turn(driver: EmbeddedDriver, *calls: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Ask for all `calls` while the broker thread is held up, so that it finds them together."""
    held, go = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        go.wait(10)

    thread = driver._running
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thread.read, hold)
        await until(held.is_set)
        for call in calls:
            tasks.start_soon(call)
        await until(lambda: len(thread._shared.jobs) >= len(calls))
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


async def test_a_stripe_is_not_read_on_behind_what_another_source_of_the_process_holds(driver: EmbeddedDriver) -> None:
    first = await driver.subscribe(in_place())
    await publish(driver, 1, keys=1)
    (held,) = await take(first, 1)
    second = await driver.subscribe(in_place())
    await publish(driver, 2, keys=2)
    (other,) = await second.receive(10, PLENTY)
    assert (other.key, held.key) == (b"k1", b"k0")
    assert stripe(other) != stripe(held)


async def test_other_keys_go_on_beside_waiting_retries_in_more_stripes_than_a_process_should_have(
    driver: EmbeddedDriver, path: Path
) -> None:
    first = await driver.subscribe(in_place())
    await publish(driver, 640, keys=640)
    taken = await take(first, 640)
    waiting = {stripe(one): one for one in taken if stripe(one) < STRIPES * 3 // 4}
    done = [one for one in taken if one not in waiting.values()]
    await first.settle([*map(postponed, waiting.values()), *map(Acked, done)])
    other = EmbeddedDriver(path, Embedded(lease_s=1.0, busy_timeout_s=1.0))
    await other.open()
    expected = {one.key for one in taken}
    come: set[bytes | None] = set()

    async def handle(source: EmbeddedSource) -> None:
        while batch := await source.receive(1000, PLENTY):
            await source.settle([Acked(one) for one in batch])
            come.update([one.key for one in batch])
            if come == expected:
                tasks.cancel_scope.cancel()

    with in_time():
        while driver._running._turns._owners.peers < 2:
            await anyio.sleep(0.01)
        await other.publish([Message(channel="work", payload=b"1", key=key) for key in expected])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handle, first)
            tasks.start_soon(handle, await other.subscribe(in_place()))
    await other.close()
    assert come == expected


async def test_what_a_source_could_not_give_back_at_its_end_is_given_back_later(
    driver: EmbeddedDriver, path: Path
) -> None:
    await publish(driver, 2)
    source = await driver.subscribe(spec())
    await take(source, 2)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    await source.close()
    blocker.execute("ROLLBACK")
    blocker.close()
    with in_time():
        assert numbers(await take(await driver.subscribe(spec()), 2)) == [0, 1]
