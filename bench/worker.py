"""The worker as a whole, through the real command line: start-up, memory, idle cost, growth."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench.embedded import ENVIRONMENT, HANDLER, fill, project, run, seen, start
from bench.figures import Figure, milliseconds, rate

RETRYING = HANDLER.replace("    count +=", '    if ctx.attempt == 0:\n        raise ValueError("once")\n    count +=')
STAMPING = """
import time
from hexa_worker import Context, subscribe

@subscribe("orders", action="handle")
async def handle(order: dict, ctx: Context) -> None:
    open("first", "a").write(f"{time.monotonic()}\\n")
"""


def stop(worker: psutil.Popen) -> None:
    """Drain it."""
    worker.terminate()
    worker.wait()


def first_message(runs: int = 7) -> Figure:
    """From the start of the command to the handler's first call, with one event waiting."""
    delays = []
    for _ in range(runs):
        with project(handler=STAMPING) as path:
            fill(path, 1)
            begin = time.monotonic()
            worker = start(path, "run")
            while not (path / "first").exists() or not (path / "first").read_text():
                time.sleep(0.002)
            delays.append(float((path / "first").read_text().split()[0]) - begin)
            stop(worker)
    delays.sort()
    bare = min(_bare_start() for _ in range(runs))
    return Figure(
        name=f"first message after start (median of {runs})",
        value=milliseconds(delays[runs // 2]),
        raw=f"{milliseconds(bare)} (python -c 'import asyncio')",
        ratio=delays[runs // 2] / bare,
        bar="≤ 350 ms",
        met=delays[runs // 2] <= 0.35,
    )


def _bare_start() -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    return time.monotonic() - begin


def memory_and_idle(seconds: float = 20.0) -> list[Figure]:
    """What an idle worker costs, after it has handled 100,000 events."""
    with project(processes=2) as path:
        fill(path, 100_000)
        worker = start(path, "run")
        time.sleep(5)
        children = worker.children()
        parent_mib, child_mib = _mib(worker), max(_mib(child) for child in children)
        before = [sum(child.cpu_times()[:2]) for child in (worker, *children)]
        time.sleep(seconds)
        spent = [sum(child.cpu_times()[:2]) - was for child, was in zip((worker, *children), before, strict=True)]
        stop(worker)
    idle = max(spent) / seconds * 100
    return [
        Figure(
            name="memory of a child after 100,000 events (RSS)",
            value=f"{child_mib:.1f} MiB",
            bar="≤ 45 MiB",
            met=child_mib <= 45,
        ),
        Figure(name="memory of the parent (RSS)", value=f"{parent_mib:.1f} MiB", bar="≤ 25 MiB", met=parent_mib <= 25),
        Figure(name="idle, busiest process", value=f"{idle:.2f} % of a core", bar="< 1 %", met=idle < 1),
    ]


def _mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def growth() -> list[Figure]:
    """More processes, more subscriptions, a longer backlog: what each costs per event."""
    figures = []
    base = 0.0
    for processes in (1, 2, 4):
        with project(processes=processes) as path:
            fill(path, 300_000)
            run(path, "run", "--until-idle")
            span, handled = seen(path)
        base = base or span
        figures.append(
            Figure(name=f"drain 300,000, {processes} processes", value=rate(handled, span), ratio=base / span)
        )
    base = 0.0
    for subscriptions in (1, 8, 64):
        handler = HANDLER + "".join(
            f"@subscribe('orders', action='more-{number}')\n"
            f"async def more_{number}(order: Order, ctx: Context) -> None:\n"
            "    await handle(order, ctx)\n"
            for number in range(subscriptions - 1)
        )
        with project(handler=handler) as path:
            fill(path, 256_000 // subscriptions)
            run(path, "run", "--until-idle")
            span, handled = seen(path)
        base = base or span / handled
        figures.append(
            Figure(
                name=f"{subscriptions} subscriptions, {handled:,} deliveries",
                value=rate(handled, span),
                ratio=base / (span / handled),
            )
        )
    base = 0.0
    for backlog in (1_000, 10_000, 100_000, 1_000_000):
        with project() as path:
            fill(path, backlog)
            worker = start(path, "run", "--until-idle")
            peak = 0.0
            while worker.poll() is None:
                for child in worker.children():
                    peak = max(peak, _mib(child))
                time.sleep(0.05)
            span, handled = seen(path)
        figures.append(
            Figure(name=f"backlog of {backlog:,}", value=f"{rate(handled, span)}, child's peak {peak:.1f} MiB")
        )
    return figures


def retries() -> list[Figure]:
    """What a retry costs beside a success, and what a million delayed events cost the live ones."""
    pairs = [(_per_event(HANDLER), _per_event(RETRYING)) for _ in range(3)]
    success, retried = (statistics.median(times) for times in zip(*pairs, strict=True))
    extra = retried - success
    pairs = [(_live(0), _live(1_000_000)) for _ in range(2)]
    alone, beside = (statistics.median(times) for times in zip(*pairs, strict=True))
    return [
        Figure(
            name="a failure and its retry, beside a success",
            value=f"{extra * 1e6:.1f} µs",
            raw=f"{success * 1e6:.1f} µs",
            ratio=extra / success,
            bar="≤ 5 x",
            met=extra <= 5 * success,
        ),
        Figure(
            name="live events beside 1,000,000 delayed ones",
            value=rate(1, beside),
            raw=f"{rate(1, alone)} (without)",
            ratio=alone / beside,
            bar="≥ 0.8",
            met=alone / beside >= 0.8,
        ),
    ]


def _per_event(handler: str, count: int = 100_000) -> float:
    """Seconds per stored event from the first handler call to the last, a retry's delay being nothing."""
    with project(handler=handler) as path:
        with (path / "worker.toml").open("a") as file:
            file.write("[subscriptions.handle.retry]\ninitial_interval_s = 0\n")
        fill(path, count)
        run(path, "run", "--until-idle")
        return seen(path)[0] / count


def _live(delayed: int, count: int = 300_000) -> float:
    """Seconds per live event beside so many that are not due."""
    with project() as path:
        fill(path, delayed, delayed=True)
        fill(path, count)
        worker = start(path, "run")
        time.sleep(count / 60_000)  # whoever asks takes a core: not before it is likely to be done
        while not _drained(path):
            time.sleep(1)
        stop(worker)
        span, handled = seen(path)
        return span / handled


def _drained(path: Path) -> bool:
    """Whether nothing is ready or in hand, asked of the command line."""
    command = [sys.executable, "-m", "hexa_worker", "lag", "--json"]
    rows = json.loads(subprocess.run(command, cwd=path, env=ENVIRONMENT, capture_output=True, check=True).stdout)
    return all(not row["ready"] and not row["leased"] for row in rows)
