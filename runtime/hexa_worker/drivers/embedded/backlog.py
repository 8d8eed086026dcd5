"""What a subscription still has to do, cheap enough to be asked ten times a second.

Nothing here counts rows that wait: positions are subtracted, delayed records are counted where they come and
go. Only what is due now is counted, up to `DUE_LIMIT`; beyond that the rest shows as delayed.
"""

import sqlite3

from hexa_worker.drivers.base import Backlog
from hexa_worker.drivers.embedded.leasing.leasing import next_due_ms
from hexa_worker.drivers.embedded.storage.later import waiting as waiting_events
from hexa_worker.drivers.embedded.subscriber import Subscriber

DUE_LIMIT = 10_000


def backlog(connection: sqlite3.Connection, subscriber: Subscriber, now_ms: int) -> Backlog:
    """See `hexa_worker.drivers.base.Backlog`."""
    unread = connection.execute(
        "SELECT c.name, c.next - p.next FROM positions p JOIN channels c ON c.id = p.channel WHERE p.subscription = ?",
        (subscriber.id,),
    ).fetchall()
    ready = sum([max(count, 0) for name, count in unread if subscriber.reads(name)])
    leased = delayed_leased = 0
    held = connection.execute(
        "SELECT l.channel, l.owner, l.remaining, c.name FROM leases l LEFT JOIN channels c ON c.id = l.channel"
        " WHERE l.subscription = ?",
        (subscriber.id,),
    ).fetchall()
    for channel, owner, remaining, name in held:
        if channel == 0:
            delayed_leased += remaining
            leased += remaining
        elif owner and subscriber.reads(name):
            leased += remaining
        elif subscriber.reads(name):
            ready += remaining
    due: int = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM schedule WHERE base = ? AND due_ms <= ? LIMIT ?)",
        (subscriber.base, now_ms, DUE_LIMIT),
    ).fetchone()[0]
    waiting: int = connection.execute("SELECT waiting FROM retry_bases WHERE id = ?", (subscriber.base,)).fetchone()[0]
    delayed = max(waiting - delayed_leased - due, 0)
    due_events, later_events, event_ms = waiting_events(connection, subscriber.reads, now_ms)
    dues = [next_due_ms(connection, subscriber.base) if delayed or due else None, event_ms]
    return Backlog(
        ready=ready + due + due_events,
        delayed=delayed + later_events,
        leased=leased,
        next_due_ms=min([due_ms for due_ms in dues if due_ms is not None], default=None),
    )
