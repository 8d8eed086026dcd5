"""How events and claims are written in the caller's own transaction. Pure: text with ``?`` and values."""

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from hexa_worker.outbox.records import COLUMNS, Prepared, columns

Dialect = Literal["postgresql", "sqlite"]
Style = Literal["qmark", "format", "dollar", "named"]
"""Where a value stands: ``?``, ``%s``, ``$1`` or ``:p0``."""
_TYPES = ("text", "text", "bytea", "bytea", "bytea", "bigint")
_SQLITE_ROWS = 5_000
"""SQLite takes 32,766 values in a statement."""
_MARK = re.compile(r"\?")


class Statement(NamedTuple):
    """One statement; each ``?`` in it stands for the next value."""

    text: str
    values: tuple[Any, ...]

    def styled(self, style: Style) -> str:
        """The text, with values marked as a library wants them."""
        if style == "qmark":
            return self.text
        if style == "format":
            return self.text.replace("?", "%s")
        number = iter(range(len(self.values)))
        mark = "${}" if style == "dollar" else ":p{}"
        first = 1 if style == "dollar" else 0
        return _MARK.sub(lambda _: mark.format(next(number) + first), self.text)


def insert(dialect: Dialect, table: str, events: Sequence[Prepared]) -> list[Statement]:
    """What writes events, in their order: one statement, but for thousands of rows in SQLite."""
    rows = [columns(one.event_id, one.message) for one in events]
    names = ", ".join(COLUMNS)
    if dialect == "postgresql" and len(rows) > 1:
        arrays = ", ".join(f"CAST(? AS {one}[])" for one in _TYPES)
        text = f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})"
        return [Statement(text, tuple(list(column) for column in zip(*rows, strict=True)))]
    one = f"({', '.join('?' * len(COLUMNS))})"
    return [
        Statement(
            f"INSERT INTO {table} ({names}) VALUES {', '.join([one] * len(part))}",
            tuple(value for row in part for value in row),
        )
        for start in range(0, len(rows), _SQLITE_ROWS)
        for part in [rows[start : start + _SQLITE_ROWS]]
    ]


def claim(table: str, action: str, event_id: str) -> Statement:
    """What claims an event for an action: it gives one row if nobody had, none if somebody has."""
    text = f"INSERT INTO {table}_inbox (action, event_id) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1"
    return Statement(text, (action, event_id))


def blocked(table: str, *, parked: bool) -> str:
    """The lines in which something is held; `parked`: those in which something is only parked, too."""
    return f"{_heads(table, parked=parked)} SELECT channel, key FROM heads"


def unled(table: str, *, parked: bool) -> str:
    """The lines whose first held record waits behind one that is there no more, or parked unless `parked`."""
    return f"{_heads(table, parked=parked)} SELECT channel, key FROM heads WHERE state = 'behind'"


def _heads(table: str, *, parked: bool) -> str:
    """The first record of each line, found from line to line by index: millions may wait in a few of them."""
    held = f"{table}_held WHERE key IS NOT NULL" + ("" if parked else " AND state <> 'parked'")
    order = "ORDER BY channel, key, id LIMIT 1"
    return f"""
        WITH RECURSIVE heads (id, channel, key, state) AS (
            SELECT * FROM (SELECT id, channel, key, state FROM {held} {order}) AS first
            UNION ALL
            SELECT one.id, one.channel, one.key, one.state FROM heads AS before JOIN {table}_held AS one ON one.id = (
                SELECT id FROM {held} AND (channel, key) > (before.channel, before.key) {order}
            )
        )"""
