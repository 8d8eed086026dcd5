"""Tidying up behind everybody: trimming what all subscriptions have finished, keeping file and log small.

One process at a time does it, in its ticks, in small transactions and within a time budget, so that neither its
own deliveries nor the other processes wait for it. What has no subscription is kept, dead letters are kept.
"""

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hexa_worker.drivers.embedded.storage.schema import SEQUENCE_BITS
from hexa_worker.errors import DriverError

BATCH = 1_000
IDLE_BUDGET_S = 0.15
BUSY_BUDGET_S = 0.02
WAL_BYTES = 16 * 1024 * 1024
FREE_PAGES = 4_000
_PAGES = 500

Write = Callable[[Callable[[sqlite3.Connection], Any]], Any]

_FINISHED = """
    SELECT c.id, c.first, c.next, c.striped, (
        SELECT min(p.next) FROM positions p
        WHERE p.channel = c.id AND NOT EXISTS (
            SELECT 1 FROM stripes s WHERE s.subscription = p.subscription AND s.channel = p.channel)
    ), (SELECT min(l.low) FROM leases l WHERE l.channel = c.id)
    FROM channels c
    WHERE NOT c.dead_letter AND c.striped != 1 AND EXISTS (SELECT 1 FROM positions p WHERE p.channel = c.id)"""
_FINISHED_STRIPES = """
    SELECT min(coalesce((
        SELECT id FROM log INDEXED BY log_stripe
        WHERE stripe = s.stripe AND id >= ?1 + s.next AND id < ?1 + ?2 ORDER BY id LIMIT 1
    ) - ?1, ?2)) FROM stripes s WHERE s.channel = ?3"""


class Retention:
    """Remembers nothing but where the file is; any process may take over."""

    def __init__(self, path: Path) -> None:
        self._wal = Path(f"{path}-wal")

    def sweep(self, connection: sqlite3.Connection, write: Write, *, busy: bool) -> None:
        """Tidy up for a little while.

        Args:
            connection: for what only reads.
            write: runs a function in a write transaction of its own.
            busy: there is other work.
        """
        deadline = time.monotonic() + (BUSY_BUDGET_S if busy else IDLE_BUDGET_S)
        try:
            for channel, first, end in finished(connection):
                for upto in (*range(first + BATCH, end, BATCH), end):
                    if time.monotonic() > deadline:
                        return
                    write(partial(trim, channel=channel, upto=upto))
            if not busy:
                self._shrink(connection)
        except (sqlite3.Error, DriverError, OSError):
            return  # tidying up can wait; real work meets the same error and reports it

    def _shrink(self, connection: sqlite3.Connection) -> None:
        free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
        if free > FREE_PAGES:
            connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        if self._wal.stat().st_size > WAL_BYTES:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def finished(connection: sqlite3.Connection) -> list[tuple[int, int, int]]:
    """Channels of which something can go: id, its first sequence, and the first one that somebody still needs."""
    found: list[tuple[int, int, int]] = []
    for id_, first, end, striped, position, low in connection.execute(_FINISHED).fetchall():
        needed = min([at for at in (end, position, low) if at is not None])
        if striped and needed > first:
            base = id_ << SEQUENCE_BITS
            by_stripe = connection.execute(_FINISHED_STRIPES, (base, end, id_)).fetchone()[0]
            needed = needed if by_stripe is None else min(needed, by_stripe)
        if needed > first:
            found.append((id_, first, needed))
    return found


def trim(connection: sqlite3.Connection, channel: int, upto: int) -> None:
    """Delete a channel's records below sequence `upto`. Inside a write transaction."""
    first: int = connection.execute("SELECT first FROM channels WHERE id = ?", (channel,)).fetchone()[0]
    if upto <= first:
        return
    base = channel << SEQUENCE_BITS
    connection.execute("DELETE FROM log WHERE id >= ? AND id < ?", (base + first, base + upto))
    connection.execute("UPDATE channels SET first = ? WHERE id = ?", (upto, channel))
