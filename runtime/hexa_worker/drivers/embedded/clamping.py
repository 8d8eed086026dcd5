"""Due times when the wall clock goes back: nothing waits longer than its own delay.

A record that was stored "in the future" keeps its delay and starts anew now. Every process looks; a clock that
jumped while nobody ran is seen at the newest record of each retry base.
"""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

TOLERANCE_MS = 1_000
"""Clocks are adjusted by less than this all the time."""
BATCH = 2_000

Write = Callable[[Callable[[sqlite3.Connection], Any]], Any]


class DueTimes:
    """Watches the wall clock against the monotonic one."""

    def __init__(self) -> None:
        self._ahead_ms: int | None = None

    def check(self, connection: sqlite3.Connection, write: Write, now_ms: int, monotonic_ms: int) -> bool:
        """Clamp the due times if the wall clock went back since the last call that did not raise; whether it did."""
        ahead_ms, before = now_ms - monotonic_ms, self._ahead_ms
        went_back = _stored_later(connection, now_ms) if before is None else ahead_ms < before - TOLERANCE_MS
        if went_back:
            start: int | None = -1
            while start is not None:
                start = write(partial(clamp_some, start=start, now_ms=now_ms))
        self._ahead_ms = ahead_ms  # last: what could not be written is tried again
        return went_back


def _stored_later(connection: sqlite3.Connection, now_ms: int) -> bool:
    newest = connection.execute(
        "SELECT (SELECT since_ms FROM delayed WHERE id < (b.id + 1) << 40 ORDER BY id DESC LIMIT 1) FROM retry_bases b"
    ).fetchall()
    return any(since_ms is not None and since_ms > now_ms + TOLERANCE_MS for (since_ms,) in newest)


def clamp_some(connection: sqlite3.Connection, start: int, now_ms: int) -> int | None:
    """Let the next records that are stored later than now wait their delay from now. In a write transaction.

    Returns:
        Where to go on; None when there are no more.
    """
    rows = connection.execute(
        "SELECT id, base, due_ms, since_ms FROM delayed WHERE id > ? AND since_ms > ? ORDER BY id LIMIT ?",
        (start, now_ms + TOLERANCE_MS, BATCH),
    ).fetchall()
    for id_, base, due_ms, since_ms in rows:
        again_ms = now_ms + max(due_ms - since_ms, 0)
        cursor = connection.execute(
            "UPDATE schedule SET due_ms = ? WHERE base = ? AND due_ms = ? AND id = ?", (again_ms, base, due_ms, id_)
        )
        if cursor.rowcount:  # else it is in hand, and waits for nothing
            connection.execute("UPDATE delayed SET due_ms = ?, since_ms = ? WHERE id = ?", (again_ms, now_ms, id_))
    return rows[-1][0] if len(rows) == BATCH else None
