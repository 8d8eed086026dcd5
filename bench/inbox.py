"""A handler that writes a row: in `ctx.transaction`, behind claims in Redis, and with neither; one at a time."""

import os
from typing import Any

import anyio
import psycopg

from bench.figures import Figure
from bench.memory import drain
from bench.runtime import Order
from hexa_worker import Context, subscribe
from hexa_worker.config.dedup import Dedup
from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.config.secret import Secret

COUNT = 5_000
_URL = "BENCH_INBOX_URL"
_open: list[Any] = []
_claims = [False]


@subscribe("orders", action="handle", concurrency=1)
async def handle(order: Order, ctx: Context) -> None:
    """A row, in a transaction of its own, or in one that claims the event."""
    if not _open:
        connection = await psycopg.AsyncConnection.connect(os.environ[_URL], autocommit=True)
        await connection.execute("SET synchronous_commit = off")
        _open.append(connection)
    connection = _open[0]
    async with ctx.transaction(connection) if _claims[0] else connection.transaction():
        await connection.execute("INSERT INTO orders VALUES (1, %s)", (order.customer,))


def measure(url: str, redis: str) -> list[Figure]:
    """What each way adds to an event, side by side.

    Args:
        url: of a database with an outbox and a table ``orders``.
        redis: address of the claim store.
    """
    os.environ[_URL] = url
    claims = Dedup(store="redis", url=Secret(redis), namespace=f"bench-inbox-{os.getpid()}", timeout_s=5.0)
    outbox = OutboxConfig(url=Secret(url), relay=False)
    took: list[float] = []
    for own_claims, dedup in ((False, None), (False, None), (True, None), (False, claims)):  # the first one warms up
        _claims[0] = own_claims
        took.append(anyio.run(_drain, dedup, outbox) / COUNT * 1e6)
    _, plain, claimed, remembered = took
    return [
        Figure(
            "a handler that writes a row, in ctx.transaction, beside claims in Redis",
            f"+{claimed - plain:.0f} µs",
            f"+{remembered - plain:.0f} µs with claims in Redis; {plain:.0f} µs with neither",
        )
    ]


async def _drain(dedup: Dedup | None, outbox: OutboxConfig) -> float:
    try:
        return await drain(COUNT, dedup, handlers=__name__, outbox=outbox)
    finally:
        while _open:
            await _open.pop().close()
