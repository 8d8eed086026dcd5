"""A user's mistakes. Each marked line must be complained about, and no other."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from hexa_worker import (
    Context,
    DeadLetter,
    Emitter,
    Event,
    Kafka,
    Retries,
    Retry,
    Snooze,
    SyncEmitter,
    User,
    lifespan,
    on_outcome,
    scope,
    run,
    serve_worker,
    subscribe,
)


class Order(msgspec.Struct):
    id: int


class Pool:
    size: int = 1


@subscribe("orders", concurrency="many")  # E: [arg-type]
async def text_for_a_number(order: Order) -> None: ...


@scope  # E: [arg-type]
async def yields_nothing(ctx: Context) -> None: ...


@on_outcome  # E: [type-var]
def told_a_text(decision: str) -> None: ...


@subscribe("orders", order_by="keys")  # E: [arg-type]
async def unknown_order(order: Order) -> None: ...


@subscribe("orders", retry=3)  # E: [arg-type]
async def number_for_retries(order: Order) -> None: ...


@subscribe("orders", retry=Retries(attempts=3))  # E: [call-arg]
async def unknown_retries(order: Order) -> None: ...


@subscribe("orders", retry=Retries(maximum="3", order="keys"))  # E: [arg-type]
async def text_for_retries(order: Order) -> None: ...


@subscribe("orders", drop_on=(ValueError("no"),))  # E: [arg-type]
async def error_for_a_class(order: Order) -> None: ...


@subscribe("orders", dead_letter_on=(Order,))  # E: [arg-type]
async def no_class_of_errors(order: Order) -> None: ...


@subscribe("orders", type=Order)  # E: [arg-type]
async def class_for_a_type(order: Order) -> None: ...


@subscribe("orders", on_exhausted="stop")  # E: [arg-type]
async def unknown_end(order: Order) -> None: ...


@subscribe("orders", start="first", codec="yaml")  # E: [arg-type]
async def unknown_start(order: Order) -> None: ...


@subscribe("orders", retries=3)  # E: [call-arg]
async def unknown_setting(order: Order) -> None: ...


@subscribe(["orders"])  # E: [arg-type]
async def list_of_channels(order: Order) -> None: ...


@subscribe("orders")  # E: [type-var]
async def three_parameters(order: Order, ctx: Context, more: int) -> None: ...


@subscribe("orders")  # E: [type-var]
async def no_parameter() -> None: ...


@subscribe("orders")  # E: [type-var]
async def keyword_only(order: Order, *, ctx: Context) -> None: ...


@subscribe("orders")  # E: [type-var]
async def second_is_no_context(order: Order, ctx: int) -> None: ...


async def middleware(event: Any) -> None: ...


@subscribe("orders", middlewares=[middleware])  # E: [list-item]
async def wrong_middleware(order: Order) -> None: ...


@lifespan  # E: [type-var]
async def no_generator() -> int:
    return 1


@lifespan  # E: [type-var]
async def with_parameter(pool: Pool) -> AsyncIterator[Pool]:
    yield pool


@subscribe("orders")
async def uses_context(order: Order, ctx: Context[Pool]) -> None:
    ctx.state.nonsense  # E: [attr-defined]
    ctx.attempt = 3  # E: [misc]
    ctx.nonsense()  # E: [attr-defined]
    await ctx.emit(b"channel")  # E: [arg-type]
    await ctx.emit("channel", key=3)  # E: [arg-type]
    await ctx.emit("channel", id=3)  # E: [arg-type]
    await ctx.emit_many(["channel"])  # E: [list-item]
    await ctx.emit("channel", headers={"a": 1})  # E: [dict-item]
    await ctx.emit("channel", order, "key")  # E: [call-arg]
    ctx.extend("soon")  # E: [arg-type]
    length: int = await ctx.emit("channel")  # E: [assignment]
    ctx.emit("channel")  # E: [unused-coroutine]


Event(payload=1)  # E: [call-arg]
Event(channel="a", headers={"a": b"b"})  # E: [dict-item]
Event("orders", 1, "ada")  # E: [call-arg]
Retry("30")  # E: [arg-type]
Snooze("30")  # E: [arg-type]
Snooze()  # E: [call-arg]
DeadLetter(3)  # E: [arg-type]


async def a_handler_keeps_its_type(ctx: Context[Pool]) -> None:
    await uses_context(3, ctx)  # E: [arg-type]
    await uses_context(Order(1))  # E: [call-arg]


async def emits(emitter: Emitter, blocking: SyncEmitter) -> None:
    await emitter.emit("orders", 1, "key")  # E: [call-arg]
    await emitter.emit("orders", timeout_s="1")  # E: [arg-type]
    run("worker.toml", processes="2")  # E: [arg-type]
    await emitter.request("sums", [1])  # E: [call-arg]
    with serve_worker("worker.toml"):  # E: [attr-defined]
        pass
    Emitter.connect("kafka:9092")  # E: [arg-type]
    Emitter.connect(Kafka(servers="kafka:9092"))  # E: [arg-type]
    Emitter.connect(Kafka(server=("kafka:9092",)))  # E: [call-arg]
    await emitter.emit("orders", correlation_id=3)  # E: [arg-type]
    emitter.emit("orders")  # E: [unused-coroutine]
    with Emitter.from_config("worker.toml"):  # E: [attr-defined]
        pass
    blocking.submit("orders")  # E: [arg-type]
    number: int = blocking.emit("orders")  # E: [assignment]


User("u-1")  # E: [call-arg]
