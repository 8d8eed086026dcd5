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
from hexa_worker.drivers.embedded.leasing.clock_skew import FORWARD_TOLERANCE_MS
from hexa_worker.drivers.embedded.storage.ids import schedule
from hexa_worker.drivers.embedded.storage.records import encode_headers
from hexa_worker.drivers.embedded.storage.schema import SEQUENCE_BITS, STRIPES

_CHUNKS = (64, 16, 4, 1)
"""Rows per INSERT. Many rows in one statement are one step of SQLite, in which the GIL is given up once and not
per row; few sizes keep the statements cached."""
_MAX_DELAY_MS = round(MAX_DELAY_S * 1000)


def append(connection: sqlite3.Connection, messages: Sequence[Message], now_ms: int) -> list[str]:
    """Store `messages`; returns the id of each."""
    offsets = store(connection, messages, encode_all(messages), now_ms)
    return [f"{message.channel}-{offset}" for message, offset in zip(messages, offsets, strict=True)]


def encode_all(messages: Sequence[Message]) -> list[bytes | None]:
    """The headers of each, as they are stored."""
    return [encode_headers(message.headers) for message in messages]


def store(
    connection: sqlite3.Connection, messages: Sequence[Message], headers: Sequence[bytes | None], now_ms: int
) -> Sequence[int]:
    """Store `messages`, whose encoded headers are `headers`; returns the offset of each in its channel."""
    places: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        places.setdefault(message.channel, []).append(place)
    if len(places) == 1:
        return _store_in(connection, messages[0].channel, messages, headers, now_ms)
    offsets = [0] * len(messages)
    for channel, indexes in places.items():
        some, theirs = [messages[index] for index in indexes], [headers[index] for index in indexes]
        for index, offset in zip(indexes, _store_in(connection, channel, some, theirs, now_ms), strict=True):
            offsets[index] = offset
    return offsets


def _store_in(
    connection: sqlite3.Connection,
    channel: str,
    messages: Sequence[Message],
    headers: Sequence[bytes | None],
    now_ms: int,
) -> range:
    count = len(messages)
    place = _reserve(connection, channel, count)
    if place is None:
        retry = _retry(connection, channel)
        if retry is not None:
            return _store_delayed(connection, retry, messages, headers, now_ms)
        create_channel(connection, channel)
        place = _reserve(connection, channel, count)
        if place is None:
            raise sqlite3.DatabaseError(f"channel {channel} vanished")
    id_, end, striped = place
    first = end - count
    shared: dict[str, Any] = {}
    columns: dict[str, Sequence[Any]] = {}
    if striped:
        columns["stripe"] = [stripe_of(message.key, first + index, STRIPES) for index, message in enumerate(messages)]
    stamps = {message.timestamp_ms for message in messages}
    if len(stamps) == 1:
        shared["at_ms"] = stamps.pop() or now_ms
    else:
        columns["at_ms"] = [message.timestamp_ms or now_ms for message in messages]
    columns["key"] = [message.key for message in messages]
    columns["headers"] = headers
    columns["payload"] = [message.payload for message in messages]
    insert_rows(connection, "log", (id_ << SEQUENCE_BITS) + first, shared, columns)
    return range(first, end)


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


def _retry(connection: sqlite3.Connection, channel: str) -> tuple[int, int] | None:
    """The base and the number of a retry channel; None: it is none."""
    row: tuple[int, int] | None = connection.execute(
        "SELECT base, number FROM retry_channels WHERE name = ?", (channel,)
    ).fetchone()
    return row


def is_retry_channel(connection: sqlite3.Connection, channel: str) -> bool:
    """Whether records of `channel` wait until they are due."""
    return _retry(connection, channel) is not None


def append_delayed(connection: sqlite3.Connection, base: int, messages: Sequence[Message], now_ms: int) -> int:
    """Let events wait with the delayed records of `base`; returns the number of the first one."""
    return _store_delayed(connection, (base, 0), messages, encode_all(messages), now_ms).start


def _store_delayed(
    connection: sqlite3.Connection,
    retry: tuple[int, int],
    messages: Sequence[Message],
    headers: Sequence[bytes | None],
    now_ms: int,
) -> range:
    """Store records of a retry channel: its base's row, and its number."""
    base, number = retry
    count = len(messages)
    reserved: list[tuple[int]] = connection.execute(
        "UPDATE retry_bases SET next = next + ?, waiting = waiting + ? WHERE id = ? RETURNING next",
        (count, count, base),
    ).fetchall()
    end = reserved[0][0]
    first = end - count
    latest = now_ms + _MAX_DELAY_MS
    due = [message.due_ms - _ahead_ms(message, now_ms) for message in messages]
    shared = {"base": base, "attempt": number, "since_ms": now_ms}
    columns: dict[str, Sequence[Any]] = {
        "due_ms": [at if now_ms <= at <= latest else now_ms if at < now_ms else latest for at in due],
        "at_ms": [message.timestamp_ms or now_ms for message in messages],
        "key": [message.key for message in messages],
        "headers": headers,
        "payload": [message.payload for message in messages],
    }
    row_id = (base << SEQUENCE_BITS) + first
    insert_rows(connection, "delayed", row_id, shared, columns)
    schedule(connection, range(row_id, row_id + count))
    return range(first, end)


def _ahead_ms(message: Message, now_ms: int) -> int:
    """By how much the clock was ahead when the record was made: its due time then counts from now.

    It went back since, or it went forward and nobody has looked yet.
    """
    ahead_ms = message.timestamp_ms - now_ms
    return ahead_ms if ahead_ms > FORWARD_TOLERANCE_MS else 0


def insert_rows(
    connection: sqlite3.Connection,
    table: str,
    first: int,
    shared: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]],
) -> None:
    """Insert rows with the ids from `first` on.

    `shared` are the columns in which all rows have one value; `columns` are those of the others, all of one length.
    """
    same, names, width = list(shared.values()), tuple(shared), len(columns)
    end = len(next(iter(columns.values()))) * width
    flat: list[Any] = [None] * end  # row by row
    for place, values in enumerate(columns.values()):
        flat[place::width] = values
    start = 0
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
