"""The file is removed or replaced while it is open, or the thread that owns it comes to an end."""

import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.loop.turns import Turns
from hexa_worker.errors import DriverBroken, DriverRejected, LeaseLost
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.deadlines import until
from tests.embedded.things import PLENTY, numbers, publish, spec, take

pytestmark = pytest.mark.anyio


def remove_it(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for one in path.parent.glob("hexa.db*"):
        one.unlink()


def put_another(path: Path) -> None:
    (path.parent.parent / "other" / "hexa.db").replace(path)


def put_another_after_removing_all(path: Path) -> None:
    remove_all(path)
    put_another(path)


def put_a_copy_of_itself(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


EVENTS = pytest.mark.parametrize(
    "happens", [remove_it, remove_all, put_another, put_another_after_removing_all, put_a_copy_of_itself]
)


async def prepare_another(path: Path) -> None:
    """A whole database elsewhere with one event."""
    other = EmbeddedDriver(path.parent.parent / "other" / "hexa.db")
    await other.open()
    await other.declare([spec("act")])
    await publish(other, 1)
    await other.close()


@EVENTS
async def test_a_worker_goes_on_with_the_file_that_is_there(
    path: Path, happens: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    await prepare_another(path)
    stage = WorkerFixture()
    seen: list[int] = []

    async def handle(payload: int, _ctx: Context) -> None:
        seen.append(payload)

    async with stage.running(plan_of(handle, channels=("work",)), driver=EmbeddedDriver(path)):
        first = EmbeddedDriver(path)
        await first.open()
        await first.publish([Message(channel="work", payload=b"1")])
        await until(lambda: 1 in seen)
        await first.close()
        happens(path)
        await anyio.sleep(0.6)  # an idle thread looks twice a second
        second = EmbeddedDriver(path)
        await second.open()
        await second.publish([Message(channel="work", payload=b"2")])
        await until(lambda: 2 in seen)
        await until(lambda: stage.reports[-1].ready)
        await second.close()
    said = {one for one in caplog.messages if one.startswith(f"{path} was re")}
    assert len(said) == 1, caplog.messages
    check = EmbeddedDriver(path)
    await check.open()
    assert (await check.backlog(spec("act"))).idle
    await check.close()


@EVENTS
async def test_nothing_is_settled_in_a_file_that_it_was_not_read_from(
    driver: EmbeddedDriver, path: Path, happens: Callable[[Path], None]
) -> None:
    await prepare_another(path)
    source = await driver.subscribe(spec("act"))
    await publish(driver, 3)
    taken = await take(source, 3)
    happens(path)
    unsettled = await source.settle([Acked(one) for one in taken])
    assert [type(one.error) for one in unsettled] == [LeaseLost] * 3
    with pytest.raises(DriverRejected, match="was re"):
        await source.receive(1, PLENTY)
    await source.close()
    again = await driver.subscribe(spec("act"))
    await publish(driver, 1)
    assert numbers(await take(again, 1)) == [0]


@EVENTS
async def test_an_emitter_writes_to_the_file_that_is_there(
    driver: EmbeddedDriver, path: Path, happens: Callable[[Path], None]
) -> None:
    await prepare_another(path)
    await publish(driver, 1)
    happens(path)
    await publish(driver, 1)
    reader = EmbeddedDriver(path)
    await reader.open()
    assert len(await reader.browse("work", -1, 10)) in (1, 2), "in the file that is there, whatever was in it before"
    newest = (await reader.browse("work", -1, 10))[-1]
    assert newest.payload == b"0"
    await reader.close()


async def test_no_subscription_misses_what_another_one_finishes_before_it_comes_back(
    driver: EmbeddedDriver, path: Path
) -> None:
    quick, slow = await driver.subscribe(spec("quick")), await driver.subscribe(spec("slow"))
    remove_all(path)
    await publish(driver, 3)
    for source in (quick, slow):
        with pytest.raises(DriverRejected, match="was re"):
            await source.receive(1, PLENTY)
        await source.close()
    quick = await driver.subscribe(spec("quick"))
    await quick.settle([Acked(one) for one in await take(quick, 3)])
    await anyio.sleep(0.6)  # what all subscriptions have finished is trimmed twice a second
    slow = await driver.subscribe(spec("slow"))
    with anyio.fail_after(5):
        assert numbers(await take(slow, 3)) == [0, 1, 2]


async def test_a_subscription_that_another_file_refuses_takes_no_other_one_along(
    driver: EmbeddedDriver, path: Path
) -> None:
    other = EmbeddedDriver(path.parent.parent / "other" / "hexa.db")
    await other.open()
    await other.declare([spec("strict", order_by=OrderBy.KEY)])
    await other.close()
    await driver.declare([spec("first"), spec("strict", order_by=OrderBy.CHANNEL), spec("last")])
    put_another_after_removing_all(path)
    await publish(driver, 1)
    reader = EmbeddedDriver(path)
    await reader.open()
    assert [(one.name, one.unread) for one in await reader.groups()] == [("first", 1), ("last", 1), ("strict", 1)]
    await reader.close()


async def test_a_thread_that_ends_ends_the_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = WorkerFixture()
    turn, dying = Turns._turn, False

    def die(thread: Turns) -> None:
        if dying:
            raise SystemExit("no more")
        turn(thread)

    monkeypatch.setattr(Turns, "_turn", die)

    async def handle(_payload: int, _ctx: Context) -> None:
        nonlocal dying
        dying = True

    async def run() -> None:
        async with stage.running(plan_of(handle, channels=("work",)), driver=EmbeddedDriver(path)):
            first = EmbeddedDriver(path)
            await first.open()
            await first.publish([Message(channel="work", payload=b"1")])
            await first.close()
            await anyio.sleep(10)

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(DriverBroken, match="the embedded broker's thread ended: SystemExit: no more")
