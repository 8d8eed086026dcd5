"""What fails half way in the broker thread: nothing is left behind that nobody would run."""

import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.loop.commands import Command, Receive
from hexa_worker.drivers.embedded.source import EmbeddedSource
from hexa_worker.errors import DriverError, DriverUnavailable
from tests.deadlines import in_time, until
from tests.embedded.things import PLENTY, numbers, publish, spec, take

pytestmark = pytest.mark.anyio
DAMAGE = """
INSERT INTO leases (subscription, channel, stripe, low, high, remaining, owner)
SELECT s.id, c.id, -1, 5, 5, 0, 0 FROM subscriptions s, channels c WHERE c.name = 'work'
"""
"""A lease that is none: whoever looks for something to receive stumbles over it."""


async def ask_until(source: EmbeddedSource, count: int) -> list[Delivery]:
    """Receive until `count` deliveries came, as a pump does: a broker that is away is asked again."""
    taken: list[Delivery] = []
    with in_time():
        while len(taken) < count:
            try:
                taken += await source.receive(count - len(taken), PLENTY)
            except DriverError:
                await anyio.sleep(0.02)
    return taken


def change(path: Path, *statements: str) -> None:
    """What some other program does to the file."""
    with closing(sqlite3.connect(path, timeout=10)) as other, other:
        for statement in statements:
            other.execute(statement)


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process has the file's write lock."""
    other = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    await to_thread.run_sync(other.execute, "BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


async def test_a_stop_that_comes_while_a_write_tells_whom_it_wakes_is_not_overlooked(driver: EmbeddedDriver) -> None:
    source = await driver.subscribe(spec())
    thread = driver._running
    ended: list[list[Delivery]] = []

    async def receive() -> None:
        ended.append(await source.receive(10, PLENTY))

    def stop_it() -> bool:
        source.stop()
        return False

    with in_time():
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await until(lambda: thread._turns._serving.parked)
            await thread.write(lambda _: None, wakes=stop_it)
    assert ended == [[]]


async def test_who_waits_hears_of_a_failure_of_the_look_for_him(driver: EmbeddedDriver, path: Path) -> None:
    source = await driver.subscribe(spec())
    with in_time():
        async with anyio.create_task_group() as group:

            async def damage() -> None:
                await until(lambda: driver._running._turns._serving.parked)
                await to_thread.run_sync(change, path, DAMAGE)

            group.start_soon(damage)
            with pytest.raises(DriverUnavailable):
                await source.receive(10, PLENTY)
        await to_thread.run_sync(change, path, "DELETE FROM leases")
        await publish(driver, 3)
        assert numbers(await ask_until(source, 3)) == [0, 1, 2]


async def test_what_was_read_before_reading_failed_is_handed_out(driver: EmbeddedDriver) -> None:
    await publish(driver, 3_000)
    source = await driver.subscribe(spec())
    thread = driver._running
    steps: list[None] = []

    def stumble() -> int:
        """SQLite asks whether to go on; once, in the midst of reading the log, it may not."""
        steps.append(None)
        return len(steps) == 3

    def arm(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(stumble, 2_000)

    with in_time():
        taken = await ask_until(source, 10)  # leased, and hardly read
        await thread.read(arm)
        taken += await ask_until(source, 2_990)
    assert len(steps) >= 3
    assert numbers(taken) == list(range(3_000))


async def test_a_failure_inside_a_transaction_does_not_keep_others_from_writing(
    driver: EmbeddedDriver, path: Path
) -> None:
    source = await driver.subscribe(spec())
    thread = driver._running
    await to_thread.run_sync(change, path, DAMAGE)
    busy, together = threading.Event(), threading.Event()
    failures: list[DriverUnavailable] = []

    async def receive() -> None:
        try:
            await source.receive(10, PLENTY)
        except DriverUnavailable as error:
            failures.append(error)
            with closing(sqlite3.connect(path, timeout=0)) as other, other:
                other.execute("DELETE FROM leases")

    def keep_busy(_: sqlite3.Connection) -> None:
        busy.set()
        together.wait(10)

    async def publish_one() -> None:
        with suppress(DriverUnavailable):
            await publish(driver, 1)

    with in_time():
        async with anyio.create_task_group() as group:
            group.start_soon(thread.read, keep_busy)
            while not busy.is_set():
                await anyio.sleep(0.01)
            group.start_soon(receive)
            group.start_soon(publish_one)
            while len(thread._shared.jobs) < 2:
                await anyio.sleep(0.01)
            together.set()
    assert failures


async def test_what_a_source_could_not_give_back_before_its_close_was_cancelled_is_given_back_later(
    driver: EmbeddedDriver, path: Path
) -> None:
    await publish(driver, 2)
    source = await driver.subscribe(spec())
    await take(source, 2)
    async with locked(path):
        with anyio.move_on_after(0.2):
            await source.close()
        await anyio.sleep(1.5)  # longer than busy_timeout_s
    with in_time():
        assert numbers(await take(await driver.subscribe(spec()), 2)) == [0, 1]


async def test_a_lease_of_vanished_records_whose_end_could_not_be_written_bars_the_way_only_for_a_while(
    driver: EmbeddedDriver, path: Path
) -> None:
    await publish(driver, 3)
    source = await driver.subscribe(spec(order_by=OrderBy.CHANNEL))
    await to_thread.run_sync(
        change,
        path,
        "DELETE FROM log",
        "CREATE TRIGGER refuse BEFORE DELETE ON leases BEGIN SELECT RAISE(ABORT, 'not now'); END",
    )
    with in_time():
        with anyio.move_on_after(0.5):
            await source.receive(10, PLENTY)
        await to_thread.run_sync(change, path, "DROP TRIGGER refuse")
        await driver.publish([Message(channel="work", payload=b"3")])
        assert numbers(await take(source, 1)) == [3]


async def test_a_job_that_comes_as_the_thread_ends_is_not_waited_for(driver: EmbeddedDriver) -> None:
    thread = driver._running

    class Late(deque[Command | Receive]):
        """The thread ends between the question whether it runs and the handing over."""

        def append(self, job: Command | Receive) -> None:
            thread._shared.stopping = True
            thread._shared.waker.ring()
            thread._thread.join(10)
            super().append(job)

    thread._shared.jobs = Late()
    with in_time(), pytest.raises(DriverUnavailable):
        await publish(driver, 1)


class Shifted(SystemClock):
    """The machine's clock, set back by somebody."""

    back_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() - self.back_ms


async def test_a_clock_that_goes_back_while_the_file_is_locked_makes_no_retry_wait_longer(path: Path) -> None:
    clock = Shifted()
    driver = EmbeddedDriver(path, Embedded(busy_timeout_s=0.2), clock)
    await driver.open()
    source = await driver.subscribe(spec())
    await driver.publish([Message(channel="do.retry.1", payload=b"0", due_ms=clock.now_ms() + 2_000)])
    await anyio.sleep(0.7)  # a tick has seen the clock as it was
    async with locked(path):
        clock.back_ms = 3_600_000
        await anyio.sleep(1.5)
    with in_time():
        assert numbers(await take(source, 1)) == [0]
    await driver.close()


def open_files(name: str) -> int:
    """How many descriptors of this process are open on files of that name."""
    return sum(one.readlink().name == name for one in Path("/proc/self/fd").iterdir() if one.is_symlink())


def threads_of_brokers() -> int:
    return sum(one.name == "hexa-worker-broker" for one in threading.enumerate())


async def test_an_open_that_failed_keeps_no_file_open(driver: EmbeddedDriver, path: Path) -> None:
    before = open_files("hexa.db-owners")
    late = EmbeddedDriver(path)
    full = "CREATE TRIGGER refuse BEFORE INSERT ON owners BEGIN SELECT RAISE(ABORT, 'not now'); END"
    await to_thread.run_sync(change, path, full)
    for _ in range(3):
        with pytest.raises(DriverError, match="not now"):
            await late.open()
    assert open_files("hexa.db-owners") == before
    await to_thread.run_sync(change, path, "DROP TRIGGER refuse")
    await late.open()
    await late.close()
    assert open_files("hexa.db-owners") == before


async def test_an_open_that_was_cancelled_leaves_no_thread_and_no_owner(driver: EmbeddedDriver, path: Path) -> None:
    late = EmbeddedDriver(path, Embedded(busy_timeout_s=10.0))
    before = threads_of_brokers()
    with in_time():
        async with locked(path):
            with anyio.move_on_after(0.2):
                await late.open()
        await late.close()
        while threads_of_brokers() > before:
            await anyio.sleep(0.05)
        assert len(await driver._running.read(lambda db: db.execute("SELECT id FROM owners").fetchall())) == 1
