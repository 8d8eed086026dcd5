"""Redriving: nothing is lost and nothing is sent twice, whatever goes wrong in between."""

from pathlib import Path

import msgspec
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.lineage import EVENT_ID, REDRIVEN_FOR, REDRIVEN_FROM
from hexa_worker.core.message import Message, header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import CUT_CHANNEL, CUT_ID, CUT_SIZE, Acked, Route, settle
from hexa_worker.dead_letters.dead_letter import Cut
from hexa_worker.dead_letters.dead_letters import DeadLetters, Tally
from hexa_worker.dead_letters.editing import Draft, Hook
from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.noting import recorded_in
from hexa_worker.dead_letters.redriving import Redriver
from hexa_worker.errors import DriverUnavailable
from hexa_worker.lineage.finding import handled_redrives
from hexa_worker.lineage.recorder import Recorder
from hexa_worker.lineage.store import SqliteLineageStore
from tests.dead_letters.fixture import SPECS, Stopped, Weak, dead, handle, ignore, letters

pytestmark = pytest.mark.anyio


async def redrive(
    driver: Weak, filters: Filters | None = None, *, force: bool = False, hook: Hook | None = None
) -> Tally:
    """Plan and run, as the command does."""
    redriver = Redriver(driver, SPECS, Stopped())
    return await redriver.run(await redriver.plan(filters or Filters(), force=force), ignore, hook=hook)


async def test_a_redriven_letter_leaves_the_dead_letters_and_is_due_at_its_own_subscription(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(1200)])
    redriver = Redriver(driver, SPECS, Stopped())
    seen: list[int] = []
    tally = await redriver.run(await redriver.plan(Filters()), lambda now: seen.append(now.done))
    assert (tally.done, tally.refused, seen[-1]) == (1200, 0, 1200)
    assert await letters(driver) == []
    source = await driver.subscribe(SPECS[0])
    again = await source.receive(2000, 1 << 20)
    assert sorted(int(one.payload) for one in again) == list(range(1200))
    assert {one.attempt for one in again} == {1}
    assert (await (await driver.subscribe(SPECS[1])).backlog()).idle


async def cut_short(driver: Weak) -> None:
    """A redrive that dies after its records are confirmed and before their letters are removed."""
    driver.remove_fails = True
    with pytest.raises(DriverUnavailable):
        await redrive(driver)
    driver.remove_fails = False


async def test_a_redrive_that_is_cut_short_loses_nothing_and_doubles_nothing(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2)])
    await cut_short(driver)
    assert len(await letters(driver)) == 2
    tally = await redrive(driver)
    assert (tally.done, tally.already) == (0, 2)
    assert await letters(driver) == []
    waiting = await driver.browse("do.retry.1", -1, 10)
    assert sorted((header(one.headers, EVENT_ID), header(one.headers, REDRIVEN_FROM)) for one in waiting) == [
        (b"e-1", b"do.dlq-0"),
        (b"e-2", b"do.dlq-1"),
    ]


async def test_a_copy_that_has_moved_up_the_ladder_is_not_sent_again(driver: Weak) -> None:
    await driver.publish([dead(1)])
    await cut_short(driver)
    source = await driver.subscribe(SPECS[0])
    taken = await source.receive(10, 1 << 20)
    way = Route(action="do", retry_base="do", policy=RetryPolicy(initial_interval_s=60))
    await source.settle([settle(Raised(ValueError()), one, way, now_ms=1_000_000) for one in taken])
    assert (await redrive(driver)).already == 1
    assert len(await driver.browse("do.retry.2", -1, 10)) == 1
    assert await letters(driver) == []


async def test_a_copy_that_has_died_again_is_not_sent_again(driver: Weak) -> None:
    await driver.publish([dead(1)])
    await cut_short(driver)
    await handle(driver, KeyError("other"))
    assert [letter.redriven_from for letter in await letters(driver)] == [None, "do.dlq-0"]
    tally = await redrive(driver, Filters(error="ValueError"))
    assert (tally.done, tally.already) == (0, 1)
    assert [letter.error_class for letter in await letters(driver)] == ["KeyError"]


async def test_a_copy_that_is_remembered_as_handled_is_not_sent_again(driver: Weak, tmp_path: Path) -> None:
    await driver.publish([dead(1), dead(2)])
    await cut_short(driver)
    handled = await handle(driver, None)
    recorder = Recorder(lambda: SqliteLineageStore(tmp_path / "lineage.db"), Stopped())
    recorder.record("do", [Acked(one) for one in handled if one.payload == b"1"], 1_000_500)
    recorder.close()
    store = SqliteLineageStore(tmp_path / "lineage.db", create=False)
    remembering = Redriver(driver, SPECS, Stopped(), handled=lambda *asked: handled_redrives(store, *asked))
    tally = await remembering.run(await remembering.plan(Filters()), ignore)
    assert (tally.done, tally.already) == (1, 1)  # of 2 nothing was remembered: better twice than never
    store.close()


async def test_a_stranger_s_record_with_a_letter_s_name_suppresses_no_redrive(driver: Weak) -> None:
    claims = ((EVENT_ID, b"e-1"), (REDRIVEN_FROM, b"do.dlq-0"), (REDRIVEN_FOR, b"x"))
    await driver.publish([dead(1), Message(channel="work", payload=b"{}", headers=claims)])
    source = await driver.subscribe(SPECS[0])
    taken = await source.receive(10, 1 << 20)
    way = Route(action="do", retry_base="do", policy=RetryPolicy(initial_interval_s=60))
    await source.settle([settle(Raised(ValueError()), one, way, now_ms=1_000_000) for one in taken])
    (waiting,) = await driver.browse("do.retry.1", -1, 10)
    assert not {REDRIVEN_FROM, REDRIVEN_FOR} & dict(waiting.headers).keys()
    assert (await redrive(driver)).done == 1


async def test_a_broker_that_is_slower_than_the_rate_is_not_waited_for(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(300)])
    redriver = Redriver(driver, SPECS, SystemClock())
    assert (await redriver.run(await redriver.plan(Filters()), ignore, rate=1e9)).done == 300


async def test_a_refused_letter_stays_and_is_named(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2), dead(3)])
    driver.refused = {b"2"}
    tally = await redrive(driver)
    assert (tally.done, tally.refused) == (2, 1)
    assert tally.errors == ["do.dlq-1: no"]
    assert [letter.event_id for letter in await letters(driver)] == ["e-2"]


async def test_letters_that_die_during_a_redrive_are_not_redriven_again(driver: Weak) -> None:
    await driver.publish([dead(1)])
    redriver = Redriver(driver, SPECS, Stopped())
    plan = await redriver.plan(Filters())
    await driver.publish([dead(2)])
    assert (await redriver.run(plan, ignore)).done == 1
    assert [letter.event_id for letter in await letters(driver)] == ["e-2"]


async def test_letters_that_somebody_else_took_are_passed_over(driver: Weak) -> None:
    await driver.publish([dead(number) for number in range(5)])
    redriver = Redriver(driver, SPECS, Stopped())
    plan = await redriver.plan(Filters())
    await driver.remove("do.dlq", [0, 3, 4])
    assert (await redriver.run(plan, ignore)).done == 2


async def test_redrives_and_purges_are_part_of_the_lineage(driver: Weak, tmp_path: Path) -> None:
    await driver.publish([dead(1), dead(2)])
    recorder = Recorder(lambda: SqliteLineageStore(tmp_path / "lineage.db"), Stopped())
    redriver = Redriver(driver, SPECS, Stopped(), recorded_in(recorder))
    await redriver.run(await redriver.plan(Filters(ids=frozenset({"do.dlq-0"}))), ignore)
    dead_letters = DeadLetters(driver, SPECS, Stopped(), recorded_in(recorder))
    await dead_letters.purge(await dead_letters.choose(Filters()), ignore)
    recorder.close()
    store = SqliteLineageStore(tmp_path / "lineage.db", create=False)
    assert [(entry.outcome, entry.next) for entry in store.find("e-1")] == [("redriven", "do.retry.1")]
    assert [(entry.outcome, entry.next) for entry in store.find("e-2")] == [("purged", None)]
    store.close()


async def test_what_still_fails_after_a_redrive_is_withheld_until_it_is_forced(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2), dead(3, error=KeyError)])
    await redrive(driver, Filters(ids=frozenset({"do.dlq-0"})))
    await handle(driver, ValueError("no"))
    redriver = Redriver(driver, SPECS, Stopped())
    plan = await redriver.plan(Filters(), limit=1)
    assert [(one.action, one.count, one.witness.redriven_from) for one in plan.withheld] == [("do", 2, "do.dlq-0")]
    tally = await redriver.run(plan, ignore)
    assert tally.done == 1
    assert [letter.event_id for letter in await letters(driver)] == ["e-2", "e-1"]
    assert (await redrive(driver, force=True)).done == 2


async def test_a_letter_that_died_of_something_else_after_its_redrive_withholds_nothing(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2), dead(3, error=KeyError)])
    await redrive(driver, Filters(ids=frozenset({"do.dlq-0"})))
    await handle(driver, KeyError("no"))
    assert (await redrive(driver)).done == 3


async def test_once_the_witness_is_redriven_and_handled_the_others_may_go(driver: Weak) -> None:
    await driver.publish([dead(1), dead(2)])
    await redrive(driver, Filters(ids=frozenset({"do.dlq-0"})))
    await handle(driver, ValueError("no"))
    assert (await redrive(driver)).done == 0
    witness = next(letter.id for letter in await letters(driver) if letter.still_fails)
    await redrive(driver, Filters(ids=frozenset({witness})), force=True)
    await handle(driver, None)
    assert (await redrive(driver)).done == 1


async def test_a_hook_changes_payload_key_and_headers_and_nothing_else(driver: Weak) -> None:
    await driver.publish([dead(1)])

    def mend(draft: Draft) -> None:
        draft.payload = draft.payload + b"!"
        draft.key = b"k"
        draft.headers.append(("mended", draft.letter.error_class.encode()))

    await redrive(driver, hook=mend)
    (one,) = await driver.browse("do.retry.1", -1, 10)
    assert (one.payload, one.key, header(one.headers, "mended")) == (b"1!", b"k", b"ValueError")
    assert (header(one.headers, EVENT_ID), header(one.headers, REDRIVEN_FROM)) == (b"e-1", b"do.dlq-0")


def raise_for_two(draft: Draft) -> None:
    if draft.payload == b"2":
        raise LookupError("no such order")


def leave_no_bytes(draft: Draft) -> None:
    draft.payload = "text"  # type: ignore[assignment]


def claim_an_id(draft: Draft) -> None:
    draft.headers.append((EVENT_ID, b"e-9"))


def break_the_headers(draft: Draft) -> None:
    draft.headers = [("a", "text")]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("hook", "sent", "said"),
    [
        (raise_for_two, 1, "do.dlq-1: the hook raised LookupError: no such order"),
        (leave_no_bytes, 0, "payload that is no bytes but str"),
        (claim_an_id, 0, "names that start with hexa-"),
        (break_the_headers, 0, "not a list of pairs"),
    ],
)
async def test_a_letter_that_a_hook_fails_on_stays_as_it_is(driver: Weak, hook: Hook, sent: int, said: str) -> None:
    await driver.publish([dead(1), dead(2)])
    before = {letter.id: letter for letter in await letters(driver)}
    tally = await redrive(driver, hook=hook)
    assert (tally.done, tally.untouched) == (sent, 2 - sent)
    assert any(said in error for error in tally.errors)
    assert all(before[letter.id] == letter for letter in await letters(driver))


async def test_a_cut_letter_goes_round_only_with_its_whole_payload(driver: Weak) -> None:
    whole = dead(1)
    cut = ((CUT_SIZE, b"5"), (CUT_CHANNEL, b"work"), (CUT_ID, b"work-1"))
    await driver.publish([msgspec.structs.replace(whole, headers=(*whole.headers, *cut)), dead(2)])
    tally = await redrive(driver)
    assert (tally.done, tally.untouched) == (1, 1)
    assert "it is cut: 1 of 5 bytes are here, the whole was work-1 in work" in tally.errors[0]
    (letter,) = await letters(driver)
    assert letter.cut == Cut(5, "work", "work-1")

    def bring_back(draft: Draft) -> None:
        draft.payload = b"12345"

    tally = await redrive(driver, hook=bring_back)
    assert (tally.done, tally.untouched) == (1, 0)
    again = await driver.browse("do.retry.1", -1, 10)
    assert [one.payload for one in again] == [b"2", b"12345"]
    assert CUT_SIZE not in dict(again[1].headers), "it is whole again"


async def test_attempts_are_counted_over_redrives_with_their_times(driver: Weak) -> None:
    await driver.publish([dead(1)])
    await redrive(driver)
    await handle(driver, ValueError("other"), retries=2)
    (letter,) = await letters(driver)
    assert (letter.attempts, letter.attempts_since_redrive) == (3, 2)
    assert letter.failed_at_ms == (1_000_001, 1_000_000, 1_000_000)
    assert letter.redriven_from == "do.dlq-0"
