"""The runtime's own cost: the memory driver, a 200-byte JSON to a Struct, an async handler, all defaults.

The raw limit is a bare loop over the same records: decode and await, no ack, no retry, no bounds.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from bench.figures import Figure, rate
from bench.runtime import PAYLOAD, Order, decode
from hexa_worker import Context, app, subscribe
from hexa_worker.config.dedup import Dedup
from hexa_worker.config.model import Config, File, Memory, WorkerConfig
from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.drivers.opening import specs
from hexa_worker.processes.journal import MappedJournal
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.loader import load_plans
from hexa_worker.telemetry.report import Report

COUNT = 500_000
BARS = {"uvloop": 250_000, "asyncio": 200_000, "trio": 200_000}


@subscribe("orders", action="handle")
async def handle(order: Order, ctx: Context) -> None:
    """Do nothing, as fast as possible."""


def measure() -> list[Figure]:
    """One line per backend, the bare loop beside it."""
    return [_measure(name) for name in BARS]


def _measure(name: str) -> Figure:
    options = {"use_uvloop": True} if name == "uvloop" else {}
    backend = "trio" if name == "trio" else "asyncio"
    ours = anyio.run(drain, backend=backend, backend_options=options)
    bare = anyio.run(_bare, backend=backend, backend_options=options)
    return Figure(
        name=f"memory driver, {name}",
        value=f"{rate(COUNT, ours)} ({ours / COUNT * 1e6:.2f} µs each)",
        raw=rate(COUNT, bare),
        ratio=bare / ours,
        bar=f"≥ {BARS[name]:,}/s",
        met=COUNT / ours >= BARS[name],
    )


def _records(count: int) -> list[Message]:
    return [
        Message(channel="orders", payload=PAYLOAD, key=b"ada", headers=(("hexa-event-id", b"%032x" % number),))
        for number in range(count)
    ]


async def _bare() -> float:
    records = _records(COUNT)
    begin = time.perf_counter()
    for record in records:
        await handle(decode(record.payload), None)  # type: ignore[arg-type]  # the bare loop has no context
    return time.perf_counter() - begin


async def drain(
    count: int = COUNT,
    dedup: Dedup | None = None,
    *,
    handlers: str = "bench.memory",
    outbox: OutboxConfig | None = None,
) -> float:
    """Seconds from the first delivery received to the last one settled, with crash journal and metrics on."""
    worker = WorkerConfig(name="bench", handlers=(handlers,))
    file = File(worker=worker, broker=Memory(), dedup=dedup or Dedup(), outbox=outbox)
    config = Config(path=Path(__file__).parent.parent / "worker.toml", file=file)
    loaded = load_plans(config)
    store = MemoryStore()
    store.declare(specs(loaded)[0])
    for record in _records(count):
        store.append(record)
    ends: list[float] = []
    stop = StopSignals()

    def settled(_action: str, batch: Sequence[Settlement], _now_ms: int) -> None:
        left[0] -= len(batch)
        if left[0] <= 0 and not ends:
            ends.append(time.perf_counter())
            stop.ask()

    def report(_report: Report) -> None:
        """Reports are made as in a worker process; nobody reads them here."""

    left = [count]
    with TemporaryDirectory() as folder:
        journal = MappedJournal(Path(folder) / "journal")
        begin = time.perf_counter()
        options = app.ServeOptions(driver=MemoryDriver(store), journal=journal, record=settled, report=report)
        await app.serve(config, loaded, stop, options)
    return ends[0] - begin
