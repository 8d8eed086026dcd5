"""Storing messages: in the log of their channel, or among the delayed records of their retry channel.

Everything here runs inside a write transaction of the caller.
"""

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from hexa_worker.core.message import Message
from hexa_worker.core.ordering import stripe_of
from hexa_worker.core.retry import MAX_DELAY_S
from hexa_worker.drivers.embedded.records import encode_headers
from hexa_worker.drivers.embedded.schema import SEQUENCE_BITS, STRIPES

_CHUNKS = (256, 64, 16, 4, 1)
"""Rows per INSERT. Many rows in one statement are one step of SQLite, in which the GIL is given up once and not
per row; few sizes keep the statements cached."""
_LOG_COLUMNS = ("id", "stripe", "at_ms", "key", "headers", "payload")
_DELAYED_COLUMNS = ("id", "base", "attempt", "due_ms", "since_ms", "at_ms", "key", "headers", "payload")
_MAX_DELAY_MS = round(MAX_DELAY_S * 1000)


def append(connection: sqlite3.Connection, messages: Sequence[Message], now_ms: int) -> list[str]:
    """Store `messages`; returns the id of each."""
    if len(messages) == 1:
        return _append_channel(connection, messages[0].channel, messages, now_ms)
    places: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        places.setdefault(message.channel, []).append(place)
    if len(places) == 1:
        return _append_channel(connection, messages[0].channel, messages, now_ms)
    ids = [""] * len(messages)
    for channel, indexes in places.items():
        stored = _append_channel(connection, channel, [messages[index] for index in indexes], now_ms)
        for index, id_ in zip(indexes, stored, strict=True):
            ids[index] = id_
    return ids


def _append_channel(
    connection: sqlite3.Connection, channel: str, messages: Sequence[Message], now_ms: int
) -> list[str]:
    count = len(messages)
    place = _reserve(connection, channel, count)
    if place is None:
        retry = connection.execute("SELECT base, number FROM retry_channels WHERE name = ?", (channel,)).fetchone()
        if retry is not None:
            return append_delayed(connection, channel, retry[0], retry[1], messages, now_ms)
        create_channel(connection, channel)
        place = _reserve(connection, channel, count)
        if place is None:
            raise sqlite3.DatabaseError(f"channel {channel} vanished")
    id_, end, striped = place
    first = end - count
    row_id = (id_ << SEQUENCE_BITS) + first
    flat: list[Any] = []
    for index, message in enumerate(messages):
        stripe = stripe_of(message.key, first + index, STRIPES) if striped else None
        headers = message.headers
        flat += (
            row_id + index,
            stripe,
            message.timestamp_ms or now_ms,
            message.key,
            encode_headers(headers) if headers else None,
            message.payload,
        )
    insert_rows(connection, "log", _LOG_COLUMNS, flat)
    return [f"{channel}-{offset}" for offset in range(first, end)]


def _reserve(connection: sqlite3.Connection, channel: str, count: int) -> tuple[int, int, int] | None:
    found: list[tuple[int, int, int]] = connection.execute(
        "UPDATE channels SET next = next + ? WHERE name = ? RETURNING id, next, striped", (count, channel)
    ).fetchall()
    return found[0] if found else None


def create_channel(connection: sqlite3.Connection, name: str, *, dead_letter: bool = False) -> int:
    """A new log, put in place for every subscription whose pattern it matches."""
    cursor = connection.execute("INSERT INTO channels (name, dead_letter) VALUES (?, ?)", (name, dead_letter))
    id_ = cursor.lastrowid
    if id_ is None:
        raise sqlite3.DatabaseError("no row id for a new channel")
    if not dead_letter:
        waiting = connection.execute(
            "SELECT id, pattern, by_key FROM subscriptions WHERE pattern IS NOT NULL"
        ).fetchall()
        for subscription, pattern, by_key in waiting:
            if re.fullmatch(pattern, name):
                place(connection, subscription, id_, 0, by_key=bool(by_key))
    return id_


def place(connection: sqlite3.Connection, subscription: int, channel: int, position: int, *, by_key: bool) -> None:
    """Let a subscription read a channel from `position` on."""
    connection.execute(
        "INSERT INTO positions (subscription, channel, next) VALUES (?, ?, ?)", (subscription, channel, position)
    )
    if by_key:
        stripe_positions(connection, subscription, channel, position)


def stripe_positions(connection: sqlite3.Connection, subscription: int, channel: int, position: int) -> None:
    """Positions for every stripe, and from now on stripes for what is stored."""
    connection.executemany(
        "INSERT INTO stripes (subscription, channel, stripe, next) VALUES (?, ?, ?, ?)",
        [(subscription, channel, stripe, position) for stripe in range(STRIPES)],
    )
    connection.execute("UPDATE channels SET striped = iif(next = first, 2, 1) WHERE id = ? AND striped = 0", (channel,))


def append_delayed(  # noqa: PLR0913 - one record's place
    connection: sqlite3.Connection, channel: str, base: int, number: int, messages: Sequence[Message], now_ms: int
) -> list[str]:
    """Store records of retry channel `number` of `base`."""
    count = len(messages)
    reserved: list[tuple[int]] = connection.execute(
        "UPDATE retry_bases SET next = next + ?, waiting = waiting + ? WHERE id = ? RETURNING next",
        (count, count, base),
    ).fetchall()
    end = reserved[0][0]
    first = end - count
    row_id = (base << SEQUENCE_BITS) + first
    flat: list[Any] = []
    for index, message in enumerate(messages):
        due_ms = min(max(message.due_ms, now_ms), now_ms + _MAX_DELAY_MS) if message.due_ms else now_ms
        flat += (
            row_id + index,
            base,
            number,
            due_ms,
            now_ms,
            message.timestamp_ms or now_ms,
            message.key,
            encode_headers(message.headers),
            message.payload,
        )
    insert_rows(connection, "delayed", _DELAYED_COLUMNS, flat)
    return [f"{channel}-{offset}" for offset in range(first, end)]


def insert_rows(connection: sqlite3.Connection, table: str, columns: Sequence[str], flat: Sequence[Any]) -> None:
    """Insert rows whose values follow one another in `flat`."""
    width = len(columns)
    start, end = 0, len(flat)
    for size in _CHUNKS:
        step = size * width
        if end - start >= step:
            statement = _insert_statement(table, columns, size)
            while end - start >= step:
                connection.execute(statement, flat[start : start + step])
                start += step


_statements: dict[tuple[str, int], str] = {}


def _insert_statement(table: str, columns: Sequence[str], size: int) -> str:
    statement = _statements.get((table, size))
    if statement is None:
        row = f"({', '.join('?' * len(columns))})"
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)}"  # noqa: S608 - ours
        _statements[table, size] = statement
    return statement
