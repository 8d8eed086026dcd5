"""What a handler is told of its delivery, and the ids of what it emits."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from hexa_worker import BatchContext, Context, Event, Retries, Retry, Snooze, subscribe
from hexa_worker.core.child_ids import Handled, not_before_ms
from hexa_worker.core.lineage import REDRIVEN_FROM, Lineage
from hexa_worker.core.message import Message
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend


def test_a_handler_knows_its_last_attempt_its_first_failure_and_how_long_it_waited(backend: Backend) -> None:
    seen: list[tuple[int, bool, Any, float | None]] = []

    @subscribe("orders", retry=Retries(maximum=2, initial_s=10))
    async def work(order: str, ctx: Context) -> Any:
        assert ctx.maximum_retries == 2
        assert not ctx.redriven
        before = ctx.queued_s
        await anyio.sleep(3)
        assert ctx.queued_s == before
        seen.append((ctx.attempt, ctx.is_last_attempt, ctx.first_failed_at, before))
        if len(seen) == 1:
            return Snooze(60)
        raise ValueError("no")

    with Harness([work], backend=backend) as h:
        began = h.now
        h.emit("orders", "x")
        h.run_until_idle()
    failed_at = seen[2][2]
    assert [one[:2] for one in seen] == [(0, False), (0, False), (1, False), (2, True)]
    assert [one[2] for one in seen] == [None, None, failed_at, failed_at]
    assert failed_at - began == pytest.approx(timedelta(seconds=66), abs=timedelta(seconds=0.2))
    assert all(queued is not None and 0 <= queued < 0.2 for *_, queued in seen)


def test_an_event_that_waited_behind_others_was_queued_for_as_long(backend: Backend) -> None:
    queued: list[float | None] = []

    @subscribe("orders", concurrency=1)
    async def work(order: str, ctx: Context) -> None:
        queued.append(ctx.queued_s)
        await anyio.sleep(2)

    with Harness([work], backend=backend) as h:
        for text in ("a", "b", "c"):
            h.emit("orders", text)
        h.run_until_idle()
    assert queued == pytest.approx([0, 2, 4], abs=0.1)


def test_the_time_that_remains_follows_the_deadline(backend: Backend) -> None:
    seen: list[float | None] = []

    @subscribe("orders", timeout_s=10)
    async def work(order: str, ctx: Context) -> None:
        seen.append(ctx.remaining_s)
        await anyio.sleep(4)
        seen.append(ctx.remaining_s)
        ctx.extend(60)
        seen.append(ctx.remaining_s)

    @subscribe("orders", action="endless", timeout_s=0)
    async def endless(order: str, ctx: Context) -> None:
        assert ctx.remaining_s is None

    with Harness([work, endless], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    assert len(h.acked) == 2
    assert seen == pytest.approx([10, 6, 60], abs=0.1)


def test_a_redriven_event_says_so_and_one_that_only_claims_it_does_not(backend: Backend) -> None:
    seen: list[bool] = []

    @subscribe("orders", action="work")
    async def work(order: str, ctx: Context) -> None:
        seen.append(ctx.redriven)

    with Harness([work], backend=backend) as h:
        for channel in ("orders", "work.retry.1"):
            h.emit_raw(Message(channel=channel, payload=b'"x"', headers=((REDRIVEN_FROM, b"work.dlq-1"),)))
            h.run_until_idle()
    assert seen == [False, True]


def test_what_a_retry_emits_again_is_the_same_event_whatever_the_order(backend: Backend) -> None:
    @subscribe("orders", action="work")
    async def work(order: str, ctx: Context) -> None:
        async def emit(number: int) -> None:
            await anyio.sleep(number if ctx.attempt else 3 - number)
            await ctx.emit("parts", {"n": number}, key="k")

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(emit, number)
        await ctx.emit("ticks", 1)
        await ctx.emit("ticks", 1)
        await ctx.emit("attempts", {"attempt": ctx.attempt})
        if ctx.attempt == 0:
            raise ValueError("after its emits")

    with Harness([work], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    ids: dict[str, list[str]] = {}
    for one in h.emitted:
        ids.setdefault(f"{one.channel} {one.payload}", []).append(one.event_id)
    parts = [ids[f"parts {{'n': {number}}}"] for number in range(3)]
    assert all(first == again for first, again in parts)
    first, second, third, fourth = ids["ticks 1"]
    assert (first, second) == (third, fourth)
    assert first != second
    assert all(len(one) == 1 for text, one in ids.items() if text.startswith("attempts"))
    assert len({one.event_id for one in h.emitted}) == 3 + 2 + 2


def test_an_emit_that_a_retry_repeats_is_handled_once_where_there_is_deduplication(
    backend: Backend, tmp_path: Path
) -> None:
    (tmp_path / "repeating_sample.py").write_text(REPEATING)
    (tmp_path / "worker.toml").write_text(
        '[worker]\nname = "w"\nhandlers = ["repeating_sample"]\n[dedup]\nstore = "redis"\nurl = "redis://127.0.0.1:1"\n'
    )
    with Harness.from_config(tmp_path / "worker.toml", backend=backend) as h:
        h.emit("orders", 1)
        h.run_until_idle()
    assert len(h.emitted) == 6
    handled = [one.payload for one in h.acked if one.action == "count" and not one.reason]
    assert sorted(handled) == [1, 2, 3]


REPEATING = """
from hexa_worker import Context, Event, subscribe

@subscribe("orders")
async def work(order: int, ctx: Context) -> None:
    await ctx.emit("parts", 1)
    await ctx.emit_many([Event("parts", 2), Event("parts", 3)])
    if ctx.attempt == 0:
        raise ValueError("after its emits")

@subscribe("parts")
async def count(part: int) -> None: ...
"""


def test_children_that_differ_in_what_they_say_of_user_or_time_are_different_events(backend: Backend) -> None:
    @subscribe("orders", action="work")
    async def work(order: str, ctx: Context) -> None:
        for locale in (None, "de", "fr"):
            await ctx.emit("parts", 1, locale=locale)
        await ctx.emit("parts", 1, at=datetime(2026, 6, 1, ctx.attempt, tzinfo=UTC))
        if ctx.attempt == 0:
            raise ValueError("after its emits")

    with Harness([work], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    ids = [one.event_id for one in h.emitted if one.channel == "parts"]
    assert ids[:3] == ids[4:7]
    assert len(set(ids)) == 5


def test_two_actions_and_two_parents_emit_different_events(backend: Backend) -> None:
    async def work(order: str, ctx: Context) -> None:
        await ctx.emit("parts", 1)

    one, other = subscribe("orders", action="one")(work), subscribe("orders", action="other")(work)
    with Harness([one, other], backend=backend) as h:
        h.emit("orders", "x")
        h.emit("orders", "x")
        h.run_until_idle()
    assert len({emitted.event_id for emitted in h.emitted if emitted.channel == "parts"}) == 4


def test_an_event_keeps_the_id_that_its_emit_gives_it(backend: Backend) -> None:
    @subscribe("orders", action="work")
    async def work(order: str, ctx: Context) -> None:
        assert await ctx.emit("parts", order, id="mine-1") == "mine-1"

    @subscribe("orders", action="plain")
    def plain(order: str, ctx: Context) -> None:
        assert ctx.emit_sync("parts", order, id="mine-2") == "mine-2"

    with Harness([work, plain], backend=backend) as h:
        event_id = h.emit("orders", "x")
        h.run_until_idle()
    parts = sorted((one.event_id, one.parent_id) for one in h.emitted if one.channel == "parts")
    assert parts == [("mine-1", event_id), ("mine-2", event_id)]


def test_many_events_are_emitted_in_one_go_as_children(backend: Backend) -> None:
    @subscribe("orders")
    async def work(order: str, ctx: Context) -> None:
        ids = await ctx.emit_many([Event("parts", 1), Event("parts", 2, key="k", id="mine"), Event("others", 3)])
        assert len(set(ids)) == 3
        assert ids[1] == "mine"
        assert await ctx.emit_many([]) == []

    with Harness([work], backend=backend) as h:
        event_id = h.emit("orders", "x", correlation_id="c")
        h.run_until_idle()
    assert len(h.acked) == 1
    assert [(one.channel, one.payload, one.key) for one in h.emitted] == [
        ("parts", 1, None),
        ("parts", 2, "k"),
        ("others", 3, None),
    ]
    assert {(one.parent_id, one.root_id) for one in h.emitted} == {(event_id, event_id)}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_forgotten_await_of_emit_many_fails_the_delivery(backend: Backend) -> None:
    @subscribe("orders", retry=Retries(maximum=0))
    async def work(order: str, ctx: Context) -> None:
        ctx.emit_many([Event("parts", 1), Event("others", 2)])  # type: ignore[unused-coroutine]  # what is tried

    with Harness([work], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    (dead,) = h.dead_letters
    assert dead.error == "EmitUnconfirmed"
    assert "parts, others" in dead.message


def test_the_items_of_a_batch_emit_children_of_their_own_that_no_other_batch_changes(backend: Backend) -> None:
    batches: list[list[str]] = []

    @subscribe("orders", batch=10)
    async def work(orders: list[str], ctx: BatchContext) -> list[Retry | None]:
        batches.append(orders)
        assert ctx.maximum_retries == 4
        assert ctx.remaining_s is not None
        for order, item in zip(orders, ctx.items, strict=True):
            await item.emit("parts", {"of": order})
        await ctx.emit("parts", {"of": orders[0]})
        return [Retry(after=1) if (order, len(batches)) == ("b", 1) else None for order in orders]

    with Harness([work], backend=backend) as h:
        sent = {text: h.emit("orders", text) for text in ("a", "b")}
        h.run_until_idle()
    assert batches == [["a", "b"], ["b"]]
    parents = [(one.payload["of"], one.parent_id) for one in h.emitted]
    assert parents == [(text, sent[text]) for text in ("a", "b", "a", "b", "b")]
    a, b, a_again, b_again, b_third = [one.event_id for one in h.emitted]
    assert b == b_again
    assert len({a, a_again, b, b_third}) == 4


def test_the_id_of_a_child_tells_before_which_time_nothing_of_it_was_written() -> None:
    parent = Handled.of(Lineage("0192f0c0a000-0123456789abcdef-1", "r", None), "act")
    child = parent.child_id("c", None, (), b"p")
    assert not_before_ms(child) == not_before_ms(parent.event_id) == 0x0192F0C0A000
    assert not_before_ms(parent.child_id("c", None, (), b"p")) == 0x0192F0C0A000
    foreign = Handled.of(Lineage("orders-0-1", "r", None), "act")
    assert not_before_ms(foreign.child_id("c", None, (), b"p")) == 0
    assert datetime.fromtimestamp(not_before_ms(child) / 1000, UTC).year == 2024
