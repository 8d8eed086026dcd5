"""Events that are emitted for later: they wait among the delayed records until they are due, then enter their channel.

Each channel with such events has a retry base of its own, whose name no subscription can have. So they share tables,
schedule and clock watching with the retries, and their channel's log never holds what is not due.
"""

import sqlite3
from collections.abc import Callable, Sequence

from hexa_worker.core.message import Message
from hexa_worker.drivers.embedded.storage.append import append_delayed, encode_all, is_retry_channel, store
from hexa_worker.drivers.embedded.storage.ids import by_ids
from hexa_worker.drivers.embedded.storage.records import COLUMNS

MOVED_AT_ONCE = 500
"""In one transaction: other processes get their turn."""
_PREFIX = "later\n"
_PREFIX_END = "later\v"  # the character that follows
_BASES = f"""
    SELECT b.id, b.name, b.waiting,
        (SELECT due_ms FROM schedule WHERE base = b.id ORDER BY due_ms LIMIT 1) AS due
    FROM retry_bases b WHERE b.name >= '{_PREFIX}' AND b.name < '{_PREFIX_END}'"""  # noqa: S608 - constants of ours


def append_events(connection: sqlite3.Connection, messages: Sequence[Message], now_ms: int) -> list[str]:
    """Store what is published; returns the id of each. Inside a write transaction of the caller."""
    later: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        if message.due_ms > now_ms:
            later.setdefault(message.channel, []).append(place)
    for channel in [channel for channel in later if is_retry_channel(connection, channel)]:
        del later[channel]
    ids = [""] * len(messages)
    for channel, places in later.items():
        waiting = [messages[place] for place in places]
        first = append_delayed(connection, _base(connection, channel), waiting, now_ms)
        for number, place in enumerate(places, start=first):
            ids[place] = f"{channel}-later-{number}"
    at_once = [place for place, known in enumerate(ids) if not known]
    if at_once:
        stored = [messages[place] for place in at_once]
        offsets = store(connection, stored, encode_all(stored), now_ms)
        for place, offset in zip(at_once, offsets, strict=True):
            ids[place] = f"{messages[place].channel}-{offset}"
    return ids


def _base(connection: sqlite3.Connection, channel: str) -> int:
    name = _PREFIX + channel
    connection.execute("INSERT INTO retry_bases (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    base: int = connection.execute("SELECT id FROM retry_bases WHERE name = ?", (name,)).fetchone()[0]
    return base


def next_due_ms(connection: sqlite3.Connection) -> int | None:
    """When the next event is due; None: there is none."""
    return min([due for *_, due in connection.execute(_BASES) if due is not None], default=None)


def waiting(connection: sqlite3.Connection, reads: Callable[[str], bool], now_ms: int) -> tuple[int, int, int | None]:
    """Of the channels that somebody reads: how many events are due, how many are not, and when the next one is."""
    due = total = 0
    dues: list[int] = []
    for base, name, count, first in connection.execute(_BASES).fetchall():
        if first is None or not reads(name.removeprefix(_PREFIX)):
            continue
        total += count
        dues.append(first)
        due += connection.execute(
            "SELECT count(*) FROM schedule WHERE base = ? AND due_ms <= ?", (base, now_ms)
        ).fetchone()[0]
    return due, total - due, min(dues, default=None)


def move_due(connection: sqlite3.Connection, now_ms: int) -> bool:
    """Put the next events that are due into their channels, in the order of their due times. In a write transaction.

    Returns:
        Whether there may be more.
    """
    more = False
    for base, name, _, due in connection.execute(_BASES).fetchall():
        if due is not None and due <= now_ms:
            more = _move(connection, base, name.removeprefix(_PREFIX), now_ms) == MOVED_AT_ONCE or more
    return more


def _move(connection: sqlite3.Connection, base: int, channel: str, now_ms: int) -> int:
    due = connection.execute(
        "SELECT due_ms, id FROM schedule WHERE base = ? AND due_ms <= ? ORDER BY due_ms, id LIMIT ?",
        (base, now_ms, MOVED_AT_ONCE),
    ).fetchall()
    where, values = by_ids(sorted(id_ for _, id_ in due))
    found = {row[0]: row for row in connection.execute(f"SELECT {COLUMNS} FROM delayed WHERE {where}", values)}  # noqa: S608 - ours
    rows = [found[id_] for _, id_ in due if id_ in found]
    events = [Message(channel=channel, payload=row[3], key=row[1], timestamp_ms=row[4]) for row in rows]
    if events:
        store(connection, events, [row[2] for row in rows], now_ms)
    connection.execute("DELETE FROM schedule WHERE base = ? AND (due_ms, id) <= (?, ?)", (base, *due[-1]))
    connection.execute(f"DELETE FROM delayed WHERE {where}", values)  # noqa: S608 - ours
    connection.execute("UPDATE retry_bases SET waiting = waiting - ? WHERE id = ?", (len(due), base))
    return len(due)
