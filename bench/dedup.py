"""What deduplication costs per message: the memory driver with claims in a local Redis, and without them.

The raw limit is redis-py alone: the same claims as SETs in pipelines of as many, two round trips for each event
(claimed, done), without asking who has it, without leases that are extended, without a worker.
"""

import os
import time
import uuid
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

import anyio
import psutil
import redis.asyncio as redis_client

from bench.figures import Figure
from bench.memory import drain
from hexa_worker.config.dedup import Dedup
from hexa_worker.config.secret import Secret

COUNT = 50_000
ROUNDS = 3
RAW_BATCH = 500
BAR_US = 15.0
BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "asyncio": ("asyncio", {}),
    "trio": ("trio", {}),
}


def measure(address: str, server: int) -> list[Figure]:
    """One line per backend and clock: the difference that claims make, beside redis-py alone.

    Args:
        address: of Redis, flushed between rounds.
        server: its process id.
    """
    figures: list[Figure] = []
    for name, (backend, options) in BACKENDS.items():

        def run(function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> tuple[float, float, float]:
            return _timed(server, lambda: anyio.run(function, *args, backend=backend, backend_options=options))  # noqa: B023

        rounds: list[tuple[tuple[float, ...], ...]] = []
        for _ in range(ROUNDS):  # side by side, so that a busy machine makes all of them slower
            raw = _timed(server, lambda: anyio.run(_raw, address))
            rounds.append((run(drain, COUNT), run(drain, COUNT, _claims(address)), raw))
            anyio.run(_flush, address)
        figures += _figures(name, rounds)
    return figures


def _figures(name: str, rounds: list[tuple[tuple[float, ...], ...]]) -> list[Figure]:
    def cost(clock: int) -> tuple[float, float]:
        return median(per(ours[clock] - without[clock]) for without, ours, _ in rounds), median(
            per(raw[clock]) for *_, raw in rounds
        )

    def per(seconds: float) -> float:
        return seconds / COUNT * 1e6

    figures = []
    for clock, label in enumerate(("wall", "CPU of the worker", "CPU of Redis")):
        ours, raw = cost(clock)
        barred = clock == 0
        figures.append(
            Figure(
                name=f"claims in Redis, {name}, {label}",
                value=f"{ours:.1f} µs a message",
                raw=f"{raw:.1f} µs (redis-py alone)",
                ratio=raw / ours,
                bar=f"<= {BAR_US:.0f} µs" if barred else "",
                met=ours <= BAR_US if barred else None,
            )
        )
    return figures


def _timed(server: int, run: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds of a run: wall (as the run says, or as it took), our CPU, the server's CPU."""
    times = psutil.Process(server).cpu_times
    before, ours, wall = times(), os.times(), time.perf_counter()
    said = run()
    wall = said if isinstance(said, float) else time.perf_counter() - wall
    now, after = os.times(), times()
    own = now.user + now.system - ours.user - ours.system
    return wall, own, after.user + after.system - before.user - before.system


def _claims(address: str) -> Dedup:
    return Dedup(store="redis", url=Secret(address), namespace=f"bench-{uuid.uuid4().hex}", timeout_s=5.0)


async def _raw(address: str) -> float:
    client = redis_client.Redis.from_url(address)
    names = [f"raw-{uuid.uuid4().hex}-{number}" for number in range(COUNT)]
    begin = time.perf_counter()
    for start in range(0, COUNT, RAW_BATCH):
        for value in ("claimed", "done"):
            pipeline = client.pipeline(transaction=False)
            for name in names[start : start + RAW_BATCH]:
                pipeline.set(name, value, px=60_000, nx=value == "claimed")
            await pipeline.execute()
    seconds = time.perf_counter() - begin
    await client.aclose()
    return seconds


async def _flush(address: str) -> None:
    client = redis_client.Redis.from_url(address)
    await client.flushall()
    await client.aclose()
