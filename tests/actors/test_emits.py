"""What a handler emits is confirmed before its delivery is acknowledged, or the delivery has failed."""

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from hexa_worker import Ack, AnyContext, BatchContext, BatchResult, Context, DeadLetter, Drop, Event, Next, User
from hexa_worker.core import settlement
from hexa_worker.core.lineage import CORRELATION_ID
from hexa_worker.core.message import Delivery, Message, header
from hexa_worker.core.propagated import LOCALE
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.drivers.memory import MemoryDriver
from hexa_worker.subscriptions.plan import Plan
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")]
ONCE = RetryPolicy(maximum_retries=0)


async def run_once(plan: Plan) -> tuple[WorkerFixture, list[Delivery]]:
    """The stage after one event, 7, and its dead letters."""
    stage = WorkerFixture()
    stage.emit(7)
    await stage.run(plan)
    return stage, await stage.dead()


def assert_says_what_was_forgotten(letter: Delivery) -> None:
    assert header(letter.headers, settlement.ERROR) == b"EmitUnconfirmed"
    text = (header(letter.headers, settlement.ERROR_MESSAGE) or b"").decode()
    assert text.startswith('act returned before its ctx.emit to "children" was confirmed, event events-0')
    assert "await ctx.emit" in text


def forgets(how: Callable[[], Any]) -> Callable[..., Any]:
    async def handle(_payload: Any, ctx: Context) -> Any:
        ctx.emit("children", 1)  # type: ignore[unused-coroutine]  # what is tried
        return how()

    return handle


def raising(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    "how", [lambda: None, Ack, lambda: Drop("stale"), lambda: raising(Ack()), lambda: raising(Drop()), lambda: 3]
)
async def test_a_forgotten_await_on_an_emit_fails_the_delivery(how: Callable[[], Any]) -> None:
    stage, letters = await run_once(plan_of(forgets(how), retry=ONCE))
    assert stage.kinds() == ["DeadLettered"]
    assert_says_what_was_forgotten(letters[0])


async def test_an_emit_in_a_plain_function_fails_the_delivery() -> None:
    def handle(_payload: Any, ctx: Context) -> None:
        ctx.emit("children", 1)  # type: ignore[unused-coroutine]  # what is tried

    _, letters = await run_once(plan_of(handle, style="sync", retry=ONCE))
    assert_says_what_was_forgotten(letters[0])


async def test_an_emit_that_is_returned_instead_of_awaited_fails_the_delivery() -> None:
    async def handle(_payload: Any, ctx: Context) -> Any:
        return ctx.emit("children", 1)

    _, letters = await run_once(plan_of(handle, retry=ONCE))
    assert_says_what_was_forgotten(letters[0])


async def test_an_emit_that_is_under_way_when_its_handler_returns_fails_the_delivery() -> None:
    async with anyio.create_task_group() as group:

        async def emit(ctx: Context) -> None:
            await ctx.emit("children", 1)

        async def handle(_payload: Any, ctx: Context) -> None:
            group.start_soon(ctx.emit, "children", 1)
            await anyio.sleep(0.01)

        stage = WorkerFixture()
        stage.emit(7)
        slow = SlowDriver(stage.store)
        await stage.run(plan_of(handle, retry=ONCE, timeout_s=5), driver=slow)
        assert_says_what_was_forgotten((await stage.dead())[0])


class SlowDriver(MemoryDriver):
    """Confirms late."""

    async def publish(self, messages: Any) -> Any:
        await anyio.sleep(0.1)
        return await super().publish(messages)


async def test_a_task_that_emits_and_was_not_awaited_fails_the_delivery(anyio_backend: Any) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio has no tasks without a parent")
    tasks: list[Any] = []

    async def handle(_payload: Any, ctx: Context) -> None:
        tasks.append(asyncio.create_task(ctx.emit("children", 1)))

    _, letters = await run_once(plan_of(handle, retry=ONCE))
    assert_says_what_was_forgotten(letters[0])
    await tasks[0]


async def test_emits_that_are_awaited_in_any_way_acknowledge() -> None:
    async def handle(_payload: Any, ctx: Context) -> None:
        later = ctx.emit("children", 1)
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(ctx.emit, "children", number)
        await later

    stage, _ = await run_once(plan_of(handle))
    assert stage.kinds() == ["Acked"]
    assert len(await MemoryDriver(stage.store).browse("children", -1, 100)) == 4


async def test_an_emit_whose_failure_the_handler_has_seen_is_its_own_business() -> None:
    async def handle(_payload: Any, ctx: Context) -> None:
        with pytest.raises(Exception, match="cannot be encoded"):
            await ctx.emit("children", object())
        with anyio.move_on_after(-1):
            await anyio.sleep(0)  # noqa: ASYNC115 - any checkpoint
            await ctx.emit("children", 1)

    stage, _ = await run_once(plan_of(handle))
    assert stage.kinds() == ["Acked"]


async def test_in_a_batch_only_the_item_whose_emit_was_forgotten_fails() -> None:
    async def handle(numbers: list[int], ctx: BatchContext) -> BatchResult:
        for number, item in zip(numbers, ctx.items, strict=True):
            if number == 1:
                item.emit("children", 1)  # type: ignore[unused-coroutine]  # what is tried
            else:
                await item.emit("children", number)
        return [None] * len(numbers)

    stage = WorkerFixture()
    for number in range(3):
        stage.emit(number)
    await stage.run(plan_of(handle, batch=3, batch_wait_s=1.0, concurrency=1, retry=ONCE))
    assert [one.payload for one in await stage.dead()] == [b"1"]
    assert sorted(stage.kinds()) == ["Acked", "Acked", "DeadLettered"]


@pytest.mark.parametrize("raises", [False, True])
async def test_a_batch_whose_own_emit_was_forgotten_fails_as_a_whole(raises: bool) -> None:
    async def handle(_numbers: list[int], ctx: BatchContext) -> None:
        ctx.emit("children", 1)  # type: ignore[unused-coroutine]  # what is tried
        if raises:
            raise Drop("stale")

    stage = WorkerFixture()
    for number in range(3):
        stage.emit(number)
    await stage.run(plan_of(handle, batch=3, batch_wait_s=1.0, concurrency=1, retry=ONCE))
    assert stage.kinds() == ["DeadLettered"] * 3


async def test_one_middleware_serves_handlers_of_one_event_and_of_batches(caplog: pytest.LogCaptureFixture) -> None:
    ids: list[str] = []

    async def tell(event: Any, ctx: AnyContext, call_next: Next) -> Any:
        ctx.logger.info("begins")
        ids.extend(item.event_id for item in ctx.items)
        await ctx.emit("told", ctx.action)
        return await call_next(event, ctx)

    async def one(_payload: Any, _ctx: Context) -> None: ...
    async def many(_payloads: list[Any], _ctx: BatchContext) -> None: ...

    stage = WorkerFixture()
    stage.emit(1)
    stage.emit(2)
    with caplog.at_level(logging.INFO, "hexa_worker.handler"):
        plans = plan_of(one, "one"), plan_of(many, "many", batch=2, batch_wait_s=1.0, concurrency=1)
        await stage.run(*plans, middlewares=(tell,))
    assert stage.kinds() == ["Acked"] * 4
    assert sorted(ids) == ["events-0", "events-0", "events-1", "events-1"]
    fields = [vars(record)["hexa_worker_fields"] for record in caplog.records if record.message == "begins"]
    assert sorted((one["action"], one.get("items")) for one in fields) == [("many", 2), ("one", None), ("one", None)]
    assert len(await MemoryDriver(stage.store).browse("told", -1, 100)) == 3


async def test_a_batch_says_where_the_ids_of_its_items_are() -> None:
    async def many(_payloads: list[Any], ctx: BatchContext) -> None:
        ctx.event_id  # noqa: B018 - what is tried

    _, letters = await run_once(plan_of(many, batch=2, retry=ONCE))
    message = header(letters[0].headers, settlement.ERROR_MESSAGE)
    assert message == b"a batch has no event_id of its own: each of ctx.items has one"


async def test_a_verdict_that_does_not_acknowledge_is_no_less_a_failure_after_a_forgotten_emit() -> None:
    _, letters = await run_once(plan_of(forgets(lambda: DeadLetter("bad")), retry=ONCE))
    assert_says_what_was_forgotten(letters[0])


class SilentDriver(MemoryDriver):
    """Never answers."""

    async def publish(self, messages: Any) -> Any:
        await anyio.sleep_forever()


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_an_emit_waits_no_longer_than_it_was_told_to(style: Any) -> None:
    async def handle(_payload: Any, ctx: Context) -> None:
        await ctx.emit("children", 1, timeout_s=0.01)

    def handle_in_a_thread(_payload: Any, ctx: Context) -> None:
        ctx.emit_sync("children", 1, timeout_s=0.01)

    stage = WorkerFixture()
    stage.emit(7)
    plan = plan_of(handle if style == "async" else handle_in_a_thread, style=style, retry=ONCE, timeout_s=None)
    await stage.run(plan, driver=SilentDriver(stage.store))
    (letter,) = await stage.dead()
    assert header(letter.headers, settlement.ERROR) == b"DriverUnavailable"
    assert header(letter.headers, settlement.ERROR_MESSAGE) == b"not confirmed within 0.01 s; it may have been stored"


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_a_child_says_its_own_correlation_id_user_and_locale(style: Any) -> None:
    own: dict[str, Any] = {"correlation_id": "c-2", "user": User(identifier="u-2"), "locale": "fr"}

    async def handle(_payload: Any, ctx: Context) -> None:
        await ctx.emit("children", 1, timeout_s=20, **own)

    def handle_in_a_thread(_payload: Any, ctx: Context) -> None:
        ctx.emit_sync("children", 1, timeout_s=20, **own)

    seen: list[Context] = []

    async def note(_payload: Any, ctx: Context) -> None:
        seen.append(ctx)

    stage = WorkerFixture()
    message = Message(channel="events", payload=b"7", headers=((CORRELATION_ID, b"c-1"), (LOCALE, b"de")))
    stage.store.append(message)
    await stage.run(
        plan_of(handle if style == "async" else handle_in_a_thread, style=style),
        plan_of(note, action="note", channels=("children",)),
    )
    (child,) = seen
    assert (child.correlation_id, child.user, child.locale) == ("c-2", User(identifier="u-2"), "fr")


def test_a_context_emits_with_what_an_event_has() -> None:
    wanted = set(Event.__struct_fields__) - {"carried"} | {"self", "timeout_s"}
    assert set(inspect.signature(Context.emit).parameters) == wanted
    assert set(inspect.signature(Context.emit_sync).parameters) == wanted
