"""The embedded broker through the real command line, beside a bare sqlite3 range-lease loop on the same disk.

What is measured is what users run: `hexa-worker emit --file` is not (it parses JSON lines); publishing goes
through the driver in batches of 500, draining through `hexa-worker run --until-idle` with the defaults.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import psutil

from bench.figures import Figure, milliseconds, rate
from hexa_worker.clock import SystemClock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.embedded import EmbeddedDriver

COUNT = 1_000_000
PAYLOAD = json.dumps({"id": 1, "customer": "ada", "amount": 12.5, "note": "x" * 150}, separators=(",", ":")).encode()
HANDLER = """
import time
import msgspec
from hexa_worker import Context, Retry, subscribe

class Order(msgspec.Struct):
    id: int
    customer: str
    amount: float
    note: str

first = last = 0.0
count = 0

@subscribe("orders", action="handle")
async def handle(order: Order, ctx: Context) -> None:
    global first, last, count
    if not first:
        first = time.monotonic()
    count += 1
    last = time.monotonic()

import atexit, os
atexit.register(lambda: open(f"seen.{os.getpid()}", "w").write(f"{first} {last} {count}"))
"""


@contextmanager
def project(durability: str = "normal", processes: int = 1, handler: str = HANDLER) -> Iterator[Path]:
    """A project folder in a temporary place."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "h.py").write_text(handler)
        (path / "worker.toml").write_text(
            f'[worker]\nname = "bench"\nhandlers = ["h"]\nprocesses = {processes}\n'
            f'[broker]\ndriver = "embedded"\npath = "var/hexa.db"\ndurability = "{durability}"\n'
        )
        yield path


# As installed: byte code is kept, whatever the shell that measures says.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def start(path: Path, *arguments: str) -> psutil.Popen:
    """Start the command line in a project."""
    return psutil.Popen(
        [sys.executable, "-m", "hexa_worker", *arguments],
        cwd=path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run(path: Path, *arguments: str) -> float:
    """Run the command line in a project; seconds it took."""
    begin = time.perf_counter()
    code = start(path, *arguments).wait()
    if code:
        raise RuntimeError(f"{arguments} ended with {code}")
    return time.perf_counter() - begin


def seen(path: Path) -> tuple[float, int]:
    """Seconds between the first and the last handler call of all processes, and how many calls there were."""
    marks = [[float(word) for word in file.read_text().split()] for file in path.glob("seen.*")]
    marks = [mark for mark in marks if mark[2]]
    span = max(mark[1] for mark in marks) - min(mark[0] for mark in marks)
    return span, int(sum(mark[2] for mark in marks))


def fill(path: Path, count: int, durability: str = "normal", *, delayed: bool = False) -> float:
    """Publish `count` events in batches of 500; seconds it took."""

    async def publish() -> float:
        options = Embedded(path="var/hexa.db", durability=durability)  # type: ignore[arg-type]  # one of the two
        driver = EmbeddedDriver(path / "var/hexa.db", options, SystemClock())
        await driver.open()
        try:
            await driver.declare([SPEC])
            channel = "handle.retry.1" if delayed else "orders"
            due = SystemClock().now_ms() + 3_600_000 if delayed else 0
            begin = time.perf_counter()
            for start in range(0, count, 500):
                await driver.publish(
                    [
                        Message(
                            channel=channel,
                            payload=PAYLOAD,
                            key=b"ada",
                            headers=(("hexa-event-id", b"%032x" % number),),
                            due_ms=due,
                        )
                        for number in range(start, min(start + 500, count))
                    ]
                )
            return time.perf_counter() - begin
        finally:
            await driver.close()

    return anyio.run(publish)


SPEC = SubscriptionSpec(
    action="handle", group="handle", channels=("orders",), retry_base="handle", retry_count=4, order_by=OrderBy.NONE
)


def bare(count: int, durability: str, folder: Path) -> tuple[float, float]:
    """The raw limit: sqlite3 alone, publish in batches of 500 and drain by range leases of 200; seconds of each."""
    database = sqlite3.connect(folder / "bare.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={durability}")
    database.executescript(
        "CREATE TABLE log(id INTEGER PRIMARY KEY, key BLOB, headers BLOB, payload BLOB, at INTEGER);"
        "CREATE TABLE position(name TEXT PRIMARY KEY, next INTEGER); INSERT INTO position VALUES('s', 1);"
        "CREATE TABLE lease(lo INTEGER PRIMARY KEY, hi INTEGER, owner TEXT, expires REAL);"
    )
    begin = time.perf_counter()
    for start in range(0, count, 500):
        rows = [(b"ada", b"\x91" * 40, PAYLOAD, 1) for _ in range(500)]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO log(key, headers, payload, at) VALUES(?, ?, ?, ?)", rows)
        database.execute("COMMIT")
        del start
    published = time.perf_counter() - begin
    begin, done = time.perf_counter(), 0
    held: int | None = None
    while True:
        database.execute("BEGIN IMMEDIATE")
        if held is not None:
            database.execute("DELETE FROM lease WHERE lo = ?", (held,))
        held = database.execute("SELECT next FROM position WHERE name = 's'").fetchone()[0]
        found = database.execute("SELECT * FROM log WHERE id >= ? ORDER BY id LIMIT 200", (held,)).fetchall()
        if found:
            database.execute("UPDATE position SET next = ? WHERE name = 's'", (found[-1][0] + 1,))
            database.execute("INSERT INTO lease VALUES(?, ?, 'me', ?)", (held, found[-1][0] + 1, time.time() + 30))
        database.execute("COMMIT")
        done += len(found)
        if not found:
            break
    drained = time.perf_counter() - begin
    database.close()
    return published, drained


def measure(count: int = COUNT) -> list[Figure]:
    """Publish and drain at both durabilities, and with two processes."""
    figures: list[Figure] = []
    for durability, bar in (("normal", 120_000), ("full", 80_000)):
        with project(durability) as path:
            bare_publish, bare_drain = bare(count, durability, path)
            ours_publish = fill(path, count, durability)
            run(path, "run", "--until-idle")
            span, handled = seen(path)
        figures.append(
            Figure(
                name=f"publish, batches of 500, {durability}",
                value=rate(count, ours_publish),
                raw=rate(count, bare_publish),
                ratio=bare_publish / ours_publish,
                bar="≥ 150,000/s" if durability == "normal" else "",
                met=count / ours_publish >= 150_000 if durability == "normal" else None,
            )
        )
        figures.append(
            Figure(
                name=f"drain {handled:,} stored, one process, {durability}",
                value=rate(handled, span),
                raw=rate(count, bare_drain),
                ratio=bare_drain / count / (span / handled),
                bar=f"≥ {bar:,}/s and ≥ 0.4",
                met=handled / span >= bar and bare_drain / count / (span / handled) >= 0.4,
            )
        )
        if durability == "normal":
            with project(processes=2) as path:
                fill(path, count)
                run(path, "run", "--until-idle")
                span_two, handled_two = seen(path)
            figures.append(
                Figure(
                    name=f"drain {handled_two:,} stored, two processes, normal",
                    value=rate(handled_two, span_two),
                    raw=f"{rate(handled, span)} (one process)",
                    ratio=span / span_two,
                    bar="faster than one",
                    met=span_two < span,
                )
            )
    return figures


def latency() -> Figure:
    """Emit in this process, handle in another, idle otherwise: milliseconds from emit to handler."""
    handler = (
        "import time\nfrom hexa_worker import Context, subscribe\n"
        "@subscribe('orders', action='handle')\n"
        "async def handle(sent: float, ctx: Context) -> None:\n"
        "    with open('delays', 'a') as file:\n"
        "        file.write(f'{time.monotonic() - sent}\\n')\n"
    )
    with project(handler=handler) as path:
        worker = start(path, "run")
        try:
            delays = anyio.run(_emit_slowly, path)
        finally:
            worker.terminate()
            worker.wait()
    delays.sort()
    p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    return Figure(
        name="emit in one process to handler in another, idle",
        value=f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)}",
        bar="p50 ≤ 5 ms, p99 ≤ 30 ms",
        met=p50 <= 0.005 and p99 <= 0.03,
    )


async def _emit_slowly(path: Path, count: int = 300) -> list[float]:
    driver = EmbeddedDriver(path / "var/hexa.db", Embedded(path="var/hexa.db"), SystemClock())
    await driver.open()
    await driver.declare([SPEC])
    delays = path / "delays"
    for number in range(count):
        await driver.publish([Message(channel="orders", payload=str(time.monotonic()).encode())])
        await anyio.sleep(0.02)
        while not delays.exists() and not number:
            await anyio.sleep(0.05)
    for _ in range(100):
        lines = delays.read_text().splitlines()
        if len(lines) == count:
            break
        await anyio.sleep(0.05)
    await driver.close()
    return [float(line) for line in lines[1:]]  # the first one waited for the worker to start
