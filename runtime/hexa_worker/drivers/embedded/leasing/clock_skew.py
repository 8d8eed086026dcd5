"""Due times when the wall clock jumps: nothing waits longer than its own delay, and nothing comes early.

When it goes back, a record that was stored "in the future" keeps its delay and starts anew now. Every process looks; a
clock that jumped while nobody ran is seen at the newest record of each retry base.

When it goes forward, what was stored before keeps what is left of its delay: all of it is moved along. How far the
wall clock is ahead of the one that all processes share (the time since the machine started) is noted in the file, so
that of several processes that see the jump one does it.
"""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from hexa_worker.clock import Clock

TOLERANCE_MS = 1_000
"""Clocks are adjusted by less than this all the time."""
BATCH = 2_000

Write = Callable[[Callable[[sqlite3.Connection], Any]], Any]


FORWARD_TOLERANCE_MS = 100
"""What a jump forward is; less of it makes retries early by so much."""
SLEW_MS = 2
"""More than a clock that is being adjusted gains between two looks."""


class SteadyClock:
    """A wall clock that does not run ahead of what `DueTimes` has looked at.

    Args:
        clock: the wall clock.
        monotonic_ms: the clock that all processes share.
    """

    def __init__(self, clock: Clock, monotonic_ms: Callable[[], int]) -> None:
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self.monotonic = clock.monotonic
        self.ahead_ms: int | None = None
        """How far it was ahead of the other clock when that was looked at."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        now_ms = self._clock.now_ms()
        return now_ms if self.ahead_ms is None else min(now_ms, self._monotonic_ms() + self.ahead_ms + SLEW_MS)


class DueTimes:
    """Watches the wall clock against the monotonic one.

    Args:
        boot: names this start of the machine.
        steady: told what was seen.
    """

    def __init__(self, boot: str, steady: SteadyClock) -> None:
        self._boot = boot
        self._steady = steady
        self._ahead_ms: int | None = None
        self._noted_ms: int | None = None

    def check(self, connection: sqlite3.Connection, write: Write, now_ms: int, monotonic_ms: int) -> bool:
        """Clamp the due times if the wall clock went back since the last call that did not raise; whether it did.

        If it went forward they are moved along.
        """
        ahead_ms, before = now_ms - monotonic_ms, self._ahead_ms
        went_back = _stored_later(connection, now_ms) if before is None else ahead_ms < before - TOLERANCE_MS
        if went_back:
            start: int | None = -1
            while start is not None:
                start = write(partial(clamp_some, start=start, now_ms=now_ms))
        if self._noted_ms is None or abs(ahead_ms - self._noted_ms) > FORWARD_TOLERANCE_MS:
            write(partial(self._move_along, ahead_ms=ahead_ms, now_ms=now_ms))
            self._noted_ms = ahead_ms
        self._ahead_ms = self._steady.ahead_ms = ahead_ms  # last: what could not be written is tried again
        return went_back

    def _move_along(self, connection: sqlite3.Connection, *, ahead_ms: int, now_ms: int) -> None:
        """Move what was stored before a jump forward, unless others did; note how far the clock is ahead."""
        connection.execute("CREATE TABLE IF NOT EXISTS clocks (boot TEXT PRIMARY KEY, ahead_ms INTEGER NOT NULL)")
        known = connection.execute("SELECT ahead_ms FROM clocks WHERE boot = ?", (self._boot,)).fetchone()
        jump_ms = 0 if known is None else ahead_ms - known[0]
        if jump_ms > FORWARD_TOLERANCE_MS:
            before = now_ms - jump_ms // 2  # stored by the clock as it was; after the jump nothing is as old as this
            connection.execute(
                "UPDATE schedule SET due_ms = due_ms + ?1"
                " WHERE (SELECT since_ms FROM delayed WHERE delayed.id = schedule.id) <= ?2",
                (jump_ms, before),
            )
            connection.execute(
                "UPDATE delayed SET due_ms = due_ms + ?1, since_ms = since_ms + ?1 WHERE since_ms <= ?2",
                (jump_ms, before),
            )
        connection.execute("DELETE FROM clocks")  # those of earlier starts of the machine mean nothing any more
        connection.execute("INSERT INTO clocks (boot, ahead_ms) VALUES (?, ?)", (self._boot, ahead_ms))


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
