"""Logs, leases and positions, seen through one process."""

import sqlite3
import threading
from pathlib import Path

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked, Released, Settlement
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.loop.serving import Serving
from tests.deadlines import in_time
from tests.embedded.things import PLENTY, numbers, publish, spec, take

pytestmark = pytest.mark.anyio


class SetClock:
    """A wall clock that a test sets."""

    def __init__(self, now_ms: int) -> None:
        self.wall_ms = now_ms

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.wall_ms / 1000


def damage(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def rows(path: Path, statement: str) -> list[tuple[int, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(statement).fetchall()
    connection.close()
    return found


async def until(path: Path, statement: str, expected: int) -> None:
    """Wait until a query of one number says `expected`."""
    with in_time():
        while rows(path, statement) != [(expected,)]:
            await anyio.sleep(0.05)


async def test_garbage_in_a_stored_row_is_delivered_without_what_cannot_be_read(
    driver: EmbeddedDriver, path: Path
) -> None:
    source = await driver.subscribe(spec())
    held = [Message(channel="work", payload=b"%d" % number, headers=(("a", b"b"),)) for number in range(4)]
    source.stop()
    await source.close()
    await driver.publish(held)
    damage(path, "UPDATE log SET headers = x'ff00ff' WHERE payload = x'31'")
    damage(path, "UPDATE log SET payload = 7, headers = 'text', key = 1.5, at_ms = 'noon' WHERE payload = x'32'")
    taken = await take(await driver.subscribe(spec()), 4)
    assert [one.payload for one in taken] == [b"0", b"1", b"7", b"3"]
    assert [one.headers for one in taken] == [(("a", b"b"),), (), (), (("a", b"b"),)]
    assert taken[2].key == b"1.5"


async def test_removed_records_leave_no_lease_behind(driver: EmbeddedDriver) -> None:
    await publish(driver, 10)
    assert await driver.remove("work", [0, 4, 5]) == 3
    source = await driver.subscribe(spec())
    taken = await take(source, 7)
    assert numbers(taken) == [1, 2, 3, 6, 7, 8, 9]
    assert not await source.settle([Acked(one) for one in taken])
    assert (await source.backlog()).idle


async def test_a_channel_of_which_everything_was_removed_is_idle(driver: EmbeddedDriver) -> None:
    await publish(driver, 3)
    await driver.remove("work", [0, 1, 2])
    source = await driver.subscribe(spec())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.receive, 10, PLENTY)
        with in_time():
            while not (await source.backlog()).idle:
                await anyio.sleep(0.01)
        source.stop()


async def test_a_cancelled_receive_loses_nothing(driver: EmbeddedDriver) -> None:
    source = await driver.subscribe(spec())
    seen: list[int] = []

    async def receive() -> None:
        seen.extend([one.offset for one in await source.receive(10, PLENTY)])

    for pause in range(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await publish(driver, 1)
            for _ in range(pause % 10):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    with in_time():
        while len(seen) < 60:
            await receive()
    assert sorted(seen) == list(range(60))


async def test_settling_twice_stores_a_released_delivery_once(driver: EmbeddedDriver) -> None:
    await publish(driver, 3)
    source = await driver.subscribe(spec())
    taken = await take(source, 3)
    settlements: list[Settlement] = [Acked(taken[0]), Released(taken[1]), Released(taken[1]), Acked(taken[2])]
    assert not await source.settle(settlements)
    assert not await source.settle(settlements)
    assert numbers(await source.receive(10, PLENTY)) == [1]


async def retries_with_gaps(driver: EmbeddedDriver) -> None:
    """Ten retry records of which only the even ones are due."""
    later_ms = SystemClock().now_ms() + 3_600_000
    records = [
        Message(channel="do.retry.1", payload=b"%d" % number, due_ms=later_ms if number % 2 else 0)
        for number in range(10)
    ]
    await driver.publish(records)


async def test_a_retry_that_is_handed_back_is_leased_once_more_and_its_neighbours_are_not(
    driver: EmbeddedDriver, path: Path
) -> None:
    source = await driver.subscribe(spec())
    await retries_with_gaps(driver)
    taken = await take(source, 5)
    assert numbers(taken) == [0, 2, 4, 6, 8]
    assert not await source.settle([Acked(taken[0]), Released(taken[1]), Released(taken[4])])
    again = await take(source, 2)
    assert numbers(again) == [2, 8]
    assert not await source.settle([Acked(taken[1]), Acked(taken[4])])  # too late: they are others' by now
    await driver.stall()
    assert sorted(numbers(await take(source, 4))) == [2, 4, 6, 8]
    assert rows(path, "SELECT count(*), (SELECT waiting FROM retry_bases) FROM delayed") == [(9, 9)]


async def test_a_damaged_lease_on_retries_gives_back_all_it_may_have_held(driver: EmbeddedDriver, path: Path) -> None:
    source = await driver.subscribe(spec())
    await retries_with_gaps(driver)
    await take(source, 5)
    damage(path, "UPDATE leases SET members = x'c1ff' WHERE channel = 0")
    await driver.stall()
    with in_time():
        assert numbers(await take(source, 5)) == [0, 2, 4, 6, 8]


async def test_a_retry_in_flight_cannot_be_removed(driver: EmbeddedDriver) -> None:
    source = await driver.subscribe(spec())
    await retries_with_gaps(driver)
    taken = await take(source, 5)
    assert await driver.remove("do.retry.1", [0, 1, 2, 3]) == 2
    backlog = await source.backlog()
    assert (backlog.ready, backlog.delayed, backlog.leased) == (0, 3, 5)
    assert not await source.settle([Acked(delivery) for delivery in taken])
    assert [int(one.payload) for one in await driver.browse("do.retry.1", -1, 100)] == [5, 7, 9]


async def test_older_records_get_their_stripes_when_order_by_key_is_asked_for(driver: EmbeddedDriver) -> None:
    await publish(driver, 300, keys=7)
    source = await driver.subscribe(spec(order_by=OrderBy.KEY))
    seen: list[int] = []
    while len(seen) < 300:
        taken = await source.receive(50, PLENTY)
        seen += numbers(taken)
        assert not await source.settle([Acked(one) for one in taken])
    assert sorted(seen) == list(range(300))
    for key in range(7):
        of_key = [number for number in seen if number % 7 == key]
        assert of_key == sorted(of_key)
    assert (await source.backlog()).idle


async def test_a_group_that_goes_over_to_order_by_key_repeats_and_skips_nothing(driver: EmbeddedDriver) -> None:
    await publish(driver, 100, keys=5)
    source = await driver.subscribe(spec())
    first = await take(source, 40)
    assert not await source.settle([Acked(one) for one in first])
    await source.close()
    keyed = await driver.subscribe(spec(order_by=OrderBy.KEY))
    rest: list[int] = []
    while len(rest) < 60:
        taken = await keyed.receive(100, PLENTY)
        rest += numbers(taken)
        await keyed.settle([Acked(one) for one in taken])
    assert sorted(numbers(first) + rest) == list(range(100))


async def test_what_every_subscription_has_finished_is_trimmed_and_nothing_else(
    driver: EmbeddedDriver, path: Path
) -> None:
    both = [await driver.subscribe(spec(name)) for name in ("one", "two")]
    await publish(driver, 50)
    for source, count in zip(both, (50, 20), strict=True):
        taken = await take(source, count)
        assert not await source.settle([Acked(one) for one in taken if one.offset != 15])
    await driver.publish([Message(channel="unread", payload=b"kept")])
    await until(path, "SELECT count(*) FROM log WHERE payload != x'6b657074'", 35)
    assert numbers(await driver.browse("work", -1, 1)) == [15]
    assert len(await driver.browse("unread", -1, 9)) == 1


async def test_striped_records_are_trimmed_only_below_the_slowest_stripe(driver: EmbeddedDriver, path: Path) -> None:
    source = await driver.subscribe(spec(order_by=OrderBy.KEY))
    await publish(driver, 40, keys=4)
    taken = sorted(await take(source, 40), key=lambda one: one.offset)
    assert not await source.settle([Acked(one) for one in taken if one.offset != 10])
    await until(path, "SELECT count(*) FROM log", 30)
    assert not await source.settle([Acked(taken[10])])
    await until(path, "SELECT count(*) FROM log", 0)


async def test_a_wall_clock_that_goes_back_lets_a_retry_wait_no_longer_than_its_delay(path: Path) -> None:
    clock = SetClock(1_800_000_000_000)
    driver = EmbeddedDriver(path, Embedded(), clock)
    await driver.open()
    source = await driver.subscribe(spec())
    await driver.publish([Message(channel="do.retry.1", payload=b"x", due_ms=clock.wall_ms + 500)])
    await anyio.sleep(0.6)  # a tick of the broker thread
    clock.wall_ms -= 3_600_000
    with in_time():
        while (await source.backlog()).next_due_ms != clock.wall_ms + 500:
            await anyio.sleep(0.05)
    async with anyio.create_task_group() as tasks:
        clock.wall_ms += 501
        (one,) = await source.receive(1, PLENTY)
        tasks.cancel_scope.cancel()
    assert (one.attempt, one.payload) == (1, b"x")
    await driver.close()


async def test_a_retry_that_was_made_before_the_wall_clock_went_back_waits_no_longer_than_its_delay(path: Path) -> None:
    clock = SetClock(1_800_000_000_000)
    driver = EmbeddedDriver(path, Embedded(), clock)
    await driver.open()
    source = await driver.subscribe(spec())
    before_ms = clock.wall_ms + 3_600_000
    retry = Message(channel="do.retry.1", payload=b"x", timestamp_ms=before_ms, due_ms=before_ms + 500)
    await driver.publish([retry])
    assert (await source.backlog()).next_due_ms == clock.wall_ms + 500
    await driver.close()


async def test_a_receive_stops_adding_when_the_bytes_are_enough_and_goes_on_where_it_stopped(
    driver: EmbeddedDriver,
) -> None:
    await driver.publish([Message(channel="work", payload=b"%2d" % number * 500) for number in range(20)])
    source = await driver.subscribe(spec())
    batches = [await source.receive(100, 3_500) for _ in range(5)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4]
    assert [one.offset for batch in batches for one in batch] == list(range(20))


async def test_a_stop_while_the_thread_looks_is_not_overlooked(
    driver: EmbeddedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await driver.subscribe(spec())
    looks: list[None] = []
    looked, stopped = threading.Event(), threading.Event()
    original = Serving._look_again

    def look_and_dawdle(self: Serving) -> None:
        original(self)
        looks.append(None)
        if len(looks) >= 10:  # its own reasons to look are over by then
            looked.set()
            stopped.wait(10)

    monkeypatch.setattr(Serving, "_look_again", look_and_dawdle)
    ended: list[list[Delivery]] = []

    async def receive() -> None:
        ended.append(await source.receive(10, PLENTY))

    with in_time():
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            while not looked.is_set():
                driver._running.look()
                await anyio.sleep(0.01)
            source.stop()
            stopped.set()
    assert ended == [[]]
