"""The pulsar driver in the whole runtime, beside pulsar-client's own fastest correct loops, on one real broker.

``python -m bench.pulsar [ADDRESS]``; without an address a broker of the lab is started. Messages are about 200 bytes
of JSON, without properties: what other producers write.
"""

import statistics
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pulsar

from bench.figures import Figure, milliseconds, rate, table
from hexa_worker import Context, app, subscribe
from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Config, File, Subscription, Worker
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.drivers.pulsar import PulsarDriver
from hexa_worker.emitter import Emitter
from hexa_worker.handlers.api import Event
from hexa_worker.handlers.loader import load_plans
from hexa_worker.stop import StopSignals

COUNT = {"batched": 200_000, "unbatched": 60_000}
BARS = {"batched": 0.7, "unbatched": 0.9}
EMITTED = 50_000
RUNS = 2
LATENCIES = 1_500
PACE_S = 0.002
LOOPS: dict[str, dict[str, Any]] = {"asyncio": {}, "uvloop": {"use_uvloop": True}}


class Order(msgspec.Struct):
    """About 200 bytes of JSON."""

    id: int
    customer: str
    amount: float
    note: str


PAYLOAD = msgspec.json.encode(Order(1, "ada", 12.5, "x" * 150))
latencies: list[float] = []


@subscribe("orders", action="handle")
async def handle(order: Order, _ctx: Context) -> None:
    """Do nothing, as fast as possible."""


@subscribe("orders", action="measure")
async def measure_latency(order: Order, _ctx: Context) -> None:
    """Note how long the event was under way."""
    latencies.append(time.perf_counter() - order.amount)


def connect(address: str) -> pulsar.Client:
    """A quiet client."""
    return pulsar.Client(address, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"))


def fill(address: str, channel: str, kind: str) -> None:
    """Publish plain messages with pulsar-client as other producers do."""
    client = connect(address)
    producer = client.create_producer(
        channel,
        batching_enabled=kind == "batched",
        batching_max_messages=1_000,
        batching_max_publish_delay_ms=10,
        max_pending_messages=20_000,
        block_if_queue_full=True,
    )
    for _ in range(COUNT[kind]):
        producer.send_async(PAYLOAD, lambda _result, _id: None)
    producer.flush()
    client.close()


def subscribed(client: pulsar.Client, channel: str) -> pulsar.Consumer:
    """A consumer with the sizes that the worker uses by default."""
    return client.subscribe(
        channel,
        uuid.uuid4().hex,
        consumer_type=pulsar.ConsumerType.Shared,
        initial_position=pulsar.InitialPosition.Earliest,
        receiver_queue_size=1_000,
        batch_index_ack_enabled=True,
        batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(500, -1, 10),
    )


async def raw_consume(address: str, channel: str, count: int) -> float:
    """A thread that receives batches, decodes, calls a handler and acknowledges each; seconds."""
    decode = msgspec.json.Decoder(Order).decode
    client = connect(address)
    consumer = subscribed(client, channel)
    took: list[float] = []

    def read() -> None:
        left, begin = count, 0.0
        while left:
            batch = consumer.batch_receive()
            begin = begin or time.perf_counter()
            for message in batch:
                decode(message.data())
                consumer.acknowledge(message)
            left -= len(batch)
        took.append(time.perf_counter() - begin)

    thread = threading.Thread(target=read)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    consumer.unsubscribe()
    client.close()
    return took[0]


def configured(address: str, channel: str, action: str) -> Config:
    """A worker with defaults."""
    return Config(
        path=Path(__file__).parent.parent / "worker.toml",
        file=File(
            worker=Worker(name="bench", handlers=("bench.pulsar",)),
            broker=Pulsar(url=address),
            subscriptions={
                name: Subscription(channel=channel, group=uuid.uuid4().hex, enabled=name == action)
                for name in ("handle", "measure")
            },
        ),
    )


async def our_consume(address: str, channel: str, count: int) -> float:
    """The whole runtime with defaults; seconds from its first settlement to its last."""
    config = configured(address, channel, "handle")
    stop, left, marks = StopSignals(), [count], list[float]()

    def settled(_action: str, batch: Sequence[Settlement], _now_ms: int) -> None:
        assert all(isinstance(one, Acked) for one in batch)
        if left[0] == count:
            marks.append(time.perf_counter())
        left[0] -= len(batch)
        if left[0] <= 0:
            marks.append(time.perf_counter())
            stop.ask()

    await app.serve(config, load_plans(config), stop=stop, record=settled)
    return marks[-1] - marks[0]


async def raw_emit(address: str, channel: str) -> float:
    """pulsar-client: send_async, 500 at a time, each batch confirmed; seconds."""
    client = connect(address)
    producer = client.create_producer(channel, batching_enabled=True, max_pending_messages=20_000)

    def send() -> float:
        begin = time.perf_counter()
        for _ in range(EMITTED // 500):
            for _ in range(500):
                producer.send_async(PAYLOAD, lambda _result, _id: None, properties={"hexa-event-id": uuid.uuid4().hex})
            producer.flush()
        return time.perf_counter() - begin

    took = await anyio.to_thread.run_sync(send)
    client.close()
    return took


async def our_emit(address: str, channel: str, keys: int = 0) -> float:
    """`Emitter.emit_many` in batches of 500, each confirmed; seconds."""
    driver = PulsarDriver(Pulsar(url=address))
    await driver.open()
    emitter = Emitter(driver, SystemClock(), msgspec.json.encode)
    order = Order(1, "ada", 12.5, "x" * 150)
    events = [
        Event(channel=channel, payload=order, key=f"customer-{number % keys}" if keys else None)
        for number in range(500)
    ]
    await emitter.emit_many(events)
    begin = time.perf_counter()
    for _ in range(EMITTED // 500):
        answers = await emitter.emit_many(events)
        assert all(isinstance(answer, str) for answer in answers)
    took = time.perf_counter() - begin
    await driver.close()
    return took


async def our_latency(address: str, channel: str) -> list[float]:
    """Emit to handler at 500 a second."""
    config = configured(address, channel, "measure")
    stop = StopSignals()
    latencies = import_module("bench.pulsar").latencies  # where the loaded handler writes, not in __main__
    latencies.clear()
    driver = PulsarDriver(Pulsar(url=address))
    await driver.open()
    emitter = Emitter(driver, SystemClock(), msgspec.json.encode)
    await emitter.emit(Event(channel=channel, payload=Order(1, "ada", time.perf_counter(), "x" * 150)))

    async def emit() -> None:
        await anyio.sleep(0.5)
        for _ in range(LATENCIES):
            await emitter.emit(Event(channel=channel, payload=Order(1, "ada", time.perf_counter(), "x" * 150)))
            await anyio.sleep(PACE_S)
        await anyio.sleep(0.2)
        stop.ask()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(emit)
        await app.serve(config, load_plans(config), stop=stop)
    await driver.close()
    return sorted(list[float](latencies[1:]))


async def raw_latency(address: str, channel: str) -> list[float]:
    """The same with pulsar-client alone: a confirmed send, and a thread that receives and acknowledges each."""
    client = connect(address)
    consumer, seen = subscribed(client, channel), list[float]()
    producer = client.create_producer(channel)

    def read() -> None:
        while len(seen) < LATENCIES:
            message = consumer.receive()
            seen.append(time.perf_counter() - msgspec.json.decode(message.data(), type=Order).amount)
            consumer.acknowledge(message)

    def write() -> None:
        for _ in range(LATENCIES):
            producer.send(msgspec.json.encode(Order(1, "ada", time.perf_counter(), "x" * 150)))
            time.sleep(PACE_S)

    thread = threading.Thread(target=read)
    thread.start()
    await anyio.to_thread.run_sync(write)
    await anyio.to_thread.run_sync(thread.join)
    client.close()
    return sorted(seen)


def median(loop: str, measured: Callable[..., Awaitable[float]], *arguments: Any) -> float:
    """The median of a few runs."""
    return statistics.median(anyio.run(measured, *arguments, backend_options=LOOPS[loop]) for _ in range(RUNS))


def measure(address: str) -> list[Figure]:
    """Consume, emit and latency."""
    return [*_consume(address), *_emit(address), *_latency(address)]


def _consume(address: str) -> list[Figure]:
    figures: list[Figure] = []
    for kind, count in COUNT.items():
        channel = f"bench-{uuid.uuid4().hex[:8]}"
        keep = connect(address)
        keep.subscribe(channel, "keep", initial_position=pulsar.InitialPosition.Earliest, receiver_queue_size=1)
        fill(address, channel, kind)
        for loop in LOOPS:
            raw = median(loop, raw_consume, address, channel, count)
            ours = median(loop, our_consume, address, channel, count)
            figures.append(
                Figure(
                    name=f"consume, {kind} topic, whole runtime, {loop}",
                    value=f"{rate(count, ours)} ({ours / count * 1e6:.2f} µs each)",
                    raw=f"{rate(count, raw)} (a thread, batch_receive, decode, ack each)",
                    ratio=raw / ours,
                    bar=f">= {BARS[kind]}",
                    met=raw / ours >= BARS[kind],
                )
            )
        keep.close()
    return figures


def _emit(address: str) -> list[Figure]:
    figures: list[Figure] = []
    raw = median("uvloop", raw_emit, address, f"bench-{uuid.uuid4().hex[:8]}")
    for name, keys in (("without keys", 0), ("10 keys", 10), ("500 keys", 500)):
        ours = median("uvloop", partial(our_emit, keys=keys), address, f"bench-{uuid.uuid4().hex[:8]}")
        figures.append(
            Figure(
                name=f"emit, batches of 500, {name}, confirmed",
                value=rate(EMITTED, ours),
                raw=f"{rate(EMITTED, raw)} (send_async and flush, without keys)",
                ratio=raw / ours,
                bar=">= 20,000/s",
                met=EMITTED / ours >= 20_000,
            )
        )
    return figures


def _latency(address: str) -> list[Figure]:
    ours = anyio.run(our_latency, address, f"bench-{uuid.uuid4().hex[:8]}", backend_options=LOOPS["uvloop"])
    raw = anyio.run(raw_latency, address, f"bench-{uuid.uuid4().hex[:8]}", backend_options=LOOPS["uvloop"])
    return [
        Figure(
            name=f"latency emit to handler at 500/s, {name}",
            value=milliseconds(ours[int(len(ours) * share)]),
            raw=f"{milliseconds(raw[int(len(raw) * share)])} (send, receive in a thread)",
            ratio=ours[int(len(ours) * share)] / raw[int(len(raw) * share)],
            bar="<= 1.5",
            met=ours[int(len(ours) * share)] <= 1.5 * raw[int(len(raw) * share)],
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def main() -> None:
    """Measure, print."""
    if len(sys.argv) > 1:
        print(table("Pulsar", measure(sys.argv[1])))
        return
    from tests.brokers.lab import Lab

    lab = Lab()
    try:
        print(table("Pulsar", measure(lab.get("pulsar").address)))
    finally:
        lab.close()


if __name__ == "__main__":
    main()
