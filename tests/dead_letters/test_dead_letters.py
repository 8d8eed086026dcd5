"""Dead letters and the tracer on a real driver."""

from pathlib import Path

import pytest

from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, ROOT_ID
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, Route, settle
from hexa_worker.dead_letters import following
from hexa_worker.dead_letters.dead_letters import DeadLetters
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.tracer import Traced, Tracer
from hexa_worker.errors import DriverError, DriverUnavailable
from hexa_worker.lineage.recorder import Recorder
from hexa_worker.lineage.store import SqliteLineageStore
from tests.dead_letters.fixture import SPECS, Stopped, Weak, dead, ignore, letters
from tests.deadlines import in_time

pytestmark = pytest.mark.anyio
LADDER = ("retry.1", "retry.2", "dlq")


async def test_letters_of_all_subscriptions_are_listed_and_filtered(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2, error=KeyError), dead(3, "more")])
    assert [letter.event_id for letter in await letters(driver)] == ["e-1", "e-2", "e-3"]
    assert [letter.event_id for letter in await letters(driver, Filters(error="KeyError"))] == ["e-2"]
    assert [letter.event_id for letter in await letters(driver, Filters(action="more"))] == ["e-3"]


async def test_letters_of_one_subscription_that_cannot_be_read_hide_no_others(driver: Weak) -> None:
    await driver.publish([dead(1), dead(3, "more")])
    driver.unreadable |= {"do.dlq"}
    unread: dict[str, DriverError] = {}
    listed = [one.event_id async for one in DeadLetters(driver, SPECS, Stopped()).letters(Filters(), unread)]
    assert (listed, list(unread)) == (["e-3"], ["do"])


async def test_a_letter_is_found_by_its_id(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2)])
    dead_letters = DeadLetters(driver, SPECS, Stopped())
    found = await dead_letters.find("do.dlq-1")
    assert found is not None
    assert found.event_id == "e-2"
    for stranger in ("do.dlq-2", "do.dlq--1", "work-0", "nonsense", "do.dlq-x"):
        assert await dead_letters.find(stranger) is None


async def test_a_limit_takes_the_oldest(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(5)])
    dead_letters = DeadLetters(driver, SPECS, Stopped())
    assert (await dead_letters.purge(await dead_letters.choose(Filters(), limit=2), ignore)).done == 2
    assert [letter.event_id for letter in await letters(driver)] == ["e-2", "e-3", "e-4"]


async def test_a_trace_tells_what_is_remembered_and_what_waits(driver: Weak, tmp_path: Path) -> None:
    clock = Stopped()
    root = Delivery(channel="work", payload=b"", headers=((EVENT_ID, b"r"),), source="work", offset=0)
    child = ((EVENT_ID, b"c"), (ROOT_ID, b"r"), (PARENT_ID, b"r"))
    recorder = Recorder(lambda: SqliteLineageStore(tmp_path / "lineage.db"), clock)
    recorder.record("more", [Acked(root)], clock.ms)
    failed = settle(Raised(ValueError("no")), root, Route(action="do", retry_base="do", policy=RetryPolicy()), now_ms=1)
    recorder.record("do", [failed], clock.ms)
    await driver.publish([failed.record, Message(channel="work", payload=b"", headers=child)])  # type: ignore[union-attr]
    recorder.close()
    store = SqliteLineageStore(tmp_path / "lineage.db", create=False)
    for asked in ("r", "c"):
        traced = await Tracer(driver, SPECS, store, remembers=True).trace(asked)
        assert traced.tree is not None
        assert traced.tree.event_id == "r"
        assert {branch.action: branch.state for branch in traced.tree.branches} == {"more": "done", "do": "retrying"}
        (below,) = traced.tree.children
        assert (below.event_id, below.channel) == ("c", "work")
        assert {branch.action: branch.state for branch in below.branches} == {"do": "waiting", "more": "waiting"}
    assert (await Tracer(driver, SPECS, store, remembers=True).trace("unknown")).tree is None
    store.close()


async def test_without_a_store_a_trace_still_tells_what_waits(driver: Weak) -> None:
    await driver.publish([dead(7), Message(channel="work", payload=b"", headers=((EVENT_ID, b"e-7"),))])
    traced = await Tracer(driver, SPECS, None, remembers=False).trace("e-7")
    assert traced.tree is not None
    assert [(branch.action, branch.state) for branch in traced.tree.branches] == [("do", "dead-lettered")]
    assert traced.tree.channel == "work"


async def test_a_trace_reads_no_channel_but_its_subscriptions_while_they_know_of_the_event(driver: Weak) -> None:
    await driver.publish([dead(7), Message(channel="theirs", payload=b"")])
    assert (await Tracer(driver, SPECS, None, remembers=False).trace("e-7")).tree is not None
    assert driver.browsed == {"work", *(f"{base}.{more}" for base in ("do", "more") for more in LADDER)}


async def test_an_event_that_none_of_its_subscriptions_knows_is_looked_for_everywhere(driver: Weak) -> None:
    await driver.publish([Message(channel="theirs", payload=b"", headers=((EVENT_ID, b"lost"),))])
    found = (await Tracer(driver, SPECS, None, remembers=True).trace("lost")).tree
    assert found is not None
    assert (found.event_id, found.channel, found.branches) == ("lost", "theirs", [])
    assert (await Tracer(driver, SPECS, None, remembers=True).trace("nobody")).tree is None


async def test_channels_that_cannot_be_read_are_named_and_the_rest_is_told(driver: Weak) -> None:
    await driver.publish([dead(7), Message(channel="theirs", payload=b"", headers=((EVENT_ID, b"lost"),))])
    driver.unreadable |= {"do.retry.1", "broken"}
    await driver.publish([Message(channel="broken", payload=b"")])
    traced = await Tracer(driver, SPECS, None, remembers=False).trace("e-7")
    assert traced.tree is not None
    assert [(branch.action, branch.state) for branch in traced.tree.branches] == [("do", "dead-lettered")]
    assert traced.unread == {"do.retry.1": "do.retry.1 does not answer"}
    other = await Tracer(driver, SPECS, None, remembers=False).trace("lost")
    assert other.tree is not None
    assert other.unread.keys() == {"do.retry.1", "broken"}


async def test_what_follows_to_the_end_ends_with_an_error_when_a_channel_can_never_be_read(
    driver: Weak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.001)
    monkeypatch.setattr(following, "QUIET_S", 0.001)
    recorder = Recorder(lambda: SqliteLineageStore(tmp_path / "lineage.db"), Stopped())
    root = Delivery(channel="work", payload=b"", headers=((EVENT_ID, b"r"),), source="work", offset=0)
    recorder.record("do", [Acked(root)], 5)
    recorder.close()
    driver.unreadable |= {"do.retry.1"}

    def store() -> SqliteLineageStore:
        return SqliteLineageStore(tmp_path / "lineage.db")

    async def trace() -> Traced:
        opened = store()
        try:
            return await Tracer(driver, SPECS, opened, remembers=True).trace("r")
        finally:
            opened.close()

    with in_time(), pytest.raises(DriverUnavailable, match=r"do\.retry\.1 does not answer"):
        async for _ in following.follow("r", store, trace):
            pass


async def test_a_broker_that_is_away_fails_a_trace(driver: Weak) -> None:
    await driver.publish([dead(7)])
    driver.unreadable |= {"work"}
    driver.store.away = True
    with pytest.raises(DriverUnavailable):
        await Tracer(driver, SPECS, None, remembers=False).trace("e-7")
