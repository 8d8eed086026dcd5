"""Looking at a subscription from outside: what it has left to do, what of it is in the file. Only reads."""

import sqlite3

from msgspec import structs

from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import Backlog, Finding, SubscriptionSpec
from hexa_worker.drivers.embedded.backlog import backlog
from hexa_worker.drivers.embedded.storage.later import waiting
from hexa_worker.drivers.embedded.storage.schema import SEQUENCE_BITS, SEQUENCE_MASK
from hexa_worker.drivers.embedded.subscriber import Subscriber


def backlog_of(connection: sqlite3.Connection, spec: SubscriptionSpec, now_ms: int) -> Backlog:
    """See `hexa_worker.drivers.base.Driver.backlog`."""
    group = _row(connection, "SELECT id, by_key FROM subscriptions WHERE name = ?", spec.group)
    base = _row(connection, "SELECT id FROM retry_bases WHERE name = ?", spec.retry_base)
    if group is None or base is None:
        due, delayed, due_ms = waiting(connection, spec.reads, now_ms)
        found = Backlog(ready=_unread(connection, spec) + due, delayed=delayed, leased=0, next_due_ms=due_ms)
    else:
        found = backlog(connection, Subscriber(spec, group[0], base[0], by_key=bool(group[1])), now_ms)
    return structs.replace(found, dead_letters=_letters(connection, spec.dead_letter_channel))


def preflight(connection: sqlite3.Connection, spec: SubscriptionSpec) -> list[Finding]:
    """See `hexa_worker.drivers.base.Driver.preflight`."""
    channels = {name for (name,) in connection.execute("SELECT name FROM channels")}
    retries = {name for (name,) in connection.execute("SELECT name FROM retry_channels")}
    group = _row(connection, "SELECT id, by_key FROM subscriptions WHERE name = ?", spec.group)
    problem = ""
    if group is not None and group[1] and spec.order_by is OrderBy.CHANNEL:
        problem = "it has kept order by key, so it cannot go on by channel: give the subscription a new group"
    return [
        *[
            Finding(kind="channel", name=name, exists=name in channels)
            for name in spec.channels_among(sorted(channels))
        ],
        *[Finding(kind="retry channel", name=name, exists=name in retries) for name in spec.retry_channels],
        Finding(kind="dead letter", name=spec.dead_letter_channel, exists=spec.dead_letter_channel in channels),
        Finding(kind="group", name=spec.group, exists=group is not None, problem=problem),
    ]


def _unread(connection: sqlite3.Connection, spec: SubscriptionSpec) -> int:
    """How many records a subscription that never ran would begin with."""
    if spec.start == "latest":
        return 0
    rows = connection.execute("SELECT name, next - first FROM channels WHERE dead_letter = 0").fetchall()
    wanted = spec.channels_among(name for name, _ in rows)
    return sum(count for name, count in rows if name in wanted)


def _letters(connection: sqlite3.Connection, channel: str) -> int:
    found = _row(connection, "SELECT id FROM channels WHERE name = ?", channel)
    if found is None:
        return 0
    first = found[0] << SEQUENCE_BITS
    count: int = connection.execute(
        "SELECT count(*) FROM log WHERE id >= ? AND id <= ?", (first, first + SEQUENCE_MASK)
    ).fetchone()[0]
    return count


def _row(connection: sqlite3.Connection, query: str, name: str) -> tuple[int, ...] | None:
    found: tuple[int, ...] | None = connection.execute(query, (name,)).fetchone()
    return found
