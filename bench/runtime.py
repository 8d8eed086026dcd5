"""The whole runtime with its defaults on any broker: what the sections of the brokers share.

Each section brings its broker's table and driver, the raw client's loops, and the bars. Messages are about 200 bytes
of JSON. Times of consuming begin after the first messages on both sides, so that connecting is not measured.
"""

import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec

from bench.figures import Figure, milliseconds, rate
from hexa_worker import Context, app, subscribe
from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Broker, Config, File, Subscription, WorkerConfig
from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.drivers.base import Driver
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.loader import load_plans

EMITTED = 50_000
BATCH = 500
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


def order(amount: float = 12.5) -> Order:
    """One of them."""
    return Order(1, "ada", amount, "x" * 150)


PAYLOAD = msgspec.json.encode(order())
decode = msgspec.json.Decoder(Order).decode
latencies: list[float] = []


@subscribe("orders", action="handle")
async def handle(order: Order, _ctx: Context) -> None:
    """Do nothing, as fast as possible."""


@subscribe("orders", action="measure")
async def measure_latency(order: Order, _ctx: Context) -> None:
    """Note how long the event was under way."""
    latencies.append(time.perf_counter() - order.amount)


def new_channel() -> str:
    """A name that nothing has yet."""
    return f"bench-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class Ours:
    """The runtime on one broker.

    Attributes:
        broker: the ``[broker]`` table: defaults, and where the broker is.
        driver: a new driver for it.
    """

    broker: Broker
    driver: Callable[[], Driver]

    def _config(self, channel: str, action: str, group: str) -> Config:
        return Config(
            path=Path(__file__).parent.parent / "worker.toml",
            file=File(
                worker=WorkerConfig(name="bench", handlers=("bench.runtime",)),
                broker=self.broker,
                subscriptions={
                    name: Subscription(channel=channel, group=group, enabled=name == action)
                    for name in ("handle", "measure")
                },
            ),
        )

    async def consume(self, channel: str, count: int, group: str = "") -> float:
        """Seconds from the first settlement of `count` stored messages to the last."""
        config = self._config(channel, "handle", group or uuid.uuid4().hex)
        stop, left, marks = StopSignals(), [count], list[float]()

        def settled(_action: str, batch: Sequence[Settlement], _now_ms: int) -> None:
            assert all(isinstance(one, Acked) for one in batch)
            if left[0] == count:
                marks.append(time.perf_counter())
            left[0] -= len(batch)
            if left[0] <= 0:
                marks.append(time.perf_counter())
                stop.ask()

        await app.serve(config, load_plans(config), stop, app.ServeOptions(record=settled))
        assert left[0] == 0, f"{left[0]} left"
        return marks[-1] - marks[0]

    async def emit(self, channel: str, keys: int = 0) -> float:
        """Seconds that `EventEncoder.emit_many` takes for `EMITTED` events, `BATCH` at a time, each confirmed."""
        driver = self.driver()
        await driver.open()
        emitter = EventEncoder(driver, SystemClock(), msgspec.json.encode)
        events = [
            Event(channel=channel, payload=order(), key=f"customer-{number % keys}" if keys else None)
            for number in range(BATCH)
        ]
        await emitter.emit_many(events)
        begin = time.perf_counter()
        for _ in range(EMITTED // BATCH):
            answers = await emitter.emit_many(events)
            assert all(isinstance(answer, str) for answer in answers)
        took = time.perf_counter() - begin
        await driver.close()
        return took

    async def latency(self, channel: str) -> list[float]:
        """Sorted seconds from emit to handler, at 500 a second."""
        config = self._config(channel, "measure", uuid.uuid4().hex)
        stop = StopSignals()
        latencies.clear()
        driver = self.driver()
        await driver.open()
        emitter = EventEncoder(driver, SystemClock(), msgspec.json.encode)

        async def emit_one() -> None:
            await emitter.emit(Event(channel=channel, payload=order(time.perf_counter())))

        async def emit() -> None:
            while not latencies:
                await anyio.sleep(0.05)
            await anyio.sleep(0.5)
            for _ in range(LATENCIES):
                await emit_one()
                await anyio.sleep(PACE_S)
            await anyio.sleep(0.3)
            stop.ask()

        await emit_one()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit)
            await app.serve(config, load_plans(config), stop, app.ServeOptions())
        await driver.close()
        assert len(latencies) > LATENCIES, f"{len(latencies)} of {LATENCIES + 1} seen"
        return sorted(latencies[1:])  # the first one waited for the worker


def median(loop: str, measured: Callable[..., Awaitable[float]], *arguments: Any) -> float:
    """The median of a few runs on a loop of `LOOPS`."""
    return statistics.median(anyio.run(measured, *arguments, backend_options=LOOPS[loop]) for _ in range(RUNS))


class Raw(NamedTuple):
    """What the raw client took, and how it did it."""

    seconds: float
    how: str


def consumed(name: str, count: int, ours: float, raw: Raw, bar: float) -> Figure:
    """A line on consuming `count` messages in so many seconds, beside the raw client."""
    return Figure(
        name=f"consume, {name}",
        value=f"{rate(count, ours)} ({ours / count * 1e6:.2f} µs each)",
        raw=f"{rate(count, raw.seconds)} ({raw.how})",
        ratio=raw.seconds / ours,
        bar=f"≥ {bar}",
        met=raw.seconds / ours >= bar,
    )


def emitted(name: str, ours: float, raw: Raw, bar: int) -> Figure:
    """A line on emitting `EMITTED` events in so many seconds, beside the raw client."""
    return Figure(
        name=f"emit, batches of {BATCH}, {name}, confirmed",
        value=rate(EMITTED, ours),
        raw=f"{rate(EMITTED, raw.seconds)} ({raw.how})",
        ratio=raw.seconds / ours,
        bar=f"≥ {bar:,}/s",
        met=EMITTED / ours >= bar,
    )


def delays(ours: Ours, raw: Callable[[str], Awaitable[list[float]]], how: str) -> list[Figure]:
    """Latency from emit to handler, ours beside the raw client's, each on a channel of its own."""
    mine, theirs = (
        anyio.run(measured, new_channel(), backend_options=LOOPS["uvloop"]) for measured in (ours.latency, raw)
    )
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        one, other = mine[int(len(mine) * share)], theirs[int(len(theirs) * share)]
        figures.append(
            Figure(
                name=f"latency emit to handler at 500/s, {name}",
                value=milliseconds(one),
                raw=f"{milliseconds(other)} ({how})",
                ratio=one / other,
                bar="≤ 1.5",
                met=one <= 1.5 * other,
            )
        )
    return figures
