"""Storing messages: in the log of their channel, or among the delayed records of their retry channel.

Everything here runs inside a write transaction of the caller.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hexa_worker.core.message import Message
from hexa_worker.core.ordering import stripe_of
from hexa_worker.core.retry import MAX_DELAY_S
from hexa_worker.drivers.embedded.ids import schedule
from hexa_worker.drivers.embedded.records import encode_headers
from hexa_worker.drivers.embedded.schema import SEQUENCE_BITS, STRIPES

_CHUNKS = (64, 16, 4, 1)
"""Rows per INSERT. Many rows in one statement are one step of SQLite, in which the GIL is given up once and not
per row; few sizes keep the statements cached."""
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
    stamps = {message.timestamp_ms for message in messages}
    shared: dict[str, Any] = {"at_ms": stamps.pop() or now_ms} if len(stamps) == 1 else {}
    columns: tuple[str, ...] = ("key", "headers", "payload")
    flat: list[Any] = []
    for message in messages:
        headers = message.headers
        flat += (message.key, encode_headers(headers) if headers else None, message.payload)
    if not shared:
        flat = _with_column(flat, columns, [message.timestamp_ms or now_ms for message in messages])
        columns = ("at_ms", *columns)
    if striped:
        stripes = [stripe_of(message.key, first + index, STRIPES) for index, message in enumerate(messages)]
        flat = _with_column(flat, columns, stripes)
        columns = ("stripe", *columns)
    insert_rows(connection, "log", (id_ << SEQUENCE_BITS) + first, shared, columns, flat)
    return [f"{channel}-{offset}" for offset in range(first, end)]


def _with_column(flat: list[Any], columns: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """`flat`, in which the rows follow one another, with one more value in front of each row."""
    width = len(columns) + 1
    wider: list[Any] = [None] * (len(values) * width)
    wider[::width] = values
    for place in range(width - 1):
        wider[place + 1 :: width] = flat[place :: width - 1]
    return wider


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
    flat: list[Any] = []
    for message in messages:
        due_ms = min(max(message.due_ms, now_ms), now_ms + _MAX_DELAY_MS) if message.due_ms else now_ms
        headers = encode_headers(message.headers)
        flat += (due_ms, message.timestamp_ms or now_ms, message.key, headers, message.payload)
    shared = {"base": base, "attempt": number, "since_ms": now_ms}
    columns = ("due_ms", "at_ms", "key", "headers", "payload")
    row_id = (base << SEQUENCE_BITS) + first
    insert_rows(connection, "delayed", row_id, shared, columns, flat)
    schedule(connection, range(row_id, row_id + count))
    return [f"{channel}-{offset}" for offset in range(first, end)]


def insert_rows(  # noqa: PLR0913 - what rows are made of
    connection: sqlite3.Connection,
    table: str,
    first: int,
    shared: Mapping[str, Any],
    columns: Sequence[str],
    flat: Sequence[Any],
) -> None:
    """Insert rows with the ids from `first` on.

    `shared` are the columns in which all rows have one value; those of the others, `columns`, follow one
    another in `flat`, row by row.
    """
    same, names, width = list(shared.values()), tuple(shared), len(columns)
    start, end = 0, len(flat)
    for size in _CHUNKS:
        step = size * width
        if end - start >= step:
            statement = _insert_statement(table, names, tuple(columns), size)
            while end - start >= step:
                connection.execute(statement, [first, *same, *flat[start : start + step]])
                start += step
                first += size


@cache
def _insert_statement(table: str, shared: tuple[str, ...], columns: tuple[str, ...], size: int) -> str:
    """Fewer values to bind are less work: what is the same in all rows is bound once, ids are counted by SQLite."""
    same = [f"?{2 + place}" for place in range(len(shared))]
    start, width = 2 + len(shared), len(columns)
    rows = [
        ", ".join([f"?1 + {row}", *same, *(f"?{start + row * width + place}" for place in range(width))])
        for row in range(size)
    ]
    names = ", ".join(["id", *shared, *columns])
    return f"INSERT INTO {table} ({names}) VALUES {', '.join(f'({row})' for row in rows)}"  # noqa: S608 - ours
