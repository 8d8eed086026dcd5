"""The harness: real handlers in virtual time."""

import itertools
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import (
    BatchContext,
    ConfigError,
    Context,
    DeadLetter,
    Drop,
    Retries,
    Retry,
    lifespan,
    subscribe,
)
from hexa_worker.core.message import Message
from hexa_worker.testing import Harness, HarnessError
from hexa_worker.testing.virtual import Backend


class Order(msgspec.Struct):
    id: int
    customer: str = "ada"


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


def test_a_handled_event_is_acked_with_its_decoded_payload(backend: Backend) -> None:
    @subscribe("orders", action="check")
    async def check(order: Order, ctx: Context) -> None:
        assert ctx.headers["tenant"] == "t1"

    with Harness([check], backend=backend) as h:
        event_id = h.emit("orders", {"id": 7}, key="ada", headers={"tenant": "t1"})
        h.run_until_idle()
    (done,) = h.acked
    assert (done.action, done.event_id, done.root_id, done.attempt) == ("check", event_id, event_id, 0)
    assert (done.payload, done.key, done.headers) == (Order(7), "ada", {"tenant": "t1"})
    assert (done.error, done.delay_s) == ("", None)


def test_retries_wait_in_virtual_time_only(backend: Backend) -> None:
    seen: list[tuple[int, float]] = []

    @subscribe("orders", action="fail")
    async def fail(order: Order, ctx: Context) -> None:
        seen.append((ctx.attempt, h.now.timestamp()))
        raise ValueError("never works")

    h = Harness([fail], backend=backend)
    began = h.now.timestamp()
    h.emit("orders", Order(1))
    h.run_until_idle()
    assert [attempt for attempt, _ in seen] == [0, 1, 2, 3, 4]
    assert [at - began for _, at in seen] == pytest.approx([0, 1, 3, 7, 15], abs=0.05)
    assert [one.delay_s for one in h.retried] == [1, 2, 4, 8]
    (dead,) = h.dead_letters
    assert (dead.attempt, dead.error, dead.message, dead.reason) == (4, "ValueError", "never works", "failed")
    assert h.idle


def test_explicit_outcomes_are_told_apart(backend: Backend) -> None:
    @subscribe("orders", action="decide")
    async def decide(order: Order, ctx: Context) -> Any:
        match order.id:
            case 1:
                raise DeadLetter("hopeless")
            case 2:
                return Drop("not ours")
            case 3 if ctx.attempt == 0:
                return Retry(after=3600, reason="later")
        return None

    with Harness([decide], backend=backend) as h:
        for number in (1, 2, 3):
            h.emit("orders", Order(number))
        before = h.now
        h.run_until_idle()
        assert (h.now - before).total_seconds() == pytest.approx(3600, abs=1)
    assert [(one.payload.id, one.message) for one in h.dead_letters] == [(1, "hopeless")]
    assert [(one.payload.id, one.reason) for one in h.acked] == [(2, "dropped"), (3, "")]
    assert [(one.payload.id, one.delay_s, one.message) for one in h.retried] == [(3, 3600, "later")]


def test_emitted_children_are_listed_and_handled(backend: Backend) -> None:
    @subscribe("orders", action="check")
    async def check(order: Order, ctx: Context) -> None:
        await ctx.emit("checked", {"id": order.id}, key=order.customer, headers={"h": "v"})

    @subscribe("checked", action="charge")
    async def charge(checked: dict[str, int], ctx: Context) -> None:
        pass

    h = Harness([check, charge], backend=backend)
    root = h.emit("orders", Order(5))
    h.run_until_idle()
    (child,) = h.emitted
    assert (child.channel, child.payload, child.key, child.headers) == ("checked", {"id": 5}, "ada", {"h": "v"})
    assert (child.root_id, child.parent_id) == (root, root)
    assert [(one.action, one.event_id) for one in h.acked] == [("check", root), ("charge", child.event_id)]


def test_an_undecodable_payload_is_dead_lettered_with_its_bytes(backend: Backend) -> None:
    @subscribe("orders", action="check")
    async def check(order: Order) -> None:
        pass

    h = Harness([check], backend=backend)
    h.emit("orders", b"{not json")
    h.emit_raw(Message(channel="orders", payload=b"\xff"))
    h.run_until_idle()
    assert [(one.payload, one.reason) for one in h.dead_letters] == [
        (b"{not json", "undecodable"),
        (b"\xff", "undecodable"),
    ]
    assert h.retried == []


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-8-sig", "byte order mark"), ("utf-16", "UTF-16"), ("utf-32", "UTF-16")]
)
@pytest.mark.parametrize("batch", [False, True])
def test_a_payload_with_a_mark_that_no_editor_shows_is_told_as_such(
    encoding: str,
    told: str,
    batch: bool,
    backend: Backend,
) -> None:
    @subscribe("orders", action="one")
    async def one(order: Order) -> None: ...

    @subscribe("orders", action="many", batch=2)
    async def many(orders: list[Order]) -> None: ...

    h = Harness([many if batch else one], backend=backend)
    h.emit("orders", '{"id": 1}'.encode(encoding))
    h.run_until_idle()
    [letter] = h.dead_letters
    assert told in letter.message
    assert letter.reason == "undecodable"


def test_a_plain_function_runs_in_its_thread_and_is_not_jumped_over(backend: Backend) -> None:
    @subscribe("orders", action="slow", timeout_s=30)
    def slow(order: Order, ctx: Context) -> None:
        time.sleep(0.02)
        ctx.emit_sync("done", order.id)

    h = Harness([slow], backend=backend)
    for number in range(3):
        h.emit("orders", Order(number))
    h.run_until_idle()
    assert sorted(one.payload.id for one in h.acked) == [0, 1, 2]
    assert sorted(one.payload for one in h.emitted) == [0, 1, 2]
    assert h.retried == []


def test_a_timeout_passes_in_virtual_time(backend: Backend) -> None:
    @subscribe("orders", action="hang", timeout_s=60)
    async def hang(order: Order) -> None:
        await anyio.sleep_forever()

    h = Harness([hang], settings={"hang": {"retry": {"maximum_retries": 0}}}, backend=backend)
    h.emit("orders", Order(1))
    h.run_until_idle()
    assert [(one.error, one.reason) for one in h.dead_letters] == [("HandlerTimeout", "timeout")]


def test_batch_handlers_get_batches(backend: Backend) -> None:
    sizes: list[int] = []

    @subscribe("orders", action="archive", batch=10, batch_wait_s=5)
    async def archive(orders: list[Order], ctx: BatchContext) -> list[Exception | None]:
        sizes.append(len(orders))
        return [DeadLetter("odd") if order.id % 2 else None for order in orders]

    h = Harness([archive], backend=backend)
    for number in range(6):
        h.emit("orders", Order(number))
    h.run_until_idle()
    assert sum(sizes) == 6
    assert [one.payload.id for one in h.dead_letters] == [1, 3, 5]


def test_the_lifespan_is_entered_and_left_in_every_run(backend: Backend) -> None:
    log: list[str] = []

    @lifespan
    async def books() -> AsyncIterator[list[str]]:
        log.append("open")
        yield log
        log.append("close")

    @subscribe("orders", action="note")
    async def note(order: Order, ctx: Context[list[str]]) -> None:
        ctx.state.append(f"order {order.id}")

    h = Harness([note, books], backend=backend)
    for number in (1, 2):
        h.emit("orders", Order(number))
        h.run_until_idle()
    assert log == ["open", "order 1", "close", "open", "order 2", "close"]


def test_state_replaces_the_lifespan() -> None:
    @lifespan
    async def books() -> AsyncIterator[None]:
        raise AssertionError("not in a test")
        yield

    @subscribe("orders", action="note")
    async def note(order: Order, ctx: Context[list[int]]) -> None:
        ctx.state.append(order.id)

    state: list[int] = []
    h = Harness([note, books], state=state)
    h.emit("orders", Order(3))
    h.run_until_idle()
    assert state == [3]


def test_an_error_of_the_lifespan_reaches_the_test(backend: Backend) -> None:
    @lifespan
    async def books() -> AsyncIterator[None]:
        raise OSError("no books")
        yield

    @subscribe("orders", action="note")
    async def note(order: Order) -> None:
        pass

    h = Harness([note, books], backend=backend)
    h.emit("orders", Order(1))
    with pytest.raises(OSError, match="no books"):
        h.run_until_idle()


def test_settings_are_those_of_worker_toml() -> None:
    @subscribe("orders", action="fail")
    async def fail(order: Order) -> None:
        raise ValueError

    h = Harness([fail], settings={"fail": {"retry": {"initial_interval_s": 5, "maximum_retries": 1}}})
    h.emit("orders", Order(1))
    h.run_until_idle()
    assert [one.delay_s for one in h.retried] == [5]
    h = Harness([fail], settings={"fail": {"retry": {"maximum_attempts": 0}}})
    h.emit("orders", Order(1))
    h.run_until_idle()
    assert (len(h.retried), len(h.dead_letters)) == (0, 1), "an old name is understood as in worker.toml"
    with pytest.raises(ConfigError, match="maximum_attempts: is the old name of maximum_retries"):
        Harness([fail], settings={"fail": {"retry": {"maximum_attempts": 0, "maximum_retries": 0}}})
    with pytest.raises(ConfigError, match="concurency"):
        Harness([fail], settings={"fail": {"concurency": 1}})
    with pytest.raises(ConfigError, match="fial"):
        Harness([fail], settings={"fial": {}})


def test_events_that_emit_each_other_for_ever_are_given_up(backend: Backend) -> None:
    @subscribe("ping", action="ping")
    async def ping(count: int, ctx: Context) -> None:
        await ctx.emit("ping", count + 1)

    h = Harness([ping], backend=backend)
    h.emit("ping", 0)
    with pytest.raises(HarnessError, match="for ever"):
        h.run_until_idle(limit_s=0.1)


def test_a_handler_that_waits_for_ever_is_given_up(backend: Backend) -> None:
    @subscribe("orders", action="hang", timeout_s=0)
    async def hang(order: Order) -> None:
        await anyio.sleep_forever()

    h = Harness([hang], backend=backend)
    h.emit("orders", Order(1))
    with pytest.raises(HarnessError, match="for ever"):
        h.run_until_idle(limit_s=0.1)


def test_running_without_anything_to_do_returns_at_once(backend: Backend) -> None:
    @subscribe("orders", action="check")
    async def check(order: Order) -> None:
        pass

    h = Harness([check], backend=backend)
    h.run_until_idle()
    h.emit("elsewhere", 1)
    h.run_until_idle()
    assert h.acked == []


@pytest.mark.parametrize("outer", ["asyncio", "trio"])
def test_a_harness_works_in_an_async_test(backend: Backend, outer: Backend) -> None:
    @subscribe("orders", action="check")
    async def check(order: Order, ctx: Context) -> None:
        await anyio.sleep(60)
        await ctx.emit("checked", order)
        if not ctx.attempt:
            raise ValueError("once")

    @subscribe("checked", action="book")
    def book(order: Order) -> None: ...

    async def test() -> None:
        with Harness([check, book], settings={"check": {"timeout_s": 90}}, backend=backend) as harness:
            harness.emit("orders", {"id": 1})
            harness.run_until_idle()
            assert sorted(one.action for one in harness.acked) == ["book", "book", "check"]
            assert len(harness.retried) == 1
        await anyio.sleep(0.001)

    anyio.run(test, backend=outer)


def test_what_a_run_in_an_async_test_raises_reaches_the_test() -> None:
    @subscribe("orders", action="check")
    async def check(_order: Order) -> None:
        await anyio.Event().wait()

    async def test() -> None:
        with Harness([check], settings={"check": {"timeout_s": 0}}) as harness:
            harness.emit("orders", {"id": 1})
            with pytest.raises(HarnessError, match="does a handler wait for ever"):
                harness.run_until_idle(limit_s=0.2)

    anyio.run(test)


def test_a_run_takes_milliseconds() -> None:
    @subscribe("orders", action="check")
    async def check(order: Order) -> None:
        pass

    def once() -> float:
        started = time.perf_counter()
        with Harness([check]) as h:
            h.emit("orders", Order(1))
            h.run_until_idle()
        return time.perf_counter() - started

    assert any(once() < 0.05 for _ in range(100))  # a busy machine interrupts most of them


def test_a_worker_toml_runs_with_its_handlers_and_settings(tmp_path: Path, backend: Backend) -> None:
    name = f"harness_sample_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(
        "from hexa_worker import Context, subscribe\n"
        "@subscribe('work', action='do')\n"
        "async def do(e: dict, ctx: Context) -> None:\n"
        "    if ctx.attempt < 2: raise ValueError('not yet')\n"
    )
    (tmp_path / "worker.toml").write_text(
        f"[worker]\nname = 'sample'\nhandlers = ['{name}']\n"
        "[broker]\ndriver = 'embedded'\npath = 'var/hexa.db'\n"
        "[subscriptions.do.retry]\ninitial_interval_s = 60\n"
    )
    with Harness.from_config(tmp_path / "worker.toml", backend=backend) as h:
        h.emit("work", {"n": 1})
        h.run_until_idle()
        assert [one.delay_s for one in h.retried] == [60, 120]
        assert [one.attempt for one in h.acked] == [2]
    assert not (tmp_path / "var").exists()


_numbers = itertools.count()


def test_an_event_for_later_comes_in_virtual_time_with_its_lineage(backend: Backend) -> None:
    seen: list[tuple[str, float, int]] = []

    @subscribe("orders", action="check")
    async def check(order: Order, ctx: Context) -> None:
        seen.append((ctx.channel, h.now.timestamp(), ctx.attempt))
        await ctx.emit("reminders", order, key=order.customer, after=timedelta(days=1))

    @subscribe("reminders", action="remind")
    async def remind(order: Order, ctx: Context) -> None:
        seen.append((ctx.channel, h.now.timestamp(), ctx.attempt))

    h = Harness([check, remind], backend=backend)
    start = h.now
    event_id = h.emit("orders", {"id": 7}, at=start + timedelta(hours=2))
    h.run_until_idle()
    (first, second) = h.acked
    assert (first.event_id, second.root_id, second.parent_id) == (event_id, event_id, event_id)
    assert [(channel, attempt) for channel, _, attempt in seen] == [("orders", 0), ("reminders", 0)]
    waited = [at - start.timestamp() for _, at, _ in seen]
    assert waited == pytest.approx([7_200, 7_200 + 86_400], abs=0.1)
    assert waited[0] >= 7_200
    assert waited[1] - waited[0] >= 86_400


def test_a_run_ends_when_only_what_is_held_is_left_and_the_next_one_tries_it_again(backend: Backend) -> None:
    broken = [True]

    @subscribe("orders", action="check", on_exhausted="hold", retry=Retries(maximum=1))
    def check(order: Order) -> None:
        if broken and order.id == 1:
            raise ConnectionError("not yet")

    h = Harness([check], backend=backend)
    h.emit("orders", {"id": 1})
    h.run_until_idle()
    assert (h.on_hold, len(h.retried), h.dead_letters, h.idle) == ({"check": 1}, 1, [], False)
    broken.clear()
    h.run_until_idle()
    assert (h.on_hold, len(h.acked), h.idle) == ({}, 1, True)


def test_types_of_one_channel_run_as_a_worker_would_run_them(backend: Backend) -> None:
    seen: list[tuple[str, int]] = []

    @subscribe("orders", type="made", action="check")
    def check(order: Order) -> None:
        seen.append(("made", order.id))

    @subscribe("orders", type="paid", action="book")
    def book(order: Order) -> None:
        seen.append(("paid", order.id))

    h = Harness([check, book], channels={"orders": {"type": "header:event_type"}}, backend=backend)
    for number, type_ in enumerate(("made", "paid", "sent")):
        h.emit("orders", {"id": number}, headers={"event_type": type_})
    h.run_until_idle()
    assert sorted(seen) == [("made", 0), ("paid", 1)]
    assert [one.action for one in h.dead_letters] == ["harness.orders.unknown"]
