"""Subscriptions made known to the file: groups, positions, retry channels, dead letters, stripes."""

import sqlite3

from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.embedded.leasing.postponed import forget_all
from hexa_worker.drivers.embedded.storage.append import create_channel, place, stripe_positions
from hexa_worker.drivers.embedded.storage.records import check_name
from hexa_worker.drivers.embedded.storage.schema import SEQUENCE_BITS, SEQUENCE_MASK, STRIPES
from hexa_worker.errors import DriverRejected

STRIPE_BATCH = 5_000


def declare(connection: sqlite3.Connection, spec: SubscriptionSpec) -> tuple[int, int, bool]:
    """Make `spec` known. Inside a write transaction of the caller.

    Returns:
        The rows of its group and of its retry base, and whether it reads by stripes.
    """
    for name in (*spec.channels, spec.dead_letter_channel):
        check_name(name)
    base = _declare_retries(connection, spec)
    _declare_dead_letters(connection, spec.dead_letter_channel)
    group, was_by_key = _declare_group(connection, spec)
    by_key = was_by_key or spec.order_by is OrderBy.KEY
    if was_by_key and spec.order_by is OrderBy.CHANNEL:
        raise DriverRejected(
            f"group {spec.group} has kept order by key; it cannot go on by channel: give the subscription a new group"
        )
    if by_key and not was_by_key:
        connection.execute("UPDATE subscriptions SET by_key = 1 WHERE id = ?", (group,))
        held = connection.execute("SELECT channel, next FROM positions WHERE subscription = ?", (group,)).fetchall()
        for channel, position in held:
            stripe_positions(connection, group, channel, position)
    if not spec.in_place:
        forget_all(connection, group)
    for channel, first, end in _channels(connection, spec):
        _place(connection, group, channel, end if spec.start == "latest" else first, by_key=by_key)
    return group, base, by_key


def _declare_group(connection: sqlite3.Connection, spec: SubscriptionSpec) -> tuple[int, bool]:
    connection.execute("INSERT INTO subscriptions (name) VALUES (?) ON CONFLICT DO NOTHING", (spec.group,))
    if spec.pattern is not None:
        connection.execute("UPDATE subscriptions SET pattern = ? WHERE name = ?", (spec.pattern, spec.group))
    row = connection.execute("SELECT id, by_key FROM subscriptions WHERE name = ?", (spec.group,)).fetchone()
    return row[0], bool(row[1])


def _channels(connection: sqlite3.Connection, spec: SubscriptionSpec) -> list[tuple[int, int, int]]:
    """Id, first and next sequence of each channel that `spec` reads, created where missing."""
    if spec.pattern is None:
        for name in spec.channels:
            if connection.execute("SELECT 1 FROM channels WHERE name = ?", (name,)).fetchone() is None:
                create_channel(connection, name)
    known = connection.execute("SELECT id, first, next, name, dead_letter FROM channels").fetchall()
    wanted = frozenset(spec.channels_among(name for *_, name, dead in known if not dead))
    return [(id_, first, end) for id_, first, end, name, _ in known if name in wanted]


def _place(connection: sqlite3.Connection, group: int, channel: int, position: int, *, by_key: bool) -> None:
    found = connection.execute(
        "SELECT 1 FROM positions WHERE subscription = ? AND channel = ?", (group, channel)
    ).fetchone()
    if found is None:
        place(connection, group, channel, position, by_key=by_key)


def _declare_retries(connection: sqlite3.Connection, spec: SubscriptionSpec) -> int:
    connection.execute("INSERT INTO retry_bases (name) VALUES (?) ON CONFLICT DO NOTHING", (spec.retry_base,))
    base: int = connection.execute("SELECT id FROM retry_bases WHERE name = ?", (spec.retry_base,)).fetchone()[0]
    connection.executemany(
        "INSERT INTO retry_channels (name, base, number) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(name, base, number) for number, name in enumerate(spec.retry_channels, start=1)],
    )
    return base


def _declare_dead_letters(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("UPDATE channels SET dead_letter = 1 WHERE name = ?", (name,))
    if connection.execute("SELECT 1 FROM channels WHERE name = ?", (name,)).fetchone() is None:
        create_channel(connection, name, dead_letter=True)


def unstriped_after(connection: sqlite3.Connection, spec: SubscriptionSpec) -> list[tuple[int, int]]:
    """Ids and first sequences of striped channels of `spec` whose older records have no stripe yet."""
    rows = connection.execute("SELECT id, first, name FROM channels WHERE striped = 1").fetchall()
    wanted = frozenset(spec.channels_among(name for _, _, name in rows))
    return [(id_, first) for id_, first, name in rows if name in wanted]


def stripe_some(connection: sqlite3.Connection, channel: int, start: int) -> int | None:
    """Give the next records of a channel, from sequence `start` on, their stripes. In a write transaction.

    Returns:
        Where to go on; None when all have theirs, which the channel's row then says.
    """
    first = channel << SEQUENCE_BITS
    rows = connection.execute(
        "SELECT id, CAST(key AS BLOB) FROM log WHERE id >= ? AND id < ? AND stripe IS NULL ORDER BY id LIMIT ?",
        (first + start, first + SEQUENCE_MASK, STRIPE_BATCH),
    ).fetchall()
    if not rows:
        connection.execute("UPDATE channels SET striped = 2 WHERE id = ?", (channel,))
        return None
    connection.executemany(
        "UPDATE log SET stripe = ? WHERE id = ?",
        [(stripe_of(key, id_ & SEQUENCE_MASK, STRIPES), id_) for id_, key in rows],
    )
    last: int = rows[-1][0] & SEQUENCE_MASK
    return last + 1
