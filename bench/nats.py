"""The nats driver in the whole runtime, beside nats-py's own fastest correct loops, on one real server.

``python -m bench.nats [ADDRESS]``; without an address a server of the broker lab is started. Messages are about 200
bytes of JSON, without headers: what other producers write.
"""

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import msgspec
import nats
from nats.aio.msg import Msg

from bench import rival
from bench.figures import Figure, milliseconds, rate, table
from hexa_worker import Context, app, subscribe
from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Config, File, Subscription, Worker
from hexa_worker.config.nats import Nats
from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.drivers.nats import NatsDriver
from hexa_worker.emitter import Emitter
from hexa_worker.handlers.api import Event
from hexa_worker.handlers.loader import load_plans
from hexa_worker.stop import StopSignals

COUNT = 100_000
EMITTED = 50_000
RUNS = 2
RIVAL = 40_000
PULL = 500
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
    decode = msgspec.json.Decoder(Order).decode
    client = await nats.connect(address)
    stream, durable = channel.replace(".", "~"), uuid.uuid4().hex
    await client.jetstream().add_consumer(
        stream,
        durable_name=durable,
        ack_policy="explicit",  # type: ignore[arg-type]  # nats-py takes its value too
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


def configured(address: str, channel: str, action: str) -> Config:
    """A worker with defaults."""
    return Config(
        path=Path(__file__).parent.parent / "worker.toml",
        file=File(
            worker=Worker(name="bench", handlers=("bench.nats",)),
            broker=Nats(servers=(address,)),
            subscriptions={
                name: Subscription(channel=channel, group=uuid.uuid4().hex, enabled=name == action)
                for name in ("handle", "measure")
            },
        ),
    )


async def our_consume(address: str, channel: str) -> float:
    """The whole runtime with defaults; seconds from its first settlement to its last."""
    config = configured(address, channel, "handle")
    stop, left, marks = StopSignals(), [COUNT], list[float]()

    def settled(_action: str, batch: Sequence[Settlement], _now_ms: int) -> None:
        assert all(isinstance(one, Acked) for one in batch)
        if left[0] == COUNT:
            marks.append(time.perf_counter())
        left[0] -= len(batch)
        if left[0] <= 0:
            marks.append(time.perf_counter())
            stop.ask()

    await app.serve(config, load_plans(config), stop=stop, record=settled)
    return marks[-1] - marks[0]


async def raw_emit(address: str, channel: str) -> float:
    """nats-py: publish_async with ids, 500 at a time, each batch confirmed; seconds."""
    client = await nats.connect(address)
    stream = client.jetstream()
    begin = time.perf_counter()
    for _ in range(EMITTED // 500):
        futures = [
            await stream.publish_async(channel, PAYLOAD, headers={"Nats-Msg-Id": uuid.uuid4().hex}) for _ in range(500)
        ]
        await asyncio.gather(*futures)
    took = time.perf_counter() - begin
    await client.close()
    return took


async def our_emit(address: str, channel: str) -> float:
    """`Emitter.emit_many` in batches of 500, each confirmed; seconds."""
    driver = NatsDriver(Nats(servers=(address,)))
    await driver.open()
    emitter = Emitter(driver, SystemClock(), msgspec.json.encode)
    events = [Event(channel=channel, payload=Order(1, "ada", 12.5, "x" * 150))] * 500
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
    latencies = import_module("bench.nats").latencies  # where the loaded handler writes, not in __main__
    latencies.clear()
    driver = NatsDriver(Nats(servers=(address,)))
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
    """The same with nats-py alone: publish, and a push subscription that acknowledges."""
    client = await nats.connect(address)
    stream, seen = client.jetstream(), list[float]()
    await stream.add_stream(name=channel.replace(".", "~"), subjects=[channel])

    async def each(message: Msg) -> None:
        seen.append(time.perf_counter() - msgspec.json.decode(message.data, type=Order).amount)
        await message.ack()

    await stream.subscribe(channel, cb=each, manual_ack=True)
    for _ in range(LATENCIES):
        await stream.publish(channel, msgspec.json.encode(Order(1, "ada", time.perf_counter(), "x" * 150)))
        await asyncio.sleep(PACE_S)
    await asyncio.sleep(0.2)
    await client.close()
    return sorted(seen)


def median(loop: str, measured: Callable[[str, str], Awaitable[float]], address: str, channel: str) -> float:
    """The median of a few runs."""
    return statistics.median(
        anyio.run(measured, address, channel, backend_options=LOOPS[loop])  # type: ignore[arg-type]
        for _ in range(RUNS)
    )


def measure(address: str) -> list[Figure]:
    """Consume, emit and latency."""
    figures: list[Figure] = []
    channel, emitted = f"bench-{uuid.uuid4().hex[:8]}", f"bench-{uuid.uuid4().hex[:8]}"
    anyio.run(fill, address, channel)
    for loop in LOOPS:
        raw, ours = median(loop, raw_consume, address, channel), median(loop, our_consume, address, channel)
        figures.append(
            Figure(
                name=f"consume, whole runtime, {loop}",
                value=f"{rate(COUNT, ours)} ({ours / COUNT * 1e6:.2f} µs each)",
                raw=f"{rate(COUNT, raw)} (own pull loop, callback, decode, ack each)",
                ratio=raw / ours,
                bar=">= 0.95",
                met=raw / ours >= 0.95,
            )
        )
    figures.append(rival.compare("per message", rival.nats_singles, COUNT / ours, 5, address, channel, RIVAL))
    ours = median("uvloop", our_emit, address, emitted)
    raw = median("uvloop", raw_emit, address, emitted)
    figures.append(
        Figure(
            name="emit, batches of 500, confirmed",
            value=rate(EMITTED, ours),
            raw=f"{rate(EMITTED, raw)} (publish_async)",
            ratio=raw / ours,
            bar=">= 20,000/s",
            met=EMITTED / ours >= 20_000,
        )
    )
    return [*figures, *_latency(address)]


def _latency(address: str) -> list[Figure]:
    ours = anyio.run(our_latency, address, f"bench-{uuid.uuid4().hex[:8]}", backend_options=LOOPS["uvloop"])
    raw = anyio.run(raw_latency, address, f"bench-{uuid.uuid4().hex[:8]}", backend_options=LOOPS["uvloop"])
    return [
        Figure(
            name=f"latency emit to handler at 500/s, {name}",
            value=milliseconds(ours[int(len(ours) * share)]),
            raw=f"{milliseconds(raw[int(len(raw) * share)])} (push subscription)",
            ratio=ours[int(len(ours) * share)] / raw[int(len(raw) * share)],
            bar="<= 1.5",
            met=ours[int(len(ours) * share)] <= 1.5 * raw[int(len(raw) * share)],
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def main() -> None:
    """Measure, print."""
    if len(sys.argv) > 1:
        print(table("NATS", measure(sys.argv[1])))
        return
    from tests.brokers.lab import Lab

    lab = Lab()
    try:
        print(table("NATS", measure(lab.get("nats").address)))
    finally:
        lab.close()


if __name__ == "__main__":
    main()
