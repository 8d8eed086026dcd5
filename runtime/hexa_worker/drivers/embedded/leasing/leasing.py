"""Taking leases: due retries, what others left behind, and the next stretch of each channel.

A claim writes a few rows whatever it leases; the records themselves are read after the commit (`reading`), so
the write lock is never held while rows cross into Python.
"""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from hexa_worker.drivers.embedded.leasing import leases
from hexa_worker.drivers.embedded.leasing.leases import DelayedLease, LogLease
from hexa_worker.drivers.embedded.leasing.postponed import notes
from hexa_worker.drivers.embedded.storage.schema import NO_STRIPE, NOBODY, SEQUENCE_BITS, SEQUENCE_MASK, STRIPES
from hexa_worker.drivers.embedded.subscriber import Subscriber

_ids = msgspec.json.Decoder(list[int]).decode
_written = msgspec.json.Encoder().encode

_DUE = "SELECT due_ms FROM schedule WHERE base = ? ORDER BY due_ms LIMIT 1"
_DUE_IDS = """
    SELECT json_group_array(id) FROM (
        SELECT id FROM schedule WHERE base = ? AND due_ms <= ? ORDER BY due_ms, id LIMIT ?
    )"""
_NTH_DUE = "SELECT due_ms, id FROM schedule WHERE base = ? ORDER BY due_ms, id LIMIT 1 OFFSET ?"
_ALL_DUE = """
    SELECT id, due FROM (
        SELECT b.id, (SELECT due_ms FROM schedule WHERE base = b.id ORDER BY due_ms LIMIT 1) AS due
        FROM retry_bases b
    ) WHERE due IS NOT NULL"""
_ALL_UNREAD = """
    SELECT p.subscription FROM positions p JOIN channels c ON c.id = p.channel WHERE p.next < c.next
    UNION SELECT subscription FROM leases WHERE owner = 0"""
_UNREAD = """
    SELECT p.channel, c.name, p.next, c.next FROM positions p JOIN channels c ON c.id = p.channel
    WHERE p.subscription = ? AND p.next < c.next AND c.striped >= ?"""
_FREE = """
    SELECT l.id, l.channel, c.name, l.stripe, l.low, l.high, l.done FROM leases l JOIN channels c ON c.id = l.channel
    WHERE l.subscription = ? AND l.owner = 0 ORDER BY l.channel, l.low"""
_STRIPES = f"""
    SELECT s.stripe, (
        SELECT json_group_array(id) FROM (
            SELECT id FROM log INDEXED BY log_stripe
            WHERE stripe = s.stripe AND id >= ?1 + s.next AND id < ?1 + ?2 ORDER BY id LIMIT ?3
        )
    )
    FROM stripes s
    WHERE s.subscription = ?4 AND s.channel = ?5 AND NOT EXISTS (
        SELECT 1 FROM leases l
        WHERE l.subscription = s.subscription AND l.channel = s.channel AND l.stripe IN ({NO_STRIPE}, s.stripe)
        AND (l.stripe = {NO_STRIPE} OR l.id NOT IN (SELECT value FROM json_each(?6)))
    )"""  # noqa: S608 - constants of ours


def next_due_ms(connection: sqlite3.Connection, base: int) -> int | None:
    """When the earliest waiting record of a retry base is due."""
    row: tuple[int] | None = connection.execute(_DUE, (base,)).fetchone()
    return None if row is None else row[0]


def due_times(connection: sqlite3.Connection) -> dict[int, int]:
    """When the earliest waiting record of each retry base is due; bases without any are left out."""
    return dict(connection.execute(_ALL_DUE).fetchall())


def promising(connection: sqlite3.Connection, subscribers: Sequence[Subscriber], now_ms: int) -> list[Subscriber]:
    """Those for whom `claimable` may be true. Three queries for all, so that many waiting ones cost little."""
    groups = {group for (group,) in connection.execute(_ALL_UNREAD)}
    due = {base for base, due_ms in due_times(connection).items() if due_ms <= now_ms}
    return [subscriber for subscriber in subscribers if subscriber.id in groups or subscriber.base in due]


def claimable(connection: sqlite3.Connection, subscriber: Subscriber, now_ms: int) -> bool:
    """Whether `claim` would find something. Reads only."""
    due_ms = next_due_ms(connection, subscriber.base)
    if due_ms is not None and due_ms <= now_ms:
        return True
    if any(True for _ in _free(connection, subscriber, NOBODY)):
        return True
    for channel, _, _, end in _unread(connection, subscriber):
        if subscriber.by_key:
            if _stripes(connection, subscriber, channel, end, 1):
                return True
        elif not (subscriber.ordered and _outstanding(connection, subscriber, channel)):
            return True
    return False


def claim(  # noqa: PLR0913 - who, what for, how much, when
    connection: sqlite3.Connection, subscriber: Subscriber, owner: int, room: int, now_ms: int, peers: int
) -> list[LogLease]:
    """Lease up to about `room` records to `owner`. Inside a write transaction of the caller.

    `peers` is how many processes share the file: each leaves the others their part of the stripes.
    """
    taken: list[LogLease] = []
    due = _claim_due(connection, subscriber, owner, max(room // 2, 1), now_ms)
    if due is not None:
        taken.append(due)
        room -= due.remaining
    for free in _free(connection, subscriber, owner):
        if room <= 0:
            return taken
        connection.execute("UPDATE leases SET owner = ? WHERE id = ?", (owner, free.id))
        if subscriber.spec.in_place:
            known = notes(connection, subscriber.id, free.channel, free.low, free.high)
            free.postponed = {offset: note for offset, note in known.items() if free.is_open(offset)}
        taken.append(free)
        room -= free.remaining
    if room > 0:
        taken += _claim_next(connection, subscriber, owner, room, peers)
    return taken


def _claim_due(
    connection: sqlite3.Connection, subscriber: Subscriber, owner: int, room: int, now_ms: int
) -> DelayedLease | None:
    base = subscriber.base
    ids = _ids(connection.execute(_DUE_IDS, (base, now_ms, room)).fetchone()[0])
    if not ids:
        return None
    last_ms, last = connection.execute(_NTH_DUE, (base, len(ids) - 1)).fetchone()
    cursor = connection.execute("DELETE FROM schedule WHERE base = ? AND (due_ms, id) <= (?, ?)", (base, last_ms, last))
    if cursor.rowcount != len(ids):
        raise sqlite3.DatabaseError(f"{cursor.rowcount} records left the schedule in place of {len(ids)}")
    ids.sort()
    lease = leases.insert_delayed(connection, subscriber.id, ids, owner)
    return DelayedLease(lease, owner, base, subscriber.spec.retry_base, [id_ & SEQUENCE_MASK for id_ in ids])


def _free(connection: sqlite3.Connection, subscriber: Subscriber, owner: int) -> Iterator[LogLease]:
    """Leases that nobody has; with order only the first of each stripe, and none behind another's."""
    for id_, channel, name, stripe, low, high, done in connection.execute(_FREE, (subscriber.id,)).fetchall():
        if not subscriber.reads(name):
            continue
        if subscriber.ordered and _barred(connection, subscriber, channel, stripe, low, owner):
            continue
        offsets: Sequence[int] = range(low, high)
        if stripe != NO_STRIPE:
            offsets = _stripe_offsets(connection, channel, stripe, low, high) or offsets
        finished = leases.decode_done(low, done)
        yield LogLease(id_, owner, channel, name, offsets, stripe=stripe, finished=finished, ordered=subscriber.ordered)


def _barred(  # noqa: PLR0913 - a place in a stripe
    connection: sqlite3.Connection, subscriber: Subscriber, channel: int, stripe: int, low: int, owner: int
) -> bool:
    found = connection.execute(
        "SELECT 1 FROM leases WHERE subscription = ? AND channel = ? AND (stripe = ? OR stripe = ?)"
        " AND low < ? AND owner != ? LIMIT 1",
        (subscriber.id, channel, stripe, NO_STRIPE, low, owner or -1),
    ).fetchone()
    return found is not None


def _stripe_offsets(connection: sqlite3.Connection, channel: int, stripe: int, low: int, high: int) -> list[int]:
    first = channel << SEQUENCE_BITS
    found = connection.execute(
        "SELECT json_group_array(id) FROM (SELECT id FROM log INDEXED BY log_stripe"
        " WHERE stripe = ? AND id >= ? AND id < ? ORDER BY id)",
        (stripe, first + low, first + high),
    ).fetchone()[0]
    return [id_ & SEQUENCE_MASK for id_ in _ids(found)]


def _unread(connection: sqlite3.Connection, subscriber: Subscriber) -> list[tuple[int, str, int, int]]:
    rows = connection.execute(_UNREAD, (subscriber.id, 2 if subscriber.by_key else 0)).fetchall()
    return [row for row in rows if subscriber.reads(row[1])]


def _outstanding(connection: sqlite3.Connection, subscriber: Subscriber, channel: int) -> bool:
    found = connection.execute(
        "SELECT 1 FROM leases WHERE subscription = ? AND channel = ? LIMIT 1", (subscriber.id, channel)
    ).fetchone()
    return found is not None


def _claim_next(
    connection: sqlite3.Connection, subscriber: Subscriber, owner: int, room: int, peers: int
) -> list[LogLease]:
    channels = _unread(connection, subscriber)
    if len(channels) > 1:
        subscriber.rotation += 1
        turn = subscriber.rotation % len(channels)
        channels = channels[turn:] + channels[:turn]
    taken: list[LogLease] = []
    for index, (channel, name, position, end) in enumerate(channels):
        share = -(-room // (len(channels) - index))
        if share <= 0:
            break
        if subscriber.by_key:
            found = _claim_stripes(connection, subscriber, owner, (channel, name, end), share, peers)
        elif subscriber.ordered and _outstanding(connection, subscriber, channel):
            continue
        else:
            found = [
                _claim_range(
                    connection, subscriber, owner, (channel, name), range(position, min(end, position + share))
                )
            ]
        taken += found
        room -= sum([lease.remaining for lease in found])
    return taken


def _claim_range(
    connection: sqlite3.Connection, subscriber: Subscriber, owner: int, place: tuple[int, str], offsets: range
) -> LogLease:
    channel, name = place
    connection.execute(
        "UPDATE positions SET next = ? WHERE subscription = ? AND channel = ?", (offsets.stop, subscriber.id, channel)
    )
    id_ = leases.insert(connection, subscriber.id, channel, NO_STRIPE, offsets, owner)
    return LogLease(id_, owner, channel, name, offsets, ordered=subscriber.ordered)


def _stripes(
    connection: sqlite3.Connection, subscriber: Subscriber, channel: int, end: int, depth: int
) -> list[tuple[int, list[int]]]:
    """Stripes that can be read on and have unread records, with up to `depth` row ids each.

    Nobody holds them; or, where retries wait in their place, only `subscriber` does: the other keys of a stripe go on.
    What an earlier subscriber of this process could not give back is not ours: nobody runs it.
    """
    ours = _written([lease.id for lease in subscriber.leases] if subscriber.spec.in_place else []).decode()
    rows = connection.execute(_STRIPES, (channel << SEQUENCE_BITS, end, depth, subscriber.id, channel, ours)).fetchall()
    return [(stripe, _ids(found)) for stripe, found in rows if found != "[]"]


def _claim_stripes(  # noqa: PLR0913 - as `claim`
    connection: sqlite3.Connection,
    subscriber: Subscriber,
    owner: int,
    place: tuple[int, str, int],
    room: int,
    peers: int,
) -> list[LogLease]:
    channel, name, end = place
    share = -(-STRIPES // max(peers, 1))
    held = {lease.stripe for lease in subscriber.leases if lease.channel == channel}
    free = share - len(held)
    if free < 0:  # others have come: let go of all but those that cannot be given up, for a retry waits there
        held = {lease.stripe for lease in subscriber.leases if lease.channel == channel and lease.postponed}
        free = 0
    if free == 0 and not (subscriber.spec.in_place and held):
        return []
    depth = max(-(-room // share), 1)
    found = _within(_stripes(connection, subscriber, channel, end, depth), held, free)
    if found and len(found) * depth < room:  # few stripes have anything: take more of each
        depth = -(-room // len(found))
        found = _within(_stripes(connection, subscriber, channel, end, depth), held, free)
    found.sort(key=lambda stripe: (stripe[0] - subscriber.rotation) % STRIPES)
    taken: list[LogLease] = []
    for stripe, ids in found:
        if room <= 0:
            break
        offsets = [id_ & SEQUENCE_MASK for id_ in ids]
        id_ = leases.insert(connection, subscriber.id, channel, stripe, offsets, owner)
        connection.execute(
            "UPDATE stripes SET next = ? WHERE subscription = ? AND channel = ? AND stripe = ?",
            (offsets[-1] + 1, subscriber.id, channel, stripe),
        )
        taken.append(LogLease(id_, owner, channel, name, offsets, stripe=stripe, ordered=True))
        room -= len(offsets)
        subscriber.rotation = stripe + 1
    counted = sum([lease.remaining for lease in taken])
    connection.execute(
        "UPDATE positions SET next = next + ? WHERE subscription = ? AND channel = ?",
        (counted, subscriber.id, channel),
    )
    return taken


def _within(found: list[tuple[int, list[int]]], held: set[int], free: int) -> list[tuple[int, list[int]]]:
    """Those of `found` that are in `held`, and `free` others."""
    others = [stripe for stripe, _ in found if stripe not in held]
    left_out = set(others[free:])
    return [one for one in found if one[0] not in left_out]
