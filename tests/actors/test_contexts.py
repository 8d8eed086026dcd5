"""What a handler sets in context variables is over when its delivery is."""

import asyncio
import decimal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from hexa_worker import BatchContext, Context, Next
from hexa_worker.errors import DecodeError
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio

tenant: ContextVar[int | None] = ContextVar("tenant", default=None)
EVENTS = 20


class Hostile:
    """A value that must not be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]  # not needed


class Seen:
    """What handlers found in `tenant` before they set it."""

    def __init__(self, pause: Callable[[], Any] | None) -> None:
        self.found: list[object] = []
        self._pause = pause

    async def handle(self, number: int, ctx: Context) -> None:
        self.found.append(tenant.get())
        tenant.set(number)
        if self._pause is not None:
            await self._pause()
        assert tenant.get() == number
        if number % 5 == 0 and not ctx.attempt:
            raise ValueError("no luck")


def emitted(stage: WorkerFixture) -> WorkerFixture:
    for number in range(EVENTS):
        stage.emit(number)
    return stage


@pytest.mark.parametrize("pause", [None, anyio.lowlevel.checkpoint, lambda: anyio.sleep(0.001)])
async def test_no_event_sees_what_another_one_set(pause: Callable[[], Any] | None) -> None:
    seen = Seen(pause)
    await emitted(WorkerFixture()).run(plan_of(seen.handle, concurrency=2))
    assert seen.found == [None] * (EVENTS + EVENTS // 5)


async def test_no_batch_sees_what_another_one_set() -> None:
    found: list[object] = []

    async def handle(numbers: list[int], _ctx: BatchContext) -> None:
        found.append(tenant.get())
        tenant.set(numbers[0])

    await emitted(WorkerFixture()).run(plan_of(handle, batch=3, concurrency=2))
    assert len(found) > 5
    assert set(found) == {None}


async def test_what_a_middleware_sets_is_seen_by_its_own_handler_only() -> None:
    found: list[object] = []
    pairs: list[tuple[object, int]] = []

    async def bind(number: int, ctx: Context, call_next: Next) -> Any:
        found.append(tenant.get())
        tenant.set(number)
        return await call_next(number, ctx)

    async def handle(number: int, _ctx: Context) -> None:
        pairs.append((tenant.get(), number))

    def plain(number: int, _ctx: Context) -> None:
        pairs.append((tenant.get(), number))
        tenant.set(-1)

    plans = plan_of(handle, concurrency=2), plan_of(plain, "plain", style="sync", concurrency=2)
    await emitted(WorkerFixture()).run(*plans, middlewares=(bind,))
    assert found == [None] * 2 * EVENTS
    assert len(pairs) == 2 * EVENTS
    assert all(bound == number for bound, number in pairs)


async def test_what_decoding_an_event_sets_does_not_reach_the_next() -> None:
    found: list[object] = []

    async def handle(_payload: Any, _ctx: Context) -> None:
        found.append(tenant.get())

    def decode(payload: bytes) -> Any:
        tenant.set(1)
        raise DecodeError("no")

    stage = emitted(WorkerFixture())
    await stage.run(plan_of(handle, "bad", concurrency=1, decode=decode), plan_of(handle))
    assert found == [None] * EVENTS


async def test_what_the_lifespan_set_is_seen_by_every_event() -> None:
    found: list[object] = []

    async def handle(number: int, _ctx: Context) -> None:
        found.append(tenant.get())
        tenant.set(number)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        token = tenant.set(-1)
        yield
        tenant.reset(token)

    await emitted(WorkerFixture()).run(plan_of(handle, concurrency=2), lifespan=lifespan)
    assert found == [-1] * EVENTS


async def test_values_that_cannot_be_compared_do_no_harm() -> None:
    value: ContextVar[Any] = ContextVar("value", default=None)
    first, found = Hostile(), list[object]()

    async def handle(_number: int, _ctx: Context) -> None:
        found.append(value.get())
        value.set(Hostile())

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        value.set(first)
        yield

    assert await emitted(WorkerFixture()).run(plan_of(handle, concurrency=1), lifespan=lifespan) == 0
    assert len(found) == EVENTS
    assert all(one is first for one in found)


async def test_a_decimal_precision_is_over_with_its_event() -> None:
    found: list[int] = []

    async def handle(_number: int, _ctx: Context) -> None:
        found.append(decimal.getcontext().prec)
        decimal.setcontext(decimal.Context(prec=3))

    await emitted(WorkerFixture()).run(plan_of(handle, concurrency=1))
    assert found == [decimal.DefaultContext.prec] * EVENTS


async def test_a_handler_that_is_cancelled_late_leaves_nothing_behind() -> None:
    found: list[object] = []

    async def handle(number: int, ctx: Context) -> None:
        found.append(tenant.get())
        tenant.set(number)
        if not ctx.attempt:
            await anyio.sleep(30)

    stage = WorkerFixture()
    stage.emit(1)
    await stage.run(plan_of(handle, concurrency=1, timeout_s=0.05))
    assert found == [None, None]


async def test_tasks_of_a_handler_see_what_it_set(anyio_backend: Any) -> None:
    found: list[object] = []

    async def note() -> None:
        await anyio.lowlevel.checkpoint()
        found.append(tenant.get())

    async def handle(number: int, _ctx: Context) -> None:
        tenant.set(number)
        async with anyio.create_task_group() as group:
            group.start_soon(note)
        if anyio_backend[0] == "asyncio":
            await asyncio.create_task(note())
        else:
            await note()

    await emitted(WorkerFixture()).run(plan_of(handle, concurrency=1))
    assert found == [number for number in range(EVENTS) for _ in range(2)]
