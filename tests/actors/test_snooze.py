"""A snoozed event comes again later as the attempt that it was, as often as is allowed, wherever it waits."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from hexa_worker import BatchContext, Context, DeadLetter, Retries, Retry, Snooze, subscribe
from hexa_worker.core import lineage
from hexa_worker.core.message import header
from hexa_worker.lineage.entries import entry_of
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend
from tests.actors.virtual_worker import VirtualWorker, in_place

SNOOZING = """
from hexa_worker import Context, Snooze, subscribe

@subscribe("jobs")
async def work(number: int, ctx: Context) -> None:
    if (ctx.attempt, ctx.snoozes) in {(0, 0), (0, 1), (1, 2)}:
        raise Snooze(1)
    if ctx.attempt == 0:
        raise ValueError("once")
"""


def test_a_snoozed_event_comes_again_in_time_as_the_attempt_that_it_was(backend: Backend) -> None:
    seen: list[tuple[int, int, str, float]] = []

    @subscribe("orders", action="wait")
    async def wait(order: str, ctx: Context) -> Any:
        seen.append((ctx.attempt, ctx.snoozes, ctx.channel, h.now.timestamp() - began))
        match len(seen):
            case 1:
                raise Snooze(10, "not paid yet")
            case 2:
                return Snooze(timedelta(minutes=1))
            case 3:
                return Retry(after=timedelta(seconds=5))
            case 4:
                return Snooze(20)
        return None

    with Harness([wait], backend=backend) as h:
        began = h.now.timestamp()
        event_id = h.emit("orders", "x")
        h.run_until_idle()
    assert [one[:3] for one in seen] == [
        (0, 0, "orders"),
        (0, 1, "orders"),
        (0, 2, "orders"),
        (1, 2, "orders"),
        (1, 3, "orders"),
    ]
    for (*_, at), due in zip(seen, (0, 10, 70, 75, 95), strict=True):
        assert due <= at < due + 0.1
    assert [(one.delay_s, one.message, one.event_id) for one in h.snoozed] == [
        (10, "not paid yet", event_id),
        (60, "", event_id),
        (20, "", event_id),
    ]
    assert [one.delay_s for one in h.retried] == [5]
    assert [(one.event_id, one.attempt) for one in h.acked] == [(event_id, 1)]
    assert h.dead_letters == []


@pytest.mark.parametrize("limit", [0, 2])
def test_more_snoozes_than_are_allowed_end_in_the_dead_letter(backend: Backend, limit: int) -> None:
    runs: list[int] = []

    @subscribe("orders", action="wait", retry=Retries(maximum_snoozes=limit))
    async def wait(order: str, ctx: Context) -> Snooze:
        runs.append(ctx.snoozes)
        return Snooze(1, "not paid yet")

    with Harness([wait], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    assert runs == list(range(limit + 1))
    (dead,) = h.dead_letters
    assert (dead.error, dead.attempt) == ("Snooze", 0)
    assert dead.message == f"snoozed {limit} times, more often than maximum_snoozes allows: not paid yet"


def test_worker_toml_says_over_the_decorator_how_often_an_event_may_be_snoozed(backend: Backend) -> None:
    @subscribe("orders", action="wait", retry=Retries(maximum_snoozes=7))
    async def wait(order: str) -> Snooze:
        return Snooze(1)

    with Harness([wait], backend=backend, settings={"wait": {"retry": {"maximum_snoozes": 3}}}) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    assert len(h.snoozed) == 3


def test_without_retries_a_snoozed_event_has_a_channel_where_snoozes_are_asked_for(backend: Backend) -> None:
    @subscribe("orders", action="wait")
    async def wait(order: str, ctx: Context) -> None:
        if ctx.snoozes < 2:
            raise Snooze(5)
        raise ValueError("no")

    for settings, snoozed, error in (
        ({"maximum_retries": 0, "maximum_snoozes": 2}, 2, "ValueError"),
        ({"maximum_retries": 0}, 0, "Snooze"),
    ):
        with Harness([wait], backend=backend, settings={"wait": {"retry": settings}}) as h:
            h.emit("orders", "x")
            h.run_until_idle()
        assert len(h.snoozed) == snoozed
        assert [(one.error, one.attempt) for one in h.dead_letters] == [(error, 0)]


def test_each_item_of_a_batch_has_its_own_verdict_returned_or_raised_for_all(backend: Backend) -> None:
    runs: list[list[tuple[str, int, int]]] = []

    @subscribe("orders", action="wait", batch=10)
    async def wait(orders: list[str], ctx: BatchContext) -> Any:
        runs.append([(text, item.attempt, item.snoozes) for text, item in zip(orders, ctx.items, strict=True)])
        match len(runs):
            case 1:
                return [None, Snooze(30), Retry(after=10), DeadLetter("no")]
            case 2:
                raise Snooze(50)
        return None

    with Harness([wait], backend=backend) as h:
        for text in ("a", "b", "c", "d"):
            h.emit("orders", text)
        h.run_until_idle()
    assert runs == [
        [("a", 0, 0), ("b", 0, 0), ("c", 0, 0), ("d", 0, 0)],
        [("c", 1, 0)],
        [("b", 0, 1)],
        [("c", 1, 1)],
    ]
    assert [one.payload for one in h.dead_letters] == ["d"]
    assert sorted(one.payload for one in h.acked) == ["a", "b", "c"]


def test_deduplication_takes_no_snoozed_event_for_a_duplicate(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "snoozing_sample.py").write_text(SNOOZING)
    (tmp_path / "worker.toml").write_text(
        '[worker]\nname = "w"\nhandlers = ["snoozing_sample"]\n[dedup]\nstore = "redis"\nurl = "redis://127.0.0.1:1"\n'
    )
    with Harness.from_config(tmp_path / "worker.toml", backend=backend) as h:
        for _ in range(2):
            h.emit("jobs", 1, event_id="event-1")
            h.run_until_idle()
    assert [(one.attempt, one.reason) for one in h.acked] == [(1, ""), (0, "dropped")]
    assert [one.delay_s for one in h.snoozed] == [1, 1, 1]
    assert len(h.retried) == 1


def test_in_its_place_what_is_snoozed_keeps_the_order_of_its_key(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    snoozes: list[int] = []

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if text == "a1" and ctx.snoozes < 2:
            snoozes.append(ctx.snoozes)
            raise Snooze(3, "not yet")

    theatre.emit("a1", "b1", "a2")
    theatre.run(in_place(handle, concurrency=1))
    assert theatre.seen == [(0, "a1", 0), (0, "b1", 0), (3, "a1", 0), (6, "a1", 0), (6, "a2", 0)]
    assert snoozes == [0, 1]
    assert theatre.stage.reports[-1].subscriptions[0].counters.snoozed == 2
    assert theatre.stage.reports[-1].subscriptions[0].counters.retried == 0


def test_in_its_place_a_snooze_and_its_count_outlive_the_process(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    seen: list[tuple[int, int]] = []

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        seen.append((ctx.attempt, ctx.snoozes))
        if ctx.attempt == 0 and not ctx.snoozes:
            raise Snooze(3)
        if ctx.attempt == 0:
            raise ValueError("once")

    plan = in_place(handle)

    async def first() -> None:
        async with theatre.stage.running(plan, clock=theatre.time):
            await anyio.sleep(1)

    theatre.emit("a1")
    theatre.play(first)
    theatre.run(plan)
    assert seen == [(0, 0), (0, 1), (1, 1)]
    assert theatre.at("a1", 1) >= 4


def test_a_snooze_is_logged_counted_and_remembered(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    theatre = VirtualWorker(backend)

    async def handle(text: str, ctx: Context) -> None:
        if not ctx.snoozes:
            raise Snooze(3, "the shop is closed")

    theatre.emit("a1")
    with caplog.at_level(logging.INFO, "hexa_worker.delivery"):
        theatre.run(in_place(handle))
    (line,) = [one for one in caplog.records if "snoozed" in one.message]
    assert line.message == "snoozed: the shop is closed"
    assert line.levelno == logging.INFO
    fields = line.hexa_worker_fields  # type: ignore[attr-defined]  # what the formatters read
    assert (fields["next"], fields["snoozes"], fields["event_id"]) == ("again in 3 s", 1, "a1")
    snoozed = theatre.stage.settled[0]
    entry = entry_of("wait", snoozed, 1)
    assert (entry.outcome, entry.delay_s, entry.error) == ("snoozed", 3, "Snooze: the shop is closed")
    assert header(snoozed.again.headers, lineage.SNOOZES) == b"1"  # type: ignore[union-attr]  # it is Postponed
