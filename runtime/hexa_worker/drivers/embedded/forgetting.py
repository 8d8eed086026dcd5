"""Groups that the file keeps events for, and how one that nobody needs any more is forgotten."""

import sqlite3
from typing import NamedTuple

from hexa_worker.drivers.embedded.leasing.leases import free_delayed
from hexa_worker.drivers.embedded.storage.schema import NOBODY
from hexa_worker.errors import DriverRejected

_GROUPS = """
    SELECT s.name, coalesce((
        SELECT sum(c.next - p.next) FROM positions p JOIN channels c ON c.id = p.channel WHERE p.subscription = s.id
    ), 0)
    FROM subscriptions s WHERE s.name NOT LIKE '~%' ORDER BY s.name"""
_UNREAD_CHANNELS = """
    SELECT id, first, next FROM channels
    WHERE NOT dead_letter AND first < next AND id IN (SELECT channel FROM positions WHERE subscription = ?)
    AND id NOT IN (SELECT channel FROM positions WHERE subscription != ?)"""
_OWN_TABLES = ("positions", "stripes", "postponed", "leases")


class Group(NamedTuple):
    """What the file keeps for one group.

    Attributes:
        name: of the group.
        unread: how many events it has not been given yet.
    """

    name: str
    unread: int


def groups(connection: sqlite3.Connection) -> list[Group]:
    """Every group of the file, by name."""
    return [Group(*row) for row in connection.execute(_GROUPS)]


def forgotten(connection: sqlite3.Connection) -> frozenset[int]:
    """The rows of groups that were dropped."""
    return frozenset(row for (row,) in connection.execute("SELECT id FROM subscriptions WHERE name LIKE '~%'"))


def forget(connection: sqlite3.Connection, name: str) -> list[tuple[int, int, int]]:
    """Drop a group; its retries and dead letters stay. Inside a write transaction of the caller.

    Returns:
        Id, first and next sequence of each channel that nobody else reads.

    Raises:
        DriverRejected: there is no such group, or a process has events of it in flight.
    """
    found = connection.execute("SELECT id FROM subscriptions WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise DriverRejected(f"there is no group {name!r} in this file")
    (group,) = found
    leased = "SELECT 1 FROM leases WHERE subscription = ? AND owner != ? LIMIT 1"
    if connection.execute(leased, (group, NOBODY)).fetchone() is not None:
        raise DriverRejected(f"a running worker has events of group {name!r} in flight: stop it first")
    alone: list[tuple[int, int, int]] = connection.execute(_UNREAD_CHANNELS, (group, group)).fetchall()
    delayed = "SELECT id FROM leases WHERE subscription = ? AND channel = 0"
    for (lease,) in connection.execute(delayed, (group,)).fetchall():
        free_delayed(connection, lease, NOBODY)
    for table in _OWN_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE subscription = ?", (group,))  # noqa: S608 - a name of ours
    # Its row stays: SQLite would give its id to the next group, and a worker that still has it would take that one's.
    connection.execute("UPDATE subscriptions SET name = '~' || id, pattern = NULL WHERE id = ?", (group,))
    return alone
