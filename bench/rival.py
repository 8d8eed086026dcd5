"""FastStream in its at-least-once modes, on the same broker and messages: a first and a last handler call, timed.

Its warm-up (connect, join, first fetch) is outside of the time, as it is with the worker. Payloads are decoded by
msgspec, the fastest that it offers.
"""

import asyncio
import logging
import time
import uuid
from importlib.util import find_spec
from typing import Any

import anyio

from bench.figures import Figure, rate
from bench.runtime import LOOPS, Order

PATIENCE_S = 30
MISSING = find_spec("faststream") is None


class Watch:
    """Counts what was handled; the time from the first call to the last."""

    def __init__(self, count: int) -> None:
        self.left = count
        self._first = self._last = 0.0
        self._done = asyncio.Event()

    def handled(self, number: int) -> None:
        """Another call with so many messages."""
        self._first = self._first or time.perf_counter()
        self.left -= number
        if self.left <= 0 and not self._done.is_set():
            self._last = time.perf_counter()
            self._done.set()

    async def seconds(self) -> float:
        """Wait for the last one."""
        await asyncio.wait_for(self._done.wait(), PATIENCE_S)
        return self._last - self._first


async def kafka_batches(address: str, topic: str, count: int) -> float:
    """Batch subscriber, committed after each batch; seconds."""
    return await _kafka(address, topic, count, batch=True)


async def kafka_singles(address: str, topic: str, count: int) -> float:
    """Per-message subscriber with ``AckPolicy.ACK``, committed after each; seconds."""
    return await _kafka(address, topic, count, batch=False)


async def _kafka(address: str, topic: str, count: int, *, batch: bool) -> float:
    from fast_depends.msgspec import MsgSpecSerializer
    from faststream import AckPolicy
    from faststream.kafka import KafkaBroker

    broker: Any = KafkaBroker(address, serializer=MsgSpecSerializer(), logger=None, log_level=logging.ERROR)
    watch = Watch(count)
    options: dict[str, Any] = {
        "group_id": uuid.uuid4().hex,
        "auto_offset_reset": "earliest",
        "ack_policy": AckPolicy.ACK,
    }
    if batch:

        @broker.subscriber(topic, batch=True, max_records=500, **options)  # type: ignore[untyped-decorator]
        async def handle_batch(orders: list[Order]) -> None:
            watch.handled(len(orders))

    else:

        @broker.subscriber(topic, **options)  # type: ignore[untyped-decorator]
        async def handle(order: Order) -> None:  # noqa: ARG001 - decoded, that is what counts
            watch.handled(1)

    return await _timed(broker, watch)


async def nats_singles(address: str, channel: str, count: int) -> float:
    """Durable pull subscriber, each message acknowledged after its handler; seconds."""
    from fast_depends.msgspec import MsgSpecSerializer
    from faststream import AckPolicy
    from faststream.nats import JStream, NatsBroker, PullSub

    broker: Any = NatsBroker(address, serializer=MsgSpecSerializer(), logger=None, log_level=logging.ERROR)
    watch = Watch(count)

    @broker.subscriber(  # type: ignore[untyped-decorator]
        channel,
        stream=JStream(channel, declare=False),
        durable=uuid.uuid4().hex,
        pull_sub=PullSub(batch_size=500),
        ack_policy=AckPolicy.ACK,
    )
    async def handle(order: Order) -> None:  # noqa: ARG001 - decoded, that is what counts
        watch.handled(1)

    return await _timed(broker, watch)


async def _timed(broker: Any, watch: Watch) -> float:
    await broker.start()
    try:
        return await watch.seconds()
    finally:
        await broker.stop()


def compare(name: str, measured: Any, ours: float, bar: float, *arguments: Any) -> Figure:
    """Our messages a second as a multiple of FastStream's; a note where it is not installed or did not get through.

    Args:
        name: which of its modes.
        measured: one of the functions above.
        ours: messages a second of the whole runtime, on the same broker in the same run.
        bar: how many times FastStream's that should be.
        arguments: address, channel and count for `measured`.
    """
    title = f"consume, uvloop, beside FastStream {name}"
    if MISSING:
        return Figure(name=title, value="skipped: FastStream is not installed (group bench)")
    try:
        took = anyio.run(measured, *arguments, backend_options=LOOPS["uvloop"])
    except TimeoutError:
        return Figure(name=title, value=f"skipped: FastStream did not finish in {PATIENCE_S} s")
    theirs = arguments[-1] / took
    return Figure(
        name=title,
        value=f"{ours:,.0f}/s",
        raw=f"{rate(arguments[-1], took)} (FastStream)",
        ratio=ours / theirs,
        bar=f">= {bar:g} x",
        met=ours / theirs >= bar,
    )
