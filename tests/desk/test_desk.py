"""The desk and the tracer on a real driver: nothing is lost, whatever goes wrong in between."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, ROOT_ID
from hexa_worker.core.message import Delivery, Message, header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, DeadLettered, Route, settle
from hexa_worker.desk.desk import Desk, Tally
from hexa_worker.desk.letters import REDRIVEN_FROM, DeadLetter, Filters
from hexa_worker.desk.noting import noted
from hexa_worker.desk.tracer import Tracer
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable
from hexa_worker.lineage.recorder import Recorder
from hexa_worker.lineage.store import LineageStore

pytestmark = pytest.mark.anyio

SPECS = tuple(
    SubscriptionSpec(action=action, group=action, channels=("work",), retry_base=action, retry_count=1)
    for action in ("do", "more")
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Stopped:
    """A clock that is set by hand; its monotonic time moves when somebody sleeps on the real one."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


def dead(number: int, action: str = "do", error: type[Exception] = ValueError) -> Message:
    """What the runtime writes when it gives up."""
    delivery = Delivery(
        channel="work", payload=b"%d" % number, headers=((EVENT_ID, b"e-%d" % number),), source="work", offset=number
    )
    route = Route(action=action, retry_base=action, policy=RetryPolicy(maximum_attempts=0))
    settlement = settle(Raised(error("no")), delivery, route, now_ms=1_000_000 + number)
    assert isinstance(settlement, DeadLettered)
    return settlement.record


class Weak(MemoryDriver):
    """Fails where a test says so."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.remove_fails = False
        self.refused: set[bytes] = set()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        fit = [one for one in messages if one.payload not in self.refused]
        answers = iter(await super().publish(fit))
        return [next(answers) if one.payload not in self.refused else DriverRejected("no") for one in messages]

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        if self.remove_fails:
            raise DriverUnavailable("away")
        return await super().remove(channel, offsets)


@pytest.fixture
async def driver() -> Weak:
    made = Weak(MemoryStore(Stopped()))
    await made.declare(SPECS)
    return made


def ignore(_tally: Tally) -> None:
    """Nobody watches."""


async def letters(desk: Desk, filters: Filters | None = None) -> list[DeadLetter]:
    return [letter async for letter in desk.letters(filters or Filters())]


async def test_letters_of_all_subscriptions_are_listed_and_filtered(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2, error=KeyError), dead(3, "more")])
    desk = Desk(driver, SPECS, Stopped())
    assert [letter.event_id for letter in await letters(desk)] == ["e-1", "e-2", "e-3"]
    assert [letter.event_id for letter in await letters(desk, Filters(error="KeyError"))] == ["e-2"]
    assert [letter.event_id for letter in await letters(desk, Filters(action="more"))] == ["e-3"]


async def test_a_letter_is_found_by_its_id(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2)])
    desk = Desk(driver, SPECS, Stopped())
    found = await desk.find("do.dlq-1")
    assert found is not None
    assert found.event_id == "e-2"
    for stranger in ("do.dlq-2", "do.dlq--1", "work-0", "nonsense", "do.dlq-x"):
        assert await desk.find(stranger) is None


async def test_a_redriven_letter_leaves_the_desk_and_is_due_at_its_own_subscription(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(1200)])
    desk = Desk(driver, SPECS, Stopped())
    seen: list[int] = []
    tally = await desk.redrive(await desk.choose(Filters()), lambda now: seen.append(now.done))
    assert (tally.done, tally.refused, seen[-1]) == (1200, 0, 1200)
    assert await letters(desk) == []
    source = await driver.subscribe(SPECS[0])
    again = await source.receive(2000, 1 << 20)
    assert sorted(int(one.payload) for one in again) == list(range(1200))
    assert {one.attempt for one in again} == {1}
    assert (await (await driver.subscribe(SPECS[1])).backlog()).idle


async def test_a_redrive_that_is_cut_short_loses_nothing_and_doubles_only_under_one_event_id(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2)])
    desk = Desk(driver, SPECS, Stopped())
    driver.remove_fails = True
    with pytest.raises(DriverUnavailable):
        await desk.redrive(await desk.choose(Filters()), ignore)
    assert len(await letters(desk)) == 2
    driver.remove_fails = False
    await desk.redrive(await desk.choose(Filters()), ignore)
    assert await letters(desk) == []
    waiting = await driver.browse("do.retry.1", -1, 10)
    assert sorted((header(one.headers, EVENT_ID), header(one.headers, REDRIVEN_FROM)) for one in waiting) == [
        (b"e-1", b"do.dlq-0"),
        (b"e-1", b"do.dlq-0"),
        (b"e-2", b"do.dlq-1"),
        (b"e-2", b"do.dlq-1"),
    ]


async def test_a_refused_letter_stays_and_is_named(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2), dead(3)])
    driver.refused = {b"2"}
    desk = Desk(driver, SPECS, Stopped())
    tally = await desk.redrive(await desk.choose(Filters()), ignore)
    assert (tally.done, tally.refused) == (2, 1)
    assert tally.errors == ["do.dlq-1: no"]
    assert [letter.event_id for letter in await letters(desk)] == ["e-2"]


async def test_letters_that_die_during_a_redrive_are_not_redriven_again(driver: Weak) -> None:
    await driver.publish([dead(1)])
    desk = Desk(driver, SPECS, Stopped())
    chosen = await desk.choose(Filters())
    await driver.publish([dead(2)])
    assert (await desk.redrive(chosen, ignore)).done == 1
    assert [letter.event_id for letter in await letters(desk)] == ["e-2"]


async def test_a_limit_takes_the_oldest(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(5)])
    desk = Desk(driver, SPECS, Stopped())
    assert (await desk.purge(await desk.choose(Filters(), limit=2), ignore)).done == 2
    assert [letter.event_id for letter in await letters(desk)] == ["e-2", "e-3", "e-4"]


async def test_letters_that_somebody_else_took_are_passed_over(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(5)])
    desk = Desk(driver, SPECS, Stopped())
    chosen = await desk.choose(Filters())
    await driver.remove("do.dlq", [0, 3, 4])
    assert (await desk.redrive(chosen, ignore)).done == 2


async def test_a_trace_tells_what_is_remembered_and_what_waits(driver: Weak, tmp_path: Path) -> None:
    clock = Stopped()
    root = Delivery(channel="work", payload=b"", headers=((EVENT_ID, b"r"),), source="work", offset=0)
    child = ((EVENT_ID, b"c"), (ROOT_ID, b"r"), (PARENT_ID, b"r"))
    recorder = Recorder(tmp_path / "lineage.db", clock)
    recorder.record("more", [Acked(root)], clock.ms)
    failed = settle(Raised(ValueError("no")), root, Route(action="do", retry_base="do", policy=RetryPolicy()), now_ms=1)
    recorder.record("do", [failed], clock.ms)
    await driver.publish([failed.record, Message(channel="work", payload=b"", headers=child)])  # type: ignore[union-attr]
    recorder.close()
    store = LineageStore(tmp_path / "lineage.db", create=False)
    for asked in ("r", "c"):
        traced = await Tracer(driver, SPECS, store, remembers=True).trace(asked)
        assert traced is not None
        assert traced.tree.event_id == "r"
        assert {branch.action: branch.state for branch in traced.tree.branches} == {"more": "done", "do": "retrying"}
        (below,) = traced.tree.children
        assert (below.event_id, below.channel) == ("c", "work")
        assert {branch.action: branch.state for branch in below.branches} == {"do": "waiting", "more": "waiting"}
    assert await Tracer(driver, SPECS, store, remembers=True).trace("unknown") is None
    store.close()


async def test_without_a_store_a_trace_still_tells_what_waits(driver: Weak) -> None:
    await driver.publish([dead(7), Message(channel="work", payload=b"", headers=((EVENT_ID, b"e-7"),))])
    traced = await Tracer(driver, SPECS, None, remembers=False).trace("e-7")
    assert traced is not None
    assert [(branch.action, branch.state) for branch in traced.tree.branches] == [("do", "dead-lettered")]
    assert traced.tree.channel == "work"


async def test_redrives_and_purges_are_part_of_the_lineage(driver: Weak, tmp_path: Path) -> None:
    await driver.publish([dead(1), dead(2)])
    recorder = Recorder(tmp_path / "lineage.db", Stopped())
    desk = Desk(driver, SPECS, Stopped(), noted(recorder))
    await desk.redrive(await desk.choose(Filters(ids=frozenset({"do.dlq-0"}))), ignore)
    await desk.purge(await desk.choose(Filters()), ignore)
    recorder.close()
    store = LineageStore(tmp_path / "lineage.db", create=False)
    assert [(entry.outcome, entry.next) for entry in store.find("e-1")] == [("redriven", "do.retry.1")]
    assert [(entry.outcome, entry.next) for entry in store.find("e-2")] == [("purged", None)]
    store.close()
