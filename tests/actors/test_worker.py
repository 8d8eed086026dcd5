"""What a worker does with whatever its handlers do."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
import sniffio

from hexa_worker import Ack, BatchContext, BatchResult, Context, DeadLetter, Drop, Retry
from hexa_worker.core import lineage, settlement
from hexa_worker.core.classification import ErrorAnswer, Rules
from hexa_worker.core.lineage import Origin
from hexa_worker.core.message import Message, header
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import DeadLettered
from hexa_worker.dead_letters.dead_letter import read_letter
from hexa_worker.drivers.memory import MemoryStore
from hexa_worker.errors import DecodeError, RecordTooLarge
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio


async def test_a_handler_that_returns_acknowledges_every_event_once() -> None:
    stage, seen = WorkerFixture(), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        seen.append(number)

    for number in range(500):
        stage.emit(number)
    assert await stage.run(plan_of(handle)) == 0
    assert sorted(seen) == list(range(500))
    assert stage.kinds() == ["Acked"] * 500


async def test_a_failing_handler_is_retried_and_then_dead_lettered_with_its_story() -> None:
    stage, attempts = WorkerFixture(), list[tuple[int, str, str]]()

    async def handle(_payload: Any, ctx: Context) -> None:
        attempts.append((ctx.attempt, ctx.read_from, ctx.event_id))
        raise ValueError("no luck")

    stage.emit({"a": 1})
    assert await stage.run(plan_of(handle)) == 0
    assert [(attempt, channel) for attempt, channel, _ in attempts] == [
        (0, "events"),
        (1, "act.retry.1"),
        (2, "act.retry.2"),
    ]
    assert len({event_id for _, _, event_id in attempts}) == 1
    [letter] = await stage.dead()
    assert letter.payload == b'{"a":1}'
    assert header(letter.headers, settlement.ERROR) == b"ValueError"
    assert header(letter.headers, settlement.ERROR_MESSAGE) == b"no luck"
    assert b"raise ValueError" in (header(letter.headers, settlement.TRACEBACK) or b"")


async def test_a_retry_tells_where_and_when_its_event_was_emitted() -> None:
    stage, told = WorkerFixture(), list[tuple[Any, ...]]()
    claims = ((lineage.ORIGIN_CHANNEL, b"forged"), (lineage.ORIGIN_AT, b"1"), (lineage.ORIGIN_ID, b"forged-1"))

    async def handle(_payload: Any, ctx: Context) -> None:
        told.append((ctx.channel, ctx.origin, ctx.emitted_at, ctx.read_from, ctx.message_id))
        raise ValueError("no luck")

    stage.store.append(Message(channel="events", payload=b"1", timestamp_ms=1_700_000_000_123, headers=claims))
    await stage.run(plan_of(handle))
    at = datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert {one[:3] for one in told} == {("events", Origin("events", "events-0", 1_700_000_000_123), at)}
    assert [one[3] for one in told] == ["events", "act.retry.1", "act.retry.2"]
    assert [one[4].rpartition("-")[0] for one in told] == ["events", "act.retry.1", "act.retry.2"]


@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize(
    ("verdict", "kinds"),
    [
        (Ack(), ["Acked"]),
        (DeadLetter, ["DeadLettered"]),
        (Retry, ["RetryAt", "RetryAt", "DeadLettered"]),
        (Drop("stale"), ["Acked"]),
        (DeadLetter("hopeless"), ["DeadLettered"]),
        (Retry(after=0), ["RetryAt", "RetryAt", "DeadLettered"]),
    ],
)
async def test_an_explicit_outcome_means_the_same_returned_or_raised(how: str, verdict: Any, kinds: list[str]) -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, _ctx: Context) -> Any:
        if how == "raise":
            raise verdict
        return verdict

    stage.emit(1)
    await stage.run(plan_of(handle))
    assert stage.kinds() == kinds


RULES: Rules = {KeyError: ErrorAnswer.DROP, ValueError: ErrorAnswer.DEAD_LETTER}


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_the_class_of_what_a_handler_raises_decides_what_is_done(style: str) -> None:
    stage, raised = WorkerFixture(), {1: KeyError("k"), 2: ValueError("v"), 3: OSError("o")}

    async def handle(number: int, _ctx: Context) -> None:
        raise raised[number]

    def handle_in_thread(number: int, _ctx: Context) -> None:
        raise raised[number]

    for number in raised:
        stage.emit(number)
    await stage.run(plan_of(handle if style == "async" else handle_in_thread, style=style, rules=RULES))
    assert sorted(stage.kinds()) == ["Acked", "DeadLettered", "DeadLettered", "RetryAt", "RetryAt"]
    letters = {letter.payload: header(letter.headers, settlement.TRACEBACK) for letter in await stage.dead()}
    assert letters.keys() == {b"2", b"3"}
    assert b"raise raised" in (letters[b"2"] or b"")


async def test_the_class_of_an_error_decides_item_by_item_in_a_batch() -> None:
    stage, raised = WorkerFixture(), (None, KeyError("k"), ValueError("v"))

    async def handle(numbers: list[int], _ctx: BatchContext) -> BatchResult:
        return [raised[number] for number in numbers]

    for number in range(len(raised)):
        stage.emit(number)
    await stage.run(plan_of(handle, batch=3, rules=RULES))
    assert sorted(stage.kinds()) == ["Acked", "Acked", "DeadLettered"]
    assert [letter.payload for letter in await stage.dead()] == [b"2"]


async def test_bytes_that_do_not_decode_are_dead_lettered_at_once_and_kept() -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, _ctx: Context) -> None: ...

    stage.emit_raw(b"\xff{not json")
    stage.emit(1)
    await stage.run(plan_of(handle))
    [letter] = await stage.dead()
    assert letter.payload == b"\xff{not json"
    assert header(letter.headers, settlement.REASON) == b"undecodable"
    assert sorted(stage.kinds()) == ["Acked", "DeadLettered"]


@pytest.mark.parametrize("error", [BaseException, KeyboardInterrupt, SystemExit, GeneratorExit, Exception])
async def test_whatever_a_handler_raises_fails_only_its_delivery(error: type[BaseException]) -> None:
    stage, seen = WorkerFixture(), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        if number == 3:
            raise error("boom")
        seen.append(number)

    for number in range(6):
        stage.emit(number)
    assert await stage.run(plan_of(handle)) == 0
    assert sorted(seen) == [0, 1, 2, 4, 5]
    assert len(await stage.dead()) == 1


async def test_an_exception_group_fails_only_its_delivery() -> None:
    stage = WorkerFixture()

    async def handle(number: int, _ctx: Context) -> None:
        if number == 0:
            raise BaseExceptionGroup("many", [KeyboardInterrupt(), ValueError()])

    stage.emit(0)
    stage.emit(1)
    assert await stage.run(plan_of(handle)) == 0
    assert stage.kinds().count("Acked") == 1
    assert len(await stage.dead()) == 1


async def test_a_foreign_cancellation_is_a_failure_not_a_stop() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("only asyncio lets others cancel what one awaits")
    stage = WorkerFixture()

    async def handle(number: int, _ctx: Context) -> None:
        if number == 0:
            task = asyncio.ensure_future(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task

    stage.emit(0)
    stage.emit(1)
    assert await stage.run(plan_of(handle)) == 0
    [letter] = await stage.dead()
    assert header(letter.headers, settlement.ERROR) == b"HandlerCancelled"
    assert stage.kinds().count("Acked") == 1


async def test_plain_functions_run_in_threads_of_their_own_pool() -> None:
    stage, threads = WorkerFixture(), set[str]()
    barrier = threading.Barrier(3, timeout=10)

    def handle(_payload: Any, _ctx: Context) -> None:
        barrier.wait()  # breaks unless three run at once
        threads.add(threading.current_thread().name)

    for number in range(3):
        stage.emit(number)
    await stage.run(plan_of(handle, style="sync", threads=3))
    assert stage.kinds() == ["Acked"] * 3
    assert threading.current_thread().name not in threads


async def test_a_plain_function_can_emit_from_its_thread() -> None:
    stage = WorkerFixture()

    def handle(_payload: Any, ctx: Context) -> None:
        ctx.emit_sync("children", {"n": 1})

    stage.emit(1)
    await stage.run(plan_of(handle, style="sync"))
    assert stage.store.logs["children"].end == 1


async def test_emitting_from_a_thread_is_refused_on_the_loop_with_what_to_write() -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, ctx: Context) -> None:
        ctx.emit_sync("children", {"n": 1})

    stage.emit(1)
    await stage.run(plan_of(handle))
    (letter,) = await stage.dead()
    assert b"write await ctx.emit" in (header(letter.headers, settlement.ERROR_MESSAGE) or b"")


async def test_a_coroutine_that_nobody_awaited_is_a_failure_for_the_handler_never_ran() -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, _ctx: Context) -> None:
        raise AssertionError("it runs")

    async def forgetful(payload: Any, ctx: Any, call_next: Any) -> Any:
        return call_next(payload, ctx)

    stage.emit(1)
    await stage.run(plan_of(handle, middlewares=(forgetful,)))
    (letter,) = await stage.dead()
    assert b"never awaited" in (header(letter.headers, settlement.ERROR_MESSAGE) or b"")


async def test_a_task_that_nobody_awaited_is_a_failure_for_the_work_is_not_done() -> None:
    stage = WorkerFixture()

    class Task:
        def __await__(self) -> Any:
            raise AssertionError("it is awaited")

    async def handle(_payload: Any, _ctx: Context) -> Task:
        return Task()

    stage.emit(1)
    await stage.run(plan_of(handle))
    (letter,) = await stage.dead()
    assert b"a Task was returned and never awaited" in (header(letter.headers, settlement.ERROR_MESSAGE) or b"")


async def test_children_share_the_root_and_name_their_parent() -> None:
    stage, seen = WorkerFixture(), dict[str, tuple[str, str, str | None]]()

    async def parent(_payload: Any, ctx: Context) -> None:
        seen["parent"] = (ctx.event_id, ctx.root_id, ctx.parent_id)
        await ctx.emit("children", {"n": 1}, key="k", headers={"own": "value"})

    async def child(_payload: Any, ctx: Context) -> None:
        seen["child"] = (ctx.event_id, ctx.root_id, ctx.parent_id)
        seen["more"] = (ctx.key or "", ctx.headers["own"], None)

    stage.emit(1)
    await stage.run(plan_of(parent, "parent"), plan_of(child, "child", channels=("children",)))
    assert seen["child"][1:] == (seen["parent"][0], seen["parent"][0])
    assert seen["child"][0] != seen["parent"][0]
    assert seen["more"] == ("k", "value", None)


async def test_one_event_fans_out_to_every_action_and_each_ends_by_itself() -> None:
    stage = WorkerFixture()

    async def good(_payload: Any, _ctx: Context) -> None: ...

    async def bad(_payload: Any, _ctx: Context) -> None:
        raise ValueError

    stage.emit(1)
    await stage.run(plan_of(good, "good"), plan_of(bad, "bad"))
    assert len(await stage.dead("bad")) == 1
    assert not await stage.dead("good")


async def test_middlewares_run_outermost_first_and_may_change_the_outcome() -> None:
    stage, order = WorkerFixture(), list[str]()

    async def outer(payload: Any, ctx: Any, call_next: Any) -> Any:
        order.append("outer")
        try:
            return await call_next(payload + 1, ctx)
        except ValueError:
            return Drop("not worth it")

    async def inner(payload: Any, ctx: Any, call_next: Any) -> Any:
        order.append("inner")
        return await call_next(payload, ctx)

    async def handle(payload: int, _ctx: Context) -> None:
        order.append(f"handler {payload}")
        raise ValueError

    stage.emit(1)
    await stage.run(plan_of(handle, middlewares=(inner,)), middlewares=(outer,))
    assert order == ["outer", "inner", "handler 2"]
    assert stage.kinds() == ["Acked"]


async def test_what_the_lifespan_yields_is_the_state_of_every_handler() -> None:
    stage, events = WorkerFixture(), list[str]()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[list[str]]:
        events.append("up")
        yield events
        events.append("down")

    async def handle(_payload: Any, ctx: Context[list[str]]) -> None:
        ctx.state.append("handled")

    stage.emit(1)
    await stage.run(plan_of(handle), lifespan=lifespan)
    assert events == ["up", "handled", "down"]


async def test_order_by_key_keeps_each_keys_order_across_lanes() -> None:
    stage, seen = WorkerFixture(), dict[str, list[int]]()

    async def handle(number: int, ctx: Context) -> None:
        await anyio.sleep(0.001 * (number % 3))
        seen.setdefault(str(ctx.key), []).append(number)

    for number in range(120):
        stage.emit(number, key=b"k%d" % (number % 7))
    await stage.run(plan_of(handle, order_by=OrderBy.KEY, concurrency=8))
    assert len(seen) == 7
    for numbers in seen.values():
        assert numbers == sorted(numbers)


async def test_order_by_channel_runs_one_at_a_time_in_order() -> None:
    stage, seen, running = WorkerFixture(), list[int](), [0, 0]

    async def handle(number: int, _ctx: Context) -> None:
        running[0] += 1
        running[1] = max(running)
        await anyio.lowlevel.checkpoint()
        seen.append(number)
        running[0] -= 1

    for number in range(40):
        stage.emit(number)
    await stage.run(plan_of(handle, order_by=OrderBy.CHANNEL, concurrency=8))
    assert seen == list(range(40))
    assert running[1] == 1


async def test_a_handler_that_never_suspends_does_not_starve_its_siblings() -> None:
    stage, progress = WorkerFixture(), list[str]()

    async def greedy(_payload: Any, _ctx: Context) -> None:
        progress.append("greedy")

    async def modest(_payload: Any, _ctx: Context) -> None:
        progress.append("modest")

    for number in range(30_000):
        stage.emit(number)
    stage.emit(1, channel="other")
    await stage.run(plan_of(greedy, "greedy"), plan_of(modest, "modest", channels=("other",)))
    assert progress.index("modest") < 29_000


async def test_the_mailbox_bounds_what_a_process_holds() -> None:
    stage, most = WorkerFixture(), [0]
    release = anyio.Event()
    groups = stage.store.groups

    async def handle(_payload: Any, _ctx: Context) -> None:
        most[0] = max(most[0], groups["act"].leased)
        await release.wait()

    for number in range(300):
        stage.emit(number)
    async with stage.running(plan_of(handle, mailbox=20, concurrency=4)):
        while groups.get("act") is None or groups["act"].leased < 8:
            await anyio.sleep(0.001)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert groups["act"].leased <= 20
        release.set()
    assert most[0] <= 20


async def test_a_mailbox_is_bounded_by_bytes_too() -> None:
    stage, most = WorkerFixture(), [0]

    async def handle(_payload: Any, _ctx: Context) -> None:
        most[0] = max(most[0], stage.store.groups["act"].leased)
        await anyio.lowlevel.checkpoint()

    for _ in range(60):
        stage.emit("x" * 1000)
    await stage.run(plan_of(handle, mailbox_bytes=5_000, concurrency=2))
    assert stage.kinds() == ["Acked"] * 60
    assert most[0] <= 6


async def test_a_dead_letter_is_only_written_once_its_original_is_let_go() -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, _ctx: Context) -> None:
        raise DeadLetter("no")

    for number in range(50):
        stage.emit(number)
    await stage.run(plan_of(handle))
    assert all(isinstance(one, DeadLettered) for one in stage.settled)
    assert len(await stage.dead()) == 50
    assert stage.store.groups["act"].leased == 0


async def test_the_grace_of_a_stop_begins_at_once_also_while_the_mailbox_is_full() -> None:
    stage, began = WorkerFixture(grace_s=0.1), anyio.Event()

    async def handle(_payload: Any, _ctx: Context) -> None:
        began.set()
        await anyio.sleep_forever()

    for number in range(3):
        stage.emit(number)
    async with stage.running(plan_of(handle, concurrency=1, mailbox=1, timeout_s=None)):
        await began.wait()
    assert stage.kinds() == ["Released"]


async def test_what_is_refused_for_good_or_undecodable_runs_once() -> None:
    class NoChildren(MemoryStore):
        def append(self, message: Message) -> str:
            if message.channel == "children":
                raise RecordTooLarge("over the limit")
            return super().append(message)

    stage = WorkerFixture(store=NoChildren())
    runs: list[str] = []

    async def emit(payload: str, ctx: Context) -> None:
        runs.append(payload)
        await ctx.emit("children", {})

    async def undecodable(_payload: Any, _ctx: Any, _call: Any) -> None:
        runs.append("middleware")
        raise DecodeError("a field is missing")

    stage.emit("first")
    await stage.run(plan_of(emit))
    await stage.run(plan_of(emit, action="other"), middlewares=(undecodable,))
    assert runs == ["first", "middleware"]
    (letter,) = [read_letter(one, "act") for one in await stage.dead()]
    assert (letter.error_class, letter.attempts) == ("RecordTooLarge", 1)
    assert "in emit" in letter.traceback
    (letter,) = [read_letter(one, "other") for one in await stage.dead("other")]
    assert (letter.error, letter.attempts) == ("DecodeError: a field is missing", 1)


async def test_the_cause_of_a_dead_letter_is_told() -> None:
    stage = WorkerFixture()

    async def give_up(_payload: str, _ctx: Context) -> None:
        try:
            dict[str, int]()["sku"]
        except KeyError as error:
            raise DeadLetter("no such item") from error

    stage.emit("first")
    await stage.run(plan_of(give_up))
    (letter,) = [read_letter(one, "act") for one in await stage.dead()]
    assert (letter.error, letter.reason) == ("KeyError: no such item: 'sku'", "asked")
    assert "in give_up" in letter.traceback


async def test_a_result_that_means_nothing_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = WorkerFixture()

    async def total(_payload: Any, _ctx: Context) -> float:
        return 1.5

    async def many(payloads: list[Any], _ctx: Any) -> list[bool]:
        return [True for _ in payloads]

    for number in range(5):
        stage.emit(number)
    await stage.run(plan_of(total), plan_of(many, "many", batch=2))
    assert set(stage.kinds()) == {"Acked"}
    told = sorted(one.message.partition(",")[0] for one in caplog.records if "nobody gets" in one.message)
    assert told == ["the handler returned a bool", "the handler returned a float"]
