"""A user's module as it should be: nothing in here may be complained about."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

import msgspec
from typing_extensions import assert_type

from hexa_worker import (
    Ack,
    AnyContext,
    BatchContext,
    BatchResult,
    BrokerUnavailable,
    Context,
    DeadLetter,
    Decision,
    Delivery,
    Drop,
    Embedded,
    Emitter,
    Event,
    Headers,
    Kafka,
    KafkaSasl,
    Lineage,
    Nats,
    Middleware,
    Next,
    Pulsar,
    Result,
    Retries,
    Retry,
    Secret,
    ServedWorker,
    Snooze,
    SyncEmitter,
    User,
    Verdict,
    lifespan,
    on_outcome,
    run,
    serve_worker,
    scope,
    subscribe,
)


class Order(msgspec.Struct):
    id: int


class Loose(TypedDict):
    id: int


@dataclass
class Pool:
    size: int


@lifespan
async def resources() -> AsyncIterator[Pool]:
    yield Pool(3)


@lifespan()
async def resources_again() -> AsyncIterator[Pool]:
    yield Pool(3)


async def timed(event: Any, ctx: Any, call_next: Next) -> Any:
    return await call_next(event, ctx)


async def told(event: Any, ctx: AnyContext[Pool], call_next: Next) -> Any:
    assert_type(ctx.items, tuple[Context[Pool], ...])
    assert_type(ctx.action, str)
    ctx.logger.info("begins")
    assert_type(await ctx.emit("told", ctx.action), str)
    return await call_next(event, ctx)


@subscribe("orders", action="check-order", concurrency=16, order_by="key", timeout_s=3, middlewares=[timed])
async def check(order: Order, ctx: Context[Pool]) -> None:
    assert_type(ctx.state, Pool)
    assert_type(ctx.state.size, int)
    assert_type(ctx.attempt, int)
    assert_type(ctx.emitted_at, datetime | None)
    assert_type(ctx.key, str | None)
    assert_type(ctx.parent_id, str | None)
    assert_type(ctx.headers["x"], str)
    assert_type(await ctx.emit("checked", order, key=b"k", headers={"a": "b"}), str)
    ctx.logger.info("checked")
    ctx.extend(5)


@subscribe("orders", type="order.created", on_exhausted="hold")
async def of_a_type(order: Order) -> None: ...


@subscribe(
    "orders",
    action="say-all",
    retry=Retries(maximum=2, initial_s=0.1, backoff_coefficient=1, maximum_s=5, jitter=0.1, order="free"),
    idempotency_key="payload:id",
    codec="json",
    start="latest",
    mailbox=100,
    dead_letter_on=(ValueError, LookupError),
    retry_on=(KeyError,),
    drop_on=(StopIteration,),
)
async def say_all(order: Order) -> None: ...


@subscribe("orders")
async def anything(event: Any) -> Result:
    if event:
        return Retry(after=timedelta(minutes=3), reason="later")
    return Drop("not wanted")


@scope
async def session(ctx: Context[Pool]) -> AsyncIterator[list[int]]:
    yield [ctx.state.size]


class Counting:
    async def __call__(self, event: Any, ctx: AnyContext[Any], call_next: Next) -> Any:
        if isinstance(ctx, BatchContext):
            assert ctx.is_batch
        return await call_next(event, ctx)


counting: Middleware = Counting()


@subscribe("orders", middlewares=[session, counting, told])
async def in_a_scope(order: Order, ctx: Context[Pool]) -> None:
    assert_type(session.of(ctx), list[int])
    assert_type(ctx.resource(Pool), Pool)


@on_outcome
def report(decision: Decision) -> None:
    assert_type(decision.error, BaseException | None)
    assert_type(decision.delay_s, float | None)


@subscribe("orders")
async def asks_its_context(order: Order, ctx: Context) -> None:
    assert_type(ctx.maximum_retries, int)
    assert_type(ctx.is_last_attempt, bool)
    assert_type(ctx.first_failed_at, datetime | None)
    assert_type(ctx.remaining_s, float | None)
    assert_type(ctx.queued_s, float | None)
    assert_type(ctx.redriven, bool)
    assert_type(await ctx.emit("parts", order, id="mine"), str)
    assert_type(await ctx.emit_many([Event("parts", order), Event("parts", 2)]), list[str])


@subscribe("orders", retry=Retries(maximum_snoozes=5))
async def not_yet(order: Order, ctx: Context) -> Verdict:
    assert_type(ctx.snoozes, int)
    return Snooze(timedelta(minutes=1), "closed") if ctx.snoozes else Snooze(30)


@subscribe("orders")
async def stateless(order: Loose, ctx: Context) -> Ack | DeadLetter:
    assert_type(ctx.state, Any)
    return Ack() if order["id"] else DeadLetter("no id")


@subscribe(pattern="orders[.].*")
def plain(order: bytes, ctx: Context) -> None:
    assert_type(ctx.emit_sync("x", {"a": 1}), str)


@subscribe("orders", batch=100, batch_wait_s=0.5)
async def many(orders: list[Order], ctx: BatchContext[Pool]) -> BatchResult:
    assert_type(ctx.items[0], Context[Pool])
    assert_type(ctx.items[0].state, Pool)
    return [None if order.id else ValueError("no id") for order in orders]


@subscribe("orders", batch=100)
async def few(orders: Sequence[Order]) -> None: ...


@subscribe("a")
@subscribe("b", action="twice-b")
async def twice(order: Order) -> None: ...


@subscribe("sums", action="add", reply_to="totals")
async def answers(numbers: list[int]) -> int:
    return sum(numbers)


def fails(order: Order) -> None:
    raise Retry(after=1)


async def a_handler_is_still_a_function(ctx: Context[Pool]) -> None:
    await check(Order(1), ctx)
    assert_type(await anything({}), Result)
    Event(channel="orders", payload=Order(1), key="k", headers={"a": "b"})


async def emits() -> None:
    async with Emitter.from_config("worker.toml") as emitter:
        assert_type(emitter, Emitter)
        user = User(identifier="u", roles=("admin",))
        event_id = await emitter.emit(
            "orders", {"id": 1}, key="k", headers={"a": "b"}, correlation_id="r", user=user, id="i"
        )
        assert_type(event_id, str)
        for answer in await emitter.emit_many([Event(channel="orders", payload=1, locale="de")]):
            if isinstance(answer, Exception):
                raise answer
            assert_type(answer, str)


async def emits_without_a_worker_toml() -> None:
    sasl = KafkaSasl(username="web", password=Secret("s"))
    for broker in (Kafka(servers=("kafka:9092",), sasl=sasl), Nats(), Pulsar(), Embedded(path="var/hexa.db")):
        async with Emitter.connect(broker, name="web") as emitter:
            assert_type(emitter, Emitter)
            try:
                await emitter.emit_event(Event("orders", {"id": 1}, key="ada"), timeout_s=0.5)
            except BrokerUnavailable as error:
                print(error)
    assert_type(SyncEmitter.connect(Nats()), SyncEmitter)


def reads_a_delivery(ctx: Context[Any]) -> tuple[Delivery, Headers, Lineage]:
    return ctx.delivery, ctx.carried, ctx.lineage


async def serves_beside_an_application() -> None:
    async with serve_worker("worker.toml", state={"pool": 1}) as worker:
        assert_type(worker, ServedWorker)
        await worker.wait_ready()
        assert_type(worker.status().ready, bool)
        worker.stop()
        await worker.stop(cancel=True)


async def asks() -> None:
    async with Emitter.connect(Nats(), answers="web.answers") as emitter:
        print(await emitter.request("sums", [1, 2], timeout_s=1, returns=int))


def runs() -> None:
    assert_type(run("worker.toml", processes=2, until_idle=True), int)


def emits_from_a_thread(ctx: Context[Any]) -> None:
    with SyncEmitter.from_config("worker.toml") as emitter:
        assert_type(emitter.emit("orders", b"raw", parent=ctx.lineage), str)
        assert_type(emitter.submit(Event(channel="orders")).result(), str)
    assert_type(ctx.user, User | None)
    assert_type(ctx.locale, str | None)
