"""Reading the records of leases that are already ours."""

import sqlite3
from typing import Any

from hexa_worker.core.message import Delivery
from hexa_worker.drivers.embedded.leasing.leases import DelayedLease, LogLease
from hexa_worker.drivers.embedded.leasing.postponed import resumed
from hexa_worker.drivers.embedded.storage.ids import by_ids
from hexa_worker.drivers.embedded.storage.records import COLUMNS, delayed_deliveries, log_deliveries
from hexa_worker.drivers.embedded.storage.schema import NO_STRIPE, SEQUENCE_BITS, SEQUENCE_MASK
from hexa_worker.drivers.embedded.subscriber import Subscriber

_FIRST_CHUNK = 16
_LARGEST_CHUNK = 128

_RANGE = f"SELECT {COLUMNS} FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"  # noqa: S608 - constants of ours
_STRIPE = f"SELECT {COLUMNS} FROM log INDEXED BY log_stripe WHERE stripe = ? AND id >= ? AND id < ? ORDER BY id LIMIT ?"  # noqa: S608
_DELAYED = f"SELECT {COLUMNS}, due_ms, attempt FROM delayed WHERE %s ORDER BY id LIMIT ?"  # noqa: S608


def read(connection: sqlite3.Connection, subscriber: Subscriber, room: int, room_bytes: int) -> list[Delivery]:
    """Hand out what `subscriber` has leased and not read, at most `room` and about `room_bytes`.

    Records that are gone (removed, damaged out of their place) count as finished.
    """
    found: list[Delivery] = []
    while subscriber.unread and len(found) < room and room_bytes > 0:
        lease = subscriber.unread[0]
        try:
            room_bytes -= _read_lease(connection, lease, room - len(found), room_bytes, found)
        except sqlite3.Error:
            if not found:
                raise
            break  # what was read counts as handed out; whoever reads on meets the same error
        if lease.unread >= lease.high:
            subscriber.unread.popleft()
            if not lease.remaining:
                subscriber.emptied.append(lease)
    return found


def _read_lease(
    connection: sqlite3.Connection, lease: LogLease, room: int, room_bytes: int, found: list[Delivery]
) -> int:
    """Read on in `lease`; appends to `found`, moves `lease.unread`, returns the bytes of payload read."""
    cursor = _rows(connection, lease, room)
    size, chunk = 0, _FIRST_CHUNK
    try:
        while room > 0 and size < room_bytes:
            rows = cursor.fetchmany(min(chunk, room))
            if not rows:
                _skip(lease, [], lease.high)
                break
            sizes = [len(row[3]) for row in rows]
            taken = sum(sizes)
            if size + taken > room_bytes:
                rows, taken = _cut(rows, sizes, room_bytes - size)
                room = 0
            size += taken
            room -= len(rows)
            found += _deliveries(lease, rows)
            chunk = min(chunk * 2, _LARGEST_CHUNK)
    finally:
        cursor.close()
    return size


def _rows(connection: sqlite3.Connection, lease: LogLease, room: int) -> sqlite3.Cursor:
    if isinstance(lease, DelayedLease):
        where, values = by_ids(lease.unread_ids())
        return connection.execute(_DELAYED % where, (*values, room))
    first = lease.channel << SEQUENCE_BITS
    if lease.stripe == NO_STRIPE:
        return connection.execute(_RANGE, (first + lease.unread, first + lease.high, room))
    return connection.execute(_STRIPE, (lease.stripe, first + lease.unread, first + lease.high, room))


def _cut(rows: list[Any], sizes: list[int], room_bytes: int) -> tuple[list[Any], int]:
    """As many rows as fit, and the one that fills the room."""
    size = 0
    for count, one in enumerate(sizes, start=1):
        size += one
        if size >= room_bytes:
            return rows[:count], size
    return rows, size


def _deliveries(lease: LogLease, rows: list[Any]) -> list[Delivery]:
    end = (rows[-1][0] & SEQUENCE_MASK) + 1
    if lease.has_gaps(end, len(rows)):
        _skip(lease, [row[0] & SEQUENCE_MASK for row in rows], end)
        rows = [row for row in rows if lease.is_open(row[0] & SEQUENCE_MASK)]
    lease.unread = end
    if isinstance(lease, DelayedLease):
        return delayed_deliveries(rows, lease.name, lease)
    deliveries = log_deliveries(rows, lease.name, lease)
    return resumed(deliveries, lease.postponed) if lease.postponed else deliveries


def _skip(lease: LogLease, present: list[int], end: int) -> None:
    """Finish what should have been read up to `end` and was not there."""
    missing = set(lease.open_offsets(lease.unread)).difference(present)
    lease.apply(lease.finishing([offset for offset in missing if offset < end]))
    lease.unread = end
