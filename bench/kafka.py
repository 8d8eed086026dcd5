"""The kafka driver in the whole runtime, beside aiokafka's own fastest correct loops, on one real node.

The topic has 12 partitions and records without headers: what other producers write.
"""

import asyncio
import time
import uuid
from functools import partial

import anyio
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from bench import rival
from bench.figures import Figure, milliseconds, rate
from bench.runtime import (
    BATCH,
    EMITTED,
    LATENCIES,
    LOOPS,
    PACE_S,
    PAYLOAD,
    Ours,
    Raw,
    consumed,
    decode,
    delays,
    emitted,
    handle,
    median,
    new_channel,
    order,
)
from hexa_worker.clock import SystemClock
from hexa_worker.config.kafka import Kafka
from hexa_worker.core.message import Message
from hexa_worker.drivers.kafka import KafkaDriver
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.subscriptions.api import Event

COUNT = 300_000
PARTITIONS = 12
SINGLES = 20_000
TASKS = 16
RIVAL_BATCHES = 60_000
RIVAL_SINGLES = 3_000


def options(address: str) -> Kafka:
    """Defaults, apart from what makes the topic."""
    return Kafka(servers=(address,), create_channels=True, partitions=PARTITIONS)


async def fill(address: str, topic: str, count: int) -> float:
    """Make the topic with one record, then `count` in all through the driver, in batches; seconds it took."""
    driver = KafkaDriver(options(address))
    await driver.open()
    batch = [Message(channel=topic, payload=PAYLOAD, key=b"customer-%d" % number) for number in range(BATCH)]
    await driver.publish(batch[:1])
    begin = time.perf_counter()
    if count:
        await driver.publish(batch[1:])
    for _ in range(count // len(batch) - 1):
        await driver.publish(batch)
    took = time.perf_counter() - begin
    await driver.close()
    return took


def consumer_of(address: str, topic: str) -> AIOKafkaConsumer:
    """A group of its own from the first record on, which commits when it is told to."""
    return AIOKafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=uuid.uuid4().hex,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )


async def raw_consume(address: str, topic: str) -> float:
    """aiokafka: getmany(500), decode, handler, commit once a second; seconds from its first records to the last."""
    consumer = consumer_of(address, topic)
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


async def our_consume(address: str, ours: Ours, topic: str) -> float:
    """As `Ours.consume`; every offset is committed in the end."""
    group = uuid.uuid4().hex
    took = await ours.consume(topic, COUNT, group)
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    offsets = await admin.list_consumer_group_offsets(group)
    await admin.close()
    committed = sum(found.offset for found in offsets.values())
    assert committed == COUNT, f"{committed} of {COUNT} committed"
    return took


async def raw_emit(address: str, topic: str) -> float:
    """aiokafka: idempotent, send a batch and await its confirmations; seconds."""
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True, max_batch_size=512 * 1024)
    await producer.start()
    begin = time.perf_counter()
    for _ in range(EMITTED // BATCH):
        sent = [await producer.send(topic, PAYLOAD, b"customer-%d" % number) for number in range(BATCH)]
        await asyncio.gather(*sent)
    took = time.perf_counter() - begin
    await producer.stop()
    return took


async def our_single_emits(ours: Ours, topic: str) -> float:
    """A few tasks that emit one event at a time; seconds for all."""
    driver = ours.driver()
    await driver.open()
    emitter = EventEncoder(driver, SystemClock(), msgspec.json.encode)
    event = Event(channel=topic, payload=order())

    async def emit() -> None:
        for _ in range(SINGLES // TASKS):
            await emitter.emit(event)

    await emitter.emit(event)
    begin = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(TASKS):
            tasks.start_soon(emit)
    took = time.perf_counter() - begin
    await driver.close()
    return took


async def raw_latency(address: str, topic: str) -> list[float]:
    """aiokafka alone: a confirmed send, and getmany, after a first record as for the worker."""
    await fill(address, topic, 0)
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True)
    consumer = consumer_of(address, topic)
    await producer.start()
    await consumer.start()
    seen = list[float]()

    async def read() -> None:
        while len(seen) <= LATENCIES:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
                seen.extend(time.perf_counter() - decode(record.value).amount for record in records)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        while not seen:
            await anyio.sleep(0.05)
        for _ in range(LATENCIES):
            await producer.send_and_wait(topic, msgspec.json.encode(order(time.perf_counter())))
            await anyio.sleep(PACE_S)
    await consumer.commit()
    await consumer.stop()
    await producer.stop()
    return sorted(seen[1:])


def measure(address: str) -> list[Figure]:
    """Consume and emit on both asyncio loops, latency."""
    ours = Ours(options(address), lambda: KafkaDriver(options(address)))
    topic, emitting = new_channel(), new_channel()
    filled = anyio.run(fill, address, topic, COUNT)
    anyio.run(fill, address, emitting, BATCH)
    figures = [Figure(name=f"publish by the driver, batches of {BATCH}", value=rate(COUNT, filled))]
    for loop in LOOPS:
        raw = Raw(median(loop, raw_consume, address, topic), "getmany, decode, commit each second")
        mine = median(loop, our_consume, address, ours, topic)
        figures.append(consumed(f"whole runtime, {loop}", COUNT, mine, raw, 0.45))
        if loop == "uvloop":
            figures += [
                rival.compare("batches", rival.kafka_batches, COUNT / mine, 4, address, topic, RIVAL_BATCHES),
                rival.compare("per-message ACK", rival.kafka_singles, COUNT / mine, 100, address, topic, RIVAL_SINGLES),
            ]
        raw = Raw(median(loop, raw_emit, address, emitting), "send, gather")
        figures.append(emitted(loop, median(loop, ours.emit, emitting, BATCH), raw, 60_000))
    single = anyio.run(our_single_emits, ours, emitting)
    figures.append(
        Figure(
            name=f"emit, {TASKS} tasks, one at a time",
            value=f"{rate(SINGLES, single)}, {milliseconds(single * TASKS / SINGLES)} each",
        )
    )
    return [*figures, *delays(ours, partial(raw_latency, address), "send_and_wait, getmany")]
