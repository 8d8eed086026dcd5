"""The pulsar driver in the whole runtime, beside pulsar-client's own fastest correct loops, on one real broker.

Messages to consume have no properties: what other producers write.
"""

import threading
import time
import uuid
from functools import partial

import anyio
import msgspec
import pulsar

from bench.figures import Figure
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
    median,
    new_channel,
    order,
)
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers.pulsar import PulsarDriver

COUNT = {"batched": 200_000, "unbatched": 60_000}
BARS = {"batched": 0.7, "unbatched": 0.9}
KEYS = {"without keys": 0, "10 keys": 10, "500 keys": 500}


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


async def raw_emit(address: str, channel: str, keys: int) -> float:
    """pulsar-client: send_async, a batch at a time confirmed, batches by key as ours are; seconds."""
    client = connect(address)
    producer = client.create_producer(
        channel,
        batching_enabled=True,
        batching_type=pulsar.BatchingType.KeyBased,
        batching_max_messages=1_000,
        max_pending_messages=20_000,
    )

    def send() -> float:
        begin = time.perf_counter()
        for _ in range(EMITTED // BATCH):
            for number in range(BATCH):
                producer.send_async(
                    PAYLOAD,
                    lambda _result, _id: None,
                    properties={"hexa-event-id": uuid.uuid4().hex},
                    partition_key=f"customer-{number % keys}" if keys else None,
                )
            producer.flush()
        return time.perf_counter() - begin

    took = await anyio.to_thread.run_sync(send)
    client.close()
    return took


async def raw_latency(address: str, channel: str) -> list[float]:
    """pulsar-client alone: a confirmed send, and a thread that receives and acknowledges each."""
    client = connect(address)
    consumer, seen = subscribed(client, channel), list[float]()
    producer = client.create_producer(channel)

    def read() -> None:
        while len(seen) < LATENCIES:
            message = consumer.receive()
            seen.append(time.perf_counter() - decode(message.data()).amount)
            consumer.acknowledge(message)

    def write() -> None:
        for _ in range(LATENCIES):
            producer.send(msgspec.json.encode(order(time.perf_counter())))
            time.sleep(PACE_S)

    thread = threading.Thread(target=read)
    thread.start()
    await anyio.to_thread.run_sync(write)
    await anyio.to_thread.run_sync(thread.join)
    client.close()
    return sorted(seen)


def measure(address: str) -> list[Figure]:
    """Consume, emit and latency."""
    broker = Pulsar(url=address)
    ours = Ours(broker, lambda: PulsarDriver(broker))
    figures = _consume(address, ours)
    for name, keys in KEYS.items():
        raw = Raw(median("uvloop", raw_emit, address, new_channel(), keys), "send_async and flush, batches by key")
        figures.append(emitted(name, median("uvloop", ours.emit, new_channel(), keys), raw, 20_000))
    return [*figures, *delays(ours, partial(raw_latency, address), "send, receive in a thread")]


def _consume(address: str, ours: Ours) -> list[Figure]:
    figures: list[Figure] = []
    for kind, count in COUNT.items():
        channel = new_channel()
        keep = connect(address)
        keep.subscribe(channel, "keep", initial_position=pulsar.InitialPosition.Earliest, receiver_queue_size=1)
        fill(address, channel, kind)
        for loop in LOOPS:
            raw = Raw(median(loop, raw_consume, address, channel, count), "a thread, batch_receive, decode, ack each")
            mine = median(loop, ours.consume, channel, count)
            figures.append(consumed(f"{kind} topic, whole runtime, {loop}", count, mine, raw, BARS[kind]))
        keep.close()
    return figures
