"""When the broker thread has to look for something to receive, and how long it may sleep until then."""

import sqlite3
import time

from hexa_worker.clock import Clock
from hexa_worker.drivers.embedded.loop.waker import Waker

QUIET_S = 0.002
"""Other processes' commits are looked at this often at most."""
POLL_S = (0.001, 0.1)
"""How often to look for other processes' commits after one was heard of, and without inotify when nothing comes."""


class Wakeups:
    """Hears of other processes' commits, and of the time at which a delayed record is due.

    Args:
        waker: what is slept on.
        connection: tells whether others have committed.
        clock: says what is due.

    Attributes:
        due_ms: when the next delayed record is due that somebody waits for; None: none.
    """

    def __init__(self, waker: Waker, connection: sqlite3.Connection, clock: Clock) -> None:
        self.due_ms: int | None = None
        self._waker = waker
        self._connection = connection
        self._clock = clock
        self._poll_s = POLL_S[0]
        self._version = 0
        self._last_look = 0.0

    def looked(self) -> None:
        """Waiting receives were just looked at."""
        self._last_look = time.monotonic()

    def sleep(self, seconds: float, *, waiting: bool) -> bool:
        """Sleep until rung, for so long at most; with `waiting` receives also until there may be something for them.

        Returns:
            Whether a commit, maybe our own, was heard.
        """
        if not waiting:
            return self._waker.wait(seconds, others=False)
        listens = self._waker.hears_others
        patience = self._patience(seconds, listens=listens)
        quiet = self._last_look + QUIET_S - time.monotonic()
        if listens and quiet > 0:
            self._waker.wait(min(quiet, patience), others=False)
            return False
        return self._waker.wait(patience, others=listens)

    def _patience(self, seconds: float, *, listens: bool) -> float:
        """How long to sleep if nobody rings, while receives wait."""
        if self.due_ms is not None:
            seconds = min(seconds, (self.due_ms - self._clock.now_ms()) / 1000 + 0.0005)
        if not (listens and self._poll_s > POLL_S[1]):
            seconds = min(seconds, self._poll_s)
        return seconds

    def notices(self, *, heard: bool) -> bool:
        """Whether there is a reason to look.

        The log is written before the commit shows, so what was heard is looked for more than once.
        """
        look = self._others_committed()
        if look or heard:
            self._poll_s = POLL_S[0]
        else:
            longest = 1.0 if self._waker.hears_others else POLL_S[1]
            self._poll_s = min(self._poll_s * 2, longest)
        return look or (self.due_ms is not None and self.due_ms <= self._clock.now_ms())

    def _others_committed(self) -> bool:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        changed = version != self._version
        self._version = version
        return changed
