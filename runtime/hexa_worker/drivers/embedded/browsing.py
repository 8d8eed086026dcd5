"""Looking at channels without consuming them, and removing what a person has dealt with."""

import sqlite3
from collections.abc import Sequence

from hexa_worker.core.channels import base_of
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import stripe_of
from hexa_worker.drivers.embedded.storage.records import COLUMNS, delayed_deliveries, log_deliveries
from hexa_worker.drivers.embedded.storage.schema import SEQUENCE_BITS, SEQUENCE_MASK, STRIPES


def browse(connection: sqlite3.Connection, channel: str, after: int, limit: int, since_ms: int = 0) -> list[Delivery]:
    """Up to `limit` records of `channel` with offsets above `after`, none written before `since_ms`."""
    after = max(after, -1)
    retry = _retry_channel(connection, channel)
    if retry is not None:
        base, number = retry
        first = base << SEQUENCE_BITS
        rows = connection.execute(
            f"SELECT {COLUMNS}, due_ms, attempt FROM delayed WHERE id > ? AND id <= ? AND attempt = ?"  # noqa: S608
            " AND at_ms >= ? ORDER BY id LIMIT ?",
            (first + after, first + SEQUENCE_MASK, number, since_ms, limit),
        ).fetchall()
        return delayed_deliveries(rows, base_of(channel), None)
    found = connection.execute("SELECT id FROM channels WHERE name = ?", (channel,)).fetchone()
    if found is None:
        return []
    first = found[0] << SEQUENCE_BITS
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM log WHERE id > ? AND id <= ? AND at_ms >= ? ORDER BY id LIMIT ?",  # noqa: S608 - constants of ours
        (first + after, first + SEQUENCE_MASK, since_ms, limit),
    ).fetchall()
    return log_deliveries(rows, channel, None)


def remove(connection: sqlite3.Connection, channel: str, offsets: Sequence[int]) -> int:
    """Delete records; returns how many were there. Inside a write transaction."""
    wanted = sorted({offset for offset in offsets if 0 <= offset <= SEQUENCE_MASK})
    retry = _retry_channel(connection, channel)
    if retry is not None:
        return _remove_delayed(connection, *retry, wanted)
    found = connection.execute("SELECT id, striped FROM channels WHERE name = ?", (channel,)).fetchone()
    if found is None:
        return 0
    id_, striped = found
    removed = 0
    for offset in wanted:
        row_id = (id_ << SEQUENCE_BITS) + offset
        rows = connection.execute("SELECT CAST(key AS BLOB) FROM log WHERE id = ?", (row_id,)).fetchall()
        if rows:
            removed += 1
            if striped:
                _count_as_read(connection, id_, offset, stripe_of(rows[0][0], offset, STRIPES))
            connection.execute("DELETE FROM log WHERE id = ?", (row_id,))
    return removed


def _count_as_read(connection: sqlite3.Connection, channel: int, offset: int, stripe: int) -> None:
    """Who reads by stripes counts what it leased: a record that never will be has to be counted here."""
    connection.execute(
        "UPDATE positions SET next = next + 1 WHERE channel = ?1 AND subscription IN ("
        " SELECT subscription FROM stripes WHERE channel = ?1 AND stripe = ?2 AND next <= ?3)",
        (channel, stripe, offset),
    )


def _remove_delayed(connection: sqlite3.Connection, base: int, number: int, offsets: Sequence[int]) -> int:
    first = base << SEQUENCE_BITS
    removed = 0
    for offset in offsets:
        cursor = connection.execute(
            "DELETE FROM schedule WHERE (base, due_ms, id) IN"
            " (SELECT base, due_ms, id FROM delayed WHERE id = ? AND attempt = ?)",
            (first + offset, number),
        )
        if cursor.rowcount:  # else somebody has it in hand
            connection.execute("DELETE FROM delayed WHERE id = ?", (first + offset,))
            removed += 1
    connection.execute("UPDATE retry_bases SET waiting = waiting - ? WHERE id = ?", (removed, base))
    return removed


def channels(connection: sqlite3.Connection) -> list[str]:
    """The names of all channels, sorted."""
    rows = connection.execute("SELECT name FROM channels UNION SELECT name FROM retry_channels").fetchall()
    return sorted(row[0] for row in rows)


def _retry_channel(connection: sqlite3.Connection, name: str) -> tuple[int, int] | None:
    row: tuple[int, int] | None = connection.execute(
        "SELECT base, number FROM retry_channels WHERE name = ?", (name,)
    ).fetchone()
    return row
