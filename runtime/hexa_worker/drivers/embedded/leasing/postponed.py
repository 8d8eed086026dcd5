"""Retries in their place: what a process that takes a lease over has to know of them.

A note is written with the settlement that postpones and deleted with the one that finishes; reading it costs a query
per lease that was somebody else's.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from msgspec import structs

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Postponed

Note = tuple[int, int]
"""`Postponed.note` and due time."""


def note(connection: sqlite3.Connection, subscription: int, channel: int, settlements: Iterable[Postponed]) -> None:
    """Remember the next attempts of records that stay leased. In a write transaction."""
    connection.executemany(
        "INSERT INTO postponed (subscription, channel, sequence, attempt, due_ms) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET attempt = excluded.attempt, due_ms = excluded.due_ms",
        [(subscription, channel, one.delivery.offset, one.note, one.again.due_ms) for one in settlements],
    )


def forget(connection: sqlite3.Connection, subscription: int, channel: int, sequences: Iterable[int]) -> None:
    """These are finished. In a write transaction."""
    connection.executemany(
        "DELETE FROM postponed WHERE subscription = ? AND channel = ? AND sequence = ?",
        [(subscription, channel, sequence) for sequence in sequences],
    )


def forget_all(connection: sqlite3.Connection, subscription: int) -> None:
    """The subscription keeps no order across retries any more. In a write transaction."""
    connection.execute("DELETE FROM postponed WHERE subscription = ?", (subscription,))


def notes(connection: sqlite3.Connection, subscription: int, channel: int, low: int, high: int) -> dict[int, Note]:
    """What is remembered of the stretch ``[low, high)`` of a channel."""
    found = connection.execute(
        "SELECT sequence, attempt, due_ms FROM postponed"
        " WHERE subscription = ? AND channel = ? AND sequence >= ? AND sequence < ?",
        (subscription, channel, low, high),
    )
    return {sequence: (attempt, due_ms) for sequence, attempt, due_ms in found}


def resumed(deliveries: Sequence[Delivery], known: Mapping[int, Note]) -> list[Delivery]:
    """Deliveries as their last process would have run them next."""
    return [_resumed(one, *known[one.offset]) if one.offset in known else one for one in deliveries]


def _resumed(delivery: Delivery, attempt: int, due_ms: int) -> Delivery:
    return structs.replace(delivery, attempt=attempt, due_ms=due_ms)
