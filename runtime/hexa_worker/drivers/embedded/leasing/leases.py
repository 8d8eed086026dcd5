"""Leases: stretches of a log, or sets of delayed records, in the hands of this process.

A `LogLease` is what `Delivery.token` holds. Its flags are only changed after the transaction that wrote the same
change has committed, so a failed settlement can be asked for again.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

from hexa_worker.core.settlement import Postponed
from hexa_worker.drivers.embedded.leasing.postponed import Note
from hexa_worker.drivers.embedded.storage.ids import by_ids, is_dense, schedule
from hexa_worker.drivers.embedded.storage.schema import NO_STRIPE, NOBODY, SEQUENCE_BITS

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[int]).decode


class LogLease:
    """A stretch ``[low, high)`` of one channel, or of one of its stripes.

    Attributes:
        low: the lowest offset that is not finished.
        unread: the first offset that `receive` has not handed out yet; `high` when all are.
        remaining: how many offsets are not finished.
        lost: another owner has it by now.
        returned: released offsets of an ordered lease, which is only given back whole.
        ordered: while it lasts nobody may read on behind it.
        postponed: what is noted of retries in their place, by its last owner or by us.
    """

    __slots__ = (
        "_flags",
        "_ordinals",
        "channel",
        "high",
        "id",
        "lost",
        "low",
        "name",
        "offsets",
        "ordered",
        "owner",
        "postponed",
        "remaining",
        "returned",
        "stripe",
        "unread",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - a row of the table
        self,
        id_: int,
        owner: int,
        channel: int,
        name: str,
        offsets: Sequence[int],
        *,
        stripe: int = NO_STRIPE,
        finished: Iterable[int] = (),
        ordered: bool = False,
    ) -> None:
        self.id = id_
        self.owner = owner
        self.channel = channel
        self.name = name
        self.stripe = stripe
        self.ordered = ordered
        self.offsets = offsets
        self.low = offsets[0]
        self.high = offsets[-1] + 1
        self.lost = False
        self._flags = bytearray(len(offsets))
        dense = isinstance(offsets, range)
        self._ordinals: dict[int, int] | None = None if dense else {offset: at for at, offset in enumerate(offsets)}
        self.remaining = len(offsets)
        self.postponed: dict[int, Note] = {}
        self.apply(self.finishing(finished))
        self.unread = self.low
        self.returned: set[int] = set()

    def finishing(self, offsets: Iterable[int]) -> "LeaseChange":
        """What finishing `offsets` would change; those finished before and those of others are ignored."""
        flags = self._flags.copy()
        size, ordinals = len(flags), self._ordinals
        if ordinals is None:
            first = self.offsets[0] if size else 0
            for offset in offsets:
                if 0 <= offset - first < size:
                    flags[offset - first] = 1
        else:
            for offset in offsets:
                at = ordinals.get(offset)
                if at is not None:
                    flags[at] = 1
        return LeaseChange(flags, flags.count(0))

    def apply(self, change: "LeaseChange") -> None:
        self._flags = change.flags
        self.remaining = change.remaining
        at = change.flags.find(0)
        self.low = self.offsets[at] if at >= 0 else self.high
        if self.postponed:
            self.postponed = {offset: note for offset, note in self.postponed.items() if self.is_open(offset)}

    def postpone(self, later: Iterable[Postponed]) -> None:
        """What was noted of `later` is stored."""
        self.postponed.update({one.delivery.offset: (one.note, one.again.due_ms) for one in later})

    def progress(self, change: "LeaseChange") -> tuple[int, bytes | None]:
        """The `low` and `done` columns after `change`."""
        at = change.flags.find(0)
        if at < 0:
            return self.high, None
        beyond = change.flags[at:].rstrip(b"\0")
        if not beyond:
            return self.offsets[at], None
        low, offsets = self.offsets[at], self.offsets
        return low, _encode([offsets[at + after] - low for after, done in enumerate(beyond) if done])

    def is_open(self, offset: int) -> bool:
        """Handed out and not finished."""
        at = offset - self.offsets[0] if self._ordinals is None else self._ordinals.get(offset, -1)
        return 0 <= at < len(self._flags) and not self._flags[at]

    def has_gaps(self, end: int, count: int) -> bool:
        """Whether `count` records from `unread` up to `end` are not just the next ones, all of them open."""
        if self.remaining != len(self.offsets):
            return True
        return bisect_left(self.offsets, end) - bisect_left(self.offsets, self.unread) != count

    def open_offsets(self, start: int = 0) -> list[int]:
        """What is not finished, from `start` on, ascending."""
        return [offset for offset, done in zip(self.offsets, self._flags, strict=True) if not done and offset >= start]


class DelayedLease(LogLease):
    """A set of delayed records of one retry base; `name` is the base's."""

    __slots__ = ("_first_id", "base")

    def __init__(self, id_: int, owner: int, base: int, name: str, offsets: Sequence[int]) -> None:
        super().__init__(id_, owner, 0, name, range(offsets[0], offsets[-1] + 1) if is_dense(offsets) else offsets)
        self.base = base
        self._first_id = base << SEQUENCE_BITS

    def unread_ids(self) -> list[int]:
        """The rows from `unread` on."""
        offsets, first = self.offsets, self._first_id
        return [first + offset for offset in offsets[bisect_left(offsets, self.unread) :]]

    def ids_of(self, offsets: Iterable[int]) -> list[int]:
        """The rows of those of `offsets` that are not finished, ascending."""
        first, flags, ordinals = self._first_id, self._flags, self._ordinals
        if ordinals is None:
            low, size = self.offsets[0], len(flags)
            found = {offset for offset in offsets if 0 <= offset - low < size and not flags[offset - low]}
        else:
            found = {offset for offset in offsets if offset in ordinals and not flags[ordinals[offset]]}
        return [first + offset for offset in sorted(found)]


class LeaseChange(msgspec.Struct, gc=False):
    """The flags of a lease as they will be."""

    flags: bytearray
    remaining: int


def decode_done(low: int, done: bytes | None) -> list[int]:
    """The finished offsets that a lease row names; a damaged column names none, which only repeats deliveries."""
    if not done:
        return []
    try:
        return [low + after for after in _decode(done)]
    except (msgspec.MsgspecError, TypeError):
        return []


def advance(connection: sqlite3.Connection, lease: LogLease, change: LeaseChange) -> bool:
    """Write what `change` says of `lease`; False when the lease is no longer ours, and nothing was written."""
    if change.remaining == 0:
        cursor = connection.execute("DELETE FROM leases WHERE id = ? AND owner = ?", (lease.id, lease.owner))
    else:
        if isinstance(lease, DelayedLease):
            return _keep_delayed(connection, lease, change.remaining)
        low, done = lease.progress(change)
        cursor = connection.execute(
            "UPDATE leases SET low = ?, done = ?, remaining = ? WHERE id = ? AND owner = ?",
            (low, done, change.remaining, lease.id, lease.owner),
        )
    return cursor.rowcount == 1


def finish(connection: sqlite3.Connection, emptied: Iterable[LogLease]) -> None:
    """Drop leases in which nothing is left."""
    for lease in emptied:
        advance(connection, lease, lease.finishing(()))


def delete_delayed(connection: sqlite3.Connection, lease: DelayedLease, finished: Iterable[int]) -> None:
    """Delete the records of a lease that are finished. `advance` has found the lease to be ours."""
    ids = lease.ids_of(finished)
    if ids:
        where, values = by_ids(ids)
        cursor = connection.execute(f"DELETE FROM delayed WHERE {where}", values)  # noqa: S608 - ours
        connection.execute("UPDATE retry_bases SET waiting = waiting - ? WHERE id = ?", (cursor.rowcount, lease.base))


def give_back(connection: sqlite3.Connection, lease: LogLease) -> None:
    """Let anybody have what is left of `lease`."""
    if lease.lost or not lease.remaining:
        return
    if isinstance(lease, DelayedLease):
        free_delayed(connection, lease.id, lease.owner)
        return
    low, done = lease.progress(lease.finishing(()))
    connection.execute(
        "UPDATE leases SET owner = ?, low = ?, done = ?, remaining = ? WHERE id = ? AND owner = ?",
        (NOBODY, low, done, lease.remaining, lease.id, lease.owner),
    )


def give_back_some(
    connection: sqlite3.Connection, subscription: int, lease: LogLease, change: "LeaseChange", released: Sequence[int]
) -> None:
    """Split `released` (ascending) off an un-ordered lease, free to take.

    `change` is the lease without them; `advance` has written it.
    """
    if isinstance(lease, DelayedLease):
        kept = [offset - lease.offsets[0] for offset, done in zip(lease.offsets, change.flags, strict=True) if not done]
        connection.execute("UPDATE leases SET members = ? WHERE id = ?", (_encode(kept), lease.id))
        schedule(connection, lease.ids_of(released))
        return
    start = previous = released[0]
    for offset in [*released[1:], -1]:
        if offset != previous + 1:
            insert(connection, subscription, lease.channel, lease.stripe, range(start, previous + 1), NOBODY)
            start = offset
        previous = offset


def insert(  # noqa: PLR0913 - the columns of a lease
    connection: sqlite3.Connection, subscription: int, channel: int, stripe: int, offsets: Sequence[int], owner: int
) -> int:
    """A new lease; returns its id."""
    cursor = connection.execute(
        "INSERT INTO leases (subscription, channel, stripe, low, high, remaining, owner) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (subscription, channel, stripe, offsets[0], offsets[-1] + 1, len(offsets), owner),
    )
    if cursor.lastrowid is None:
        raise sqlite3.DatabaseError("no row id for a new lease")
    return cursor.lastrowid


def insert_delayed(connection: sqlite3.Connection, subscription: int, ids: Sequence[int], owner: int) -> int:
    """A new lease on delayed records; returns its id."""
    lease = insert(connection, subscription, 0, NO_STRIPE, ids, owner)
    if not is_dense(ids):
        members = _encode([id_ - ids[0] for id_ in ids])
        connection.execute("UPDATE leases SET members = ? WHERE id = ?", (members, lease))
    return lease


def _keep_delayed(connection: sqlite3.Connection, lease: DelayedLease, remaining: int) -> bool:
    cursor = connection.execute(
        "UPDATE leases SET remaining = ? WHERE id = ? AND owner = ?", (remaining, lease.id, lease.owner)
    )
    return cursor.rowcount == 1


def free_delayed(connection: sqlite3.Connection, lease: int, owner: int) -> None:
    """Dissolve a lease on delayed records: they are due as before."""
    rows = connection.execute(
        "DELETE FROM leases WHERE id = ? AND owner = ? AND channel = 0 RETURNING low, high, members", (lease, owner)
    ).fetchall()
    for low, high, members in rows:
        ids = sorted({id_ for id_ in decode_done(low, members) if low <= id_ < high})
        schedule(connection, ids or range(low, high))  # damaged: all, which only repeats deliveries
