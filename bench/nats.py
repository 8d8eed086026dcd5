"""The nats driver in the whole runtime, beside nats-py's own fastest correct loops, on one real server.

Messages have no headers: what other producers write.
"""

import asyncio
import json
import time
import uuid
from functools import partial

import anyio
import msgspec
import nats
from nats.aio.msg import Msg

from bench import rival
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
    handle,
    median,
    new_channel,
    order,
)
from hexa_worker.config.nats import Nats
from hexa_worker.drivers.nats import NatsDriver

COUNT = 100_000
RIVAL = 40_000
PULL = 500


async def fill(address: str, channel: str) -> float:
    """Publish plain messages with nats-py as other producers do; seconds it took."""
    client = await nats.connect(address)
    await client.jetstream().add_stream(name=channel, subjects=[channel])
    begin = time.perf_counter()
    stream = client.jetstream(publish_async_max_pending=4_000)
    for _ in range(COUNT // 1_000):
        futures = [await stream.publish_async(channel, PAYLOAD) for _ in range(1_000)]
        await asyncio.gather(*futures)
    took = time.perf_counter() - begin
    await client.close()
    return took


async def raw_consume(address: str, channel: str) -> float:
    """nats-py: an own pull loop into a callback that decodes, calls a handler and acknowledges each; seconds."""
    client = await nats.connect(address)
    stream, durable = channel.replace(".", "~"), uuid.uuid4().hex
    await client.jetstream().add_consumer(
        stream,
        durable_name=durable,
        ack_policy="explicit",  # nats-py takes its value too
        max_ack_pending=50_000,
    )
    inbox, left, asked, begin, done = client.new_inbox(), COUNT, 0, 0.0, asyncio.Event()
    request = json.dumps({"batch": PULL, "expires": 30_000_000_000}).encode()

    async def pull() -> None:
        nonlocal asked
        asked += PULL
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}", request, reply=f"{inbox}.{asked}")

    async def each(message: Msg) -> None:
        nonlocal left, asked, begin
        if not message.reply:
            return  # a status
        await handle(decode(message.data), None)  # type: ignore[arg-type]  # it does not look at it
        await message.ack()
        begin = begin or time.perf_counter()  # after the first message, as for the worker
        left -= 1
        asked -= 1
        if asked <= PULL:
            await pull()
        if not left:
            done.set()

    await client.subscribe(f"{inbox}.*", cb=each)
    await pull()
    await pull()
    await done.wait()
    await client.flush()
    took = time.perf_counter() - begin
    await client.jetstream().delete_consumer(stream, durable)
    await client.close()
    return took


async def raw_emit(address: str, channel: str) -> float:
    """nats-py: publish_async with ids, a batch at a time, each batch confirmed; seconds."""
    client = await nats.connect(address)
    stream = client.jetstream()
    begin = time.perf_counter()
    for _ in range(EMITTED // BATCH):
        futures = [
            await stream.publish_async(channel, PAYLOAD, headers={"Nats-Msg-Id": uuid.uuid4().hex})
            for _ in range(BATCH)
        ]
        await asyncio.gather(*futures)
    took = time.perf_counter() - begin
    await client.close()
    return took


async def raw_latency(address: str, channel: str) -> list[float]:
    """nats-py alone: publish, and a push subscription that acknowledges."""
    client = await nats.connect(address)
    stream, seen = client.jetstream(), list[float]()
    await stream.add_stream(name=channel.replace(".", "~"), subjects=[channel])

    async def each(message: Msg) -> None:
        seen.append(time.perf_counter() - decode(message.data).amount)
        await message.ack()

    await stream.subscribe(channel, cb=each, manual_ack=True)
    for _ in range(LATENCIES):
        await stream.publish(channel, msgspec.json.encode(order(time.perf_counter())))
        await asyncio.sleep(PACE_S)
    await asyncio.sleep(0.2)
    await client.close()
    return sorted(seen)


def measure(address: str) -> list[Figure]:
    """Consume, emit and latency."""
    broker = Nats(servers=(address,))
    ours = Ours(broker, lambda: NatsDriver(broker))
    channel, emitting = new_channel(), new_channel()
    anyio.run(fill, address, channel)
    figures: list[Figure] = []
    for loop in LOOPS:
        raw = Raw(median(loop, raw_consume, address, channel), "own pull loop, callback, decode, ack each")
        mine = median(loop, ours.consume, channel, COUNT)
        figures.append(consumed(f"whole runtime, {loop}", COUNT, mine, raw, 0.95))
    figures.append(rival.compare("per message", rival.nats_singles, COUNT / mine, 5, address, channel, RIVAL))
    mine = median("uvloop", ours.emit, emitting)
    raw = Raw(median("uvloop", raw_emit, address, emitting), "publish_async")
    figures.append(emitted("uvloop", mine, raw, 20_000))
    return [*figures, *delays(ours, partial(raw_latency, address), "push subscription")]
