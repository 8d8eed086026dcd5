"""Retries that keep their place: an event of a key waits, what follows in the key waits behind it, others go on."""

import anyio
import pytest

from hexa_worker import Context, DeadLetter, Retry, subscribe
from hexa_worker.core import lineage, settlement
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.lineage.entries import entry_of
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend
from tests.actors.virtual_worker import VirtualWorker, in_place, of_key


def test_while_an_event_waits_its_key_waits_behind_it_and_the_other_keys_go_on(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1", "b1", "a2", "b2", "a3")
    theatre.run(in_place(theatre.failing({"a1": 2}), concurrency=1))
    assert theatre.runs == [
        ("a1", 0),
        ("b1", 0),
        ("b2", 0),
        ("a1", 1),
        ("a1", 2),
        ("a2", 0),
        ("a3", 0),
    ]
    assert theatre.at("b2") == 0.0
    assert theatre.at("a1", 1) == pytest.approx(1.0, abs=0.05)
    assert theatre.at("a1", 2) == pytest.approx(3.0, abs=0.05)
    assert theatre.stage.kinds().count("Postponed") == 2


def test_a_retry_is_never_early_and_takes_the_delay_its_handler_asked_for(backend: Backend) -> None:
    theatre = VirtualWorker(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0:
            raise Retry(after=7)

    theatre.emit("a1", "a2")
    theatre.run(in_place(handle))
    assert 7.0 <= theatre.at("a1", 1) < 7.1


def test_after_the_last_failure_the_event_is_dead_lettered_with_its_story_and_its_key_goes_on(
    backend: Backend,
) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1", "a2")
    theatre.run(in_place(theatre.failing({"a1": 99}), attempts=2))
    assert theatre.runs == [("a1", 0), ("a1", 1), ("a1", 2), ("a2", 0)]
    assert theatre.stage.kinds() == ["Postponed", "Postponed", "DeadLettered", "Acked"]
    (letter,) = theatre.time.run(theatre.stage.dead)
    assert letter.payload == b'"a1"'
    found = dict(letter.headers)
    assert found[lineage.ATTEMPT] == b"2"
    assert found[lineage.ORIGIN_CHANNEL] == b"events"
    assert found[lineage.EVENT_ID] == b"a1"
    assert int(found[settlement.DEAD_AT]) - int(found[lineage.FIRST_FAILED_AT]) in range(3000, 3200)


def test_an_event_that_is_given_up_at_once_does_not_hold_its_key_up(backend: Backend) -> None:
    theatre = VirtualWorker(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if text == "a1":
            raise DeadLetter("hopeless")

    theatre.emit("a1", "a2")
    theatre.run(in_place(handle))
    assert theatre.at("a2") == 0.0


def test_late_handlers_and_blocking_handlers_wait_in_their_place_too(backend: Backend) -> None:
    theatre = VirtualWorker(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0 and text == "a1":
            await anyio.sleep(100)

    theatre.emit("a1", "a2")
    theatre.run(in_place(handle, timeout_s=1.0))
    assert theatre.runs == [("a1", 0), ("a1", 1), ("a2", 0)]

    blocking = VirtualWorker(backend)

    def block(text: str, ctx: Context) -> None:
        blocking.note(text, ctx)
        if ctx.attempt == 0 and text == "a1":
            raise ValueError("not yet")

    blocking.emit("a1", "a2")
    blocking.run(in_place(block, style="sync"))
    assert blocking.runs == [("a1", 0), ("a1", 1), ("a2", 0)]


def test_no_lane_is_occupied_by_waiting(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    keys = [chr(ord("A") + number) for number in range(40)]
    theatre.emit(*[f"{key}1" for key in keys], "z1")
    theatre.run(in_place(theatre.failing({f"{key}1": 1 for key in keys}), concurrency=1))
    assert theatre.at("z1") == 0.0
    assert len(theatre.finished()) == 41


def test_what_waits_does_not_take_the_place_of_what_could_run(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    waiting = [f"{key}{number}" for key in "abcdefgh" for number in range(1, 11)]
    others = [f"z{number}" for number in range(1, 201)]
    theatre.emit(*waiting, *others)
    plan = in_place(theatre.failing({f"{key}1": 1 for key in "abcdefgh"}), concurrency=1, mailbox=100)
    theatre.run(plan)
    assert max(theatre.at(other) for other in others) < 1.0
    for key in "abcdefgh":
        assert of_key(key, theatre.finished()) == of_key(key, waiting)


def test_more_keys_than_may_wait_press_back_and_nothing_is_lost_or_overtaken(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    keys = "abcdefghij"
    texts = [f"{key}{number}" for number in range(1, 6) for key in keys]

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt < 2 and text.endswith("1"):
            raise ValueError("not yet")

    theatre.emit(*texts)
    theatre.run(in_place(handle, limit=2, mailbox=10, concurrency=3))
    for key in keys:
        assert of_key(key, theatre.finished()) == of_key(key, texts)
    assert len(theatre.finished()) == len(texts)
    waiting = [one.counters.waiting_keys for report in theatre.stage.reports for one in report.subscriptions]
    assert max(waiting) == 2
    assert theatre.stage.reports[-1].subscriptions[0].counters.waiting_keys == 0
    assert theatre.stage.reports[-1].subscriptions[0].counters.held_back == 0


def test_events_without_a_key_keep_no_order_and_use_retry_channels(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.stage.store.append(Message(channel="events", payload=b'"n1"'))
    theatre.run(in_place(theatre.failing({"n1": 1})))
    assert theatre.stage.kinds() == ["RetryAt", "Acked"]


def test_what_was_read_from_a_retry_channel_goes_on_there(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.stage.store.declare(_spec())
    theatre.stage.store.append(Message(channel="act.retry.1", payload=b'"a1"', key=b"a"))
    theatre.run(in_place(theatre.failing({"a1": 2})))
    assert theatre.stage.kinds() == ["RetryAt", "Acked"]
    assert theatre.runs == [("a1", 1), ("a1", 2)]


def _spec() -> SubscriptionSpec:
    return SubscriptionSpec(action="act", group="act", channels=("events",), retry_base="act", retry_count=3)


def test_by_channel_everything_of_the_channel_waits(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1", "b1")
    theatre.stage.store.append(Message(channel="others", payload=b'"c1"', key=b"c"))
    theatre.run(
        in_place(theatre.failing({"a1": 1}), order_by=OrderBy.CHANNEL, channels=("events", "others"), concurrency=2)
    )
    assert theatre.at("c1") == 0.0
    assert theatre.at("b1") >= theatre.at("a1", 1) >= 1.0


def test_lineage_tells_the_attempts_of_a_retry_in_its_place(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1")
    theatre.run(in_place(theatre.failing({"a1": 2})))
    entries = [entry_of("act", one, 0) for one in theatre.stage.settled]
    assert [(one.event_id, one.attempt, one.outcome, one.delay_s, one.next) for one in entries] == [
        ("a1", 0, "retried", 1.0, "events"),
        ("a1", 1, "retried", 2.0, "events"),
        ("a1", 2, "acked", None, None),
    ]
    assert entries[0].error == "ValueError: not yet"


def test_the_harness_shows_what_waits_in_its_place_among_the_retries(backend: Backend) -> None:
    @subscribe("orders", action="check", order_by="key")
    async def check(order: int, ctx: Context) -> None:
        if ctx.attempt == 0:
            raise ValueError("once")

    with Harness([check], settings={"check": {"retry": {"order": "key"}}}, backend=backend) as h:
        h.emit("orders", 1, key="ada")
        h.emit("orders", 2, key="ada")
        h.run_until_idle()
    assert [(one.payload, one.attempt, one.delay_s, one.channel) for one in h.retried] == [
        (1, 0, 1.0, "orders"),
        (2, 0, 1.0, "orders"),
    ]
    assert [one.payload for one in h.acked] == [1, 2]
