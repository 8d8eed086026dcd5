"""The kafka driver in the whole runtime, beside aiokafka's own fastest correct loops, on one real node.

``python -m bench.kafka [ADDRESS]``; without an address a node of the broker lab is started. The topic has 12
partitions and records of about 200 bytes of JSON, without headers: what other producers write.
"""

import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path

import anyio
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from bench import rival
from bench.figures import Figure, milliseconds, rate, table
from hexa_worker import Context, app, subscribe
from hexa_worker.clock import SystemClock
from hexa_worker.config.kafka import Kafka
from hexa_worker.config.model import Config, File, Subscription, Worker
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.drivers.kafka import KafkaDriver
from hexa_worker.emitter import Emitter
from hexa_worker.handlers.api import Event
from hexa_worker.handlers.loader import load_plans
from hexa_worker.stop import StopSignals

COUNT = 300_000
EMITTED = 50_000
PARTITIONS = 12
RUNS = 2
LATENCIES = 1_500
PACE_S = 0.002
RIVAL_BATCHES = 60_000
RIVAL_SINGLES = 3_000
LOOPS = {"asyncio": {}, "uvloop": {"use_uvloop": True}}


class Order(msgspec.Struct):
    """About 200 bytes of JSON."""

    id: int
    customer: str
    amount: float
    note: str


PAYLOAD = msgspec.json.encode(Order(1, "ada", 12.5, "x" * 150))


latencies: list[float] = []


@subscribe("orders", action="measure")
async def measure_latency(order: Order, _ctx: Context) -> None:
    """Note how long the event was under way."""
    latencies.append(time.perf_counter() - order.amount)


@subscribe("orders", action="handle")
async def handle(order: Order, ctx: Context) -> None:
    """Do nothing, as fast as possible."""


def options(address: str) -> Kafka:
    """Defaults, apart from what makes the topic."""
    return Kafka(servers=(address,), create_channels=True, partitions=PARTITIONS)


async def fill(address: str, topic: str, count: int) -> float:
    """Make the topic with one record, then `count` in all through the driver, 500 at a time; seconds it took."""
    driver = KafkaDriver(options(address))
    await driver.open()
    batch = [Message(channel=topic, payload=PAYLOAD, key=b"customer-%d" % number) for number in range(500)]
    await driver.publish(batch[:1])
    begin = time.perf_counter()
    if count:
        await driver.publish(batch[1:])
    for _ in range(count // len(batch) - 1):
        await driver.publish(batch)
    took = time.perf_counter() - begin
    await driver.close()
    return took


async def raw_consume(address: str, topic: str) -> float:
    """aiokafka: getmany(500), decode, handler, commit once a second; seconds from its first records to the last."""
    decode = msgspec.json.Decoder(Order).decode
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=uuid.uuid4().hex,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    left, begin, committed = COUNT, 0.0, time.perf_counter()
    while left > 0:
        for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
            for record in records:
                await handle(decode(record.value), None)  # type: ignore[arg-type]  # it does not look at it
            left -= len(records)
            begin = begin or time.perf_counter()  # after the first records, as for the worker
        if time.perf_counter() - committed > 1:
            committed = time.perf_counter()
            await consumer.commit()
    await consumer.commit()
    took = time.perf_counter() - begin
    await consumer.stop()
    return took


async def our_consume(address: str, topic: str) -> float:
    """The whole runtime with defaults; seconds from its first settlement to its last. Every offset is committed."""
    subscription = Subscription(channel=topic, group=uuid.uuid4().hex)
    config = Config(
        path=Path(__file__).parent.parent / "worker.toml",
        file=File(
            worker=Worker(name="bench", handlers=("bench.kafka",)),
            broker=options(address),
            subscriptions={"handle": subscription, "measure": Subscription(enabled=False)},
        ),
    )
    loaded = load_plans(config)
    stop, left, marks = StopSignals(), [COUNT], list[float]()

    def settled(_action: str, batch: Sequence[Settlement], _now_ms: int) -> None:
        assert all(isinstance(one, Acked) for one in batch)
        if left[0] == COUNT:
            marks.append(time.perf_counter())
        left[0] -= len(batch)
        if left[0] <= 0:
            marks.append(time.perf_counter())
            stop.ask()

    await app.serve(config, loaded, stop=stop, record=settled)
    committed = await committed_offsets(address, str(subscription.group))
    assert (left[0], committed) == (0, COUNT), f"{left[0]} left, {committed} of {COUNT} committed"
    return marks[-1] - marks[0]


async def committed_offsets(address: str, group: str) -> int:
    """The sum of a group's committed offsets: how many records it is done with."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    offsets = await admin.list_consumer_group_offsets(group)
    await admin.close()
    return sum(found.offset for found in offsets.values())


async def raw_emit(address: str, topic: str) -> float:
    """aiokafka: idempotent, send 500 and await their confirmations; seconds."""
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True, max_batch_size=512 * 1024)
    await producer.start()
    begin = time.perf_counter()
    for _ in range(EMITTED // 500):
        sent = [await producer.send(topic, PAYLOAD, b"customer-%d" % number) for number in range(500)]
        await asyncio.gather(*sent)
    took = time.perf_counter() - begin
    await producer.stop()
    return took


async def our_emit(address: str, topic: str) -> float:
    """`Emitter.emit_many` in batches of 500, each confirmed; seconds."""
    driver = KafkaDriver(options(address))
    await driver.open()
    emitter = Emitter(driver, SystemClock(), msgspec.json.encode)
    order = Order(1, "ada", 12.5, "x" * 150)
    events = [Event(channel=topic, payload=order, key=f"customer-{number}") for number in range(500)]
    await emitter.emit_many(events)
    begin = time.perf_counter()
    for _ in range(EMITTED // 500):
        answers = await emitter.emit_many(events)
        assert all(isinstance(answer, str) for answer in answers)
    took = time.perf_counter() - begin
    await driver.close()
    return took


async def our_single_emits(address: str, topic: str) -> float:
    """16 tasks that emit one event at a time; seconds for 20,000."""
    driver = KafkaDriver(options(address))
    await driver.open()
    emitter = Emitter(driver, SystemClock(), msgspec.json.encode)
    event = Event(channel=topic, payload=Order(1, "ada", 12.5, "x" * 150))

    async def emit() -> None:
        for _ in range(20_000 // 16):
            await emitter.emit(event)

    await emitter.emit(event)
    begin = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(16):
            tasks.start_soon(emit)
    took = time.perf_counter() - begin
    await driver.close()
    return took


def median(loop: str, measured: Callable[[str, str], Awaitable[float]], address: str, topic: str) -> float:
    """The median of a few runs."""
    return statistics.median(
        anyio.run(measured, address, topic, backend_options=LOOPS[loop])
        for _ in range(RUNS)  # type: ignore[arg-type]
    )


async def our_latency(address: str, topic: str) -> list[float]:
    """Emit to handler at 500 a second, through the whole runtime."""
    config = Config(
        path=Path(__file__).parent.parent / "worker.toml",
        file=File(
            worker=Worker(name="bench", handlers=("bench.kafka",)),
            broker=options(address),
            subscriptions={
                "handle": Subscription(enabled=False),
                "measure": Subscription(channel=topic, group=uuid.uuid4().hex),
            },
        ),
    )
    stop, seen = StopSignals(), import_module("bench.kafka").latencies  # where the loaded handler writes
    seen.clear()
    driver = KafkaDriver(options(address))
    await driver.open()
    emitter = Emitter(driver, SystemClock(), msgspec.json.encode)

    async def emit() -> None:
        while not seen:
            await anyio.sleep(0.05)
        for _ in range(LATENCIES):
            await emitter.emit(Event(channel=topic, payload=Order(1, "ada", time.perf_counter(), "x" * 150)))
            await anyio.sleep(PACE_S)
        await anyio.sleep(0.3)
        stop.ask()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(emit)
        await app.serve(config, load_plans(config), stop=stop)
    await driver.close()
    assert len(seen) > LATENCIES, f"{len(seen)} of {LATENCIES + 1} seen"
    return sorted(list[float](seen[1:]))


async def raw_latency(address: str, topic: str) -> list[float]:
    """The same with aiokafka alone: a confirmed send, and getmany, after a first record as for the worker."""
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=uuid.uuid4().hex,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await producer.start()
    await consumer.start()
    seen, decode = list[float](), msgspec.json.Decoder(Order).decode

    async def read() -> None:
        while len(seen) <= LATENCIES:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
                seen.extend(time.perf_counter() - decode(record.value).amount for record in records)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        while not seen:
            await anyio.sleep(0.05)
        for _ in range(LATENCIES):
            await producer.send_and_wait(topic, msgspec.json.encode(Order(1, "ada", time.perf_counter(), "x" * 150)))
            await anyio.sleep(PACE_S)
    await consumer.commit()
    await consumer.stop()
    await producer.stop()
    return sorted(seen[1:])


def _latency(address: str) -> list[Figure]:
    found = []
    for measured in (our_latency, raw_latency):
        topic = f"bench-{uuid.uuid4().hex[:8]}"
        anyio.run(fill, address, topic, 0)
        found.append(anyio.run(measured, address, topic, backend_options=LOOPS["uvloop"]))
    ours, raw = found
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        mine, theirs = ours[int(len(ours) * share)], raw[int(len(raw) * share)]
        figures.append(
            Figure(
                name=f"latency emit to handler at 500/s, {name}",
                value=milliseconds(mine),
                raw=f"{milliseconds(theirs)} (send_and_wait, getmany)",
                ratio=mine / theirs,
                bar="<= 1.5",
                met=mine <= 1.5 * theirs,
            )
        )
    return figures


def measure(address: str) -> list[Figure]:
    """Consume and emit on both asyncio loops, latency."""
    figures: list[Figure] = []
    topic, emitted = f"bench-{uuid.uuid4().hex[:8]}", f"bench-{uuid.uuid4().hex[:8]}"
    filled = anyio.run(fill, address, topic, COUNT)
    anyio.run(fill, address, emitted, 500)
    figures.append(Figure(name="publish by the driver, batches of 500", value=rate(COUNT, filled)))
    for loop in LOOPS:
        raw, ours = median(loop, raw_consume, address, topic), median(loop, our_consume, address, topic)
        figures.append(
            Figure(
                name=f"consume, whole runtime, {loop}",
                value=f"{rate(COUNT, ours)} ({ours / COUNT * 1e6:.2f} µs each)",
                raw=f"{rate(COUNT, raw)} (getmany, decode, commit each second)",
                ratio=raw / ours,
                bar="≥ 0.45",
                met=raw / ours >= 0.45,
            )
        )
        if loop == "uvloop":
            figures += [
                rival.compare("batches", rival.kafka_batches, COUNT / ours, 4, address, topic, RIVAL_BATCHES),
                rival.compare("per-message ACK", rival.kafka_singles, COUNT / ours, 100, address, topic, RIVAL_SINGLES),
            ]
        raw, ours = median(loop, raw_emit, address, emitted), median(loop, our_emit, address, emitted)
        figures.append(
            Figure(
                name=f"emit_many of 500, confirmed, {loop}",
                value=rate(EMITTED, ours),
                raw=f"{rate(EMITTED, raw)} (send, gather)",
                ratio=raw / ours,
                bar="≥ 60,000/s",
                met=EMITTED / ours >= 60_000,
            )
        )
    single = anyio.run(our_single_emits, address, emitted)
    figures.append(
        Figure(
            name="emit, 16 tasks, one at a time",
            value=f"{rate(20_000, single)}, {milliseconds(single * 16 / 20_000)} each",
        )
    )
    return [*figures, *_latency(address)]


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        print(table("Kafka", measure(sys.argv[1])))
        return
    from tests.brokers.lab import Lab

    lab = Lab()
    try:
        print(table("Kafka", measure(lab.get("kafka").address)))
    finally:
        lab.close()


if __name__ == "__main__":
    main()
