"""When events that were emitted for later enter their channels: whichever process looks first moves them."""

import sqlite3
import time
from functools import partial

from hexa_worker.clock import Clock
from hexa_worker.drivers.embedded.loop.commands import unattended
from hexa_worker.drivers.embedded.loop.transactions import GroupCommit
from hexa_worker.drivers.embedded.storage import later

LOOK_S = 0.02
"""While the thread is busy it looks this often."""


class DueEvents:
    """Moves what is due.

    Args:
        connection: for what only reads.
        transactions: for what writes.
        clock: says what is due.

    Attributes:
        due_ms: when the next one is due, as of the last look; None: none waits.
    """

    def __init__(self, connection: sqlite3.Connection, transactions: GroupCommit, clock: Clock) -> None:
        self.due_ms: int | None = None
        self._connection = connection
        self._transactions = transactions
        self._clock = clock
        self._next_look = 0.0

    def move(self) -> bool:
        """Move some of what is due; whether there may be something to receive that was not there before."""
        now, now_ms = time.monotonic(), self._clock.now_ms()
        if now < self._next_look and (self.due_ms is None or self.due_ms > now_ms):
            return False
        self._next_look = now + LOOK_S
        try:
            self.due_ms = later.next_due_ms(self._connection)
        except sqlite3.Error:
            return False  # whoever claims next meets the same error and reports it
        if self.due_ms is None or self.due_ms > now_ms:
            return False
        job = unattended(partial(later.move_due, now_ms=now_ms))
        self._transactions.run([job])
        # After a failure, and once all is moved, the next look is told by the time.
        self.due_ms = now_ms if job.error is None and job.result else None
        return job.error is None

    def look(self) -> int | None:
        """Look again when the next one is due, as of now."""
        try:
            self.due_ms = later.next_due_ms(self._connection)
        except sqlite3.Error:
            self.due_ms = None
        return self.due_ms
