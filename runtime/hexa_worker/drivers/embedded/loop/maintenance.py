"""What the broker thread does by itself now and then: heartbeats, the dead, clocks that went back, tidying up."""

import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hexa_worker.clock import Clock
from hexa_worker.drivers.embedded.leasing import members
from hexa_worker.drivers.embedded.leasing.clock_skew import DueTimes, SteadyClock
from hexa_worker.drivers.embedded.leasing.members import Members
from hexa_worker.drivers.embedded.loop.commands import Command, unattended
from hexa_worker.drivers.embedded.loop.transactions import GroupCommit
from hexa_worker.drivers.embedded.storage.retention import Retention
from hexa_worker.errors import DriverError

_log = logging.getLogger("hexa_worker.drivers.embedded")


class Maintenance:
    """Done in every tick of the broker thread.

    Args:
        path: the database file.
        connection: for what only reads.
        transactions: for what writes.
        owners_: this process among those that share the file.
        clock: tells whether due times can be trusted.
        beat_s: seconds between two heartbeats.
        reborn: called inside a transaction in which this process turns out to have been removed.
        steady: decides what is due; told how far the wall clock is ahead.

    Attributes:
        overdue: writes that failed and have to be done some time; nobody waits for them.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        path: Path,
        connection: sqlite3.Connection,
        transactions: GroupCommit,
        owners_: Members,
        clock: Clock,
        beat_s: float,
        reborn: Callable[[sqlite3.Connection], None],
        steady: SteadyClock,
    ) -> None:
        self._connection = connection
        self._transactions = transactions
        self._owners = owners_
        self._clock = clock
        self._beat_s = beat_s
        self._reborn = reborn
        self.overdue: deque[Command] = deque()
        self._next_beat = 0.0
        self._due_times = DueTimes(members.boot_id(), steady)
        self._retention = Retention(path)

    def tick(self, now: float, alive_ms: int, *, busy: bool) -> bool:
        """One round.

        Args:
            now: monotonic seconds.
            alive_ms: when the event loop last showed that it lives.
            busy: there is other work, so be brief.

        Returns:
            Whether there may be something to receive that was not there before.
        """
        jobs: list[Command] = []
        if now >= self._next_beat:
            self._next_beat = now + self._beat_s
            jobs.append(unattended(partial(self._beat, alive_ms=alive_ms)))
        try:
            dead = self._owners.dead(self._connection)
        except sqlite3.Error:
            dead = []
        for owner in dead:
            jobs.append(unattended(partial(members.remove, owner=owner)))
            _log.info("another process is gone (owner %d): what it had in hand is taken over", owner)
        if jobs:
            self._transactions.run(jobs)
        look = self._do_overdue()
        look = self._check_due_times() or bool(dead) or look
        if self._owners.is_first:
            self._retention.sweep(self._connection, self._write, busy=busy)
        return look

    def _do_overdue(self) -> bool:
        jobs = [self.overdue.popleft() for _ in range(len(self.overdue))]
        for job in jobs:  # one by one: two of them may be about the same leases
            self._transactions.run([job])
            if job.error is not None:
                self.overdue.append(job)
        return bool(jobs)

    def _beat(self, connection: sqlite3.Connection, *, alive_ms: int) -> None:
        if not self._owners.beat(connection, alive_ms):
            self._reborn(connection)

    def _check_due_times(self) -> bool:
        try:
            went_back = self._due_times.check(self._connection, self._write, self._clock.now_ms(), members.now_ms())
        except (sqlite3.Error, DriverError):
            return False  # whoever claims next meets the same error and reports it
        if went_back:
            _log.warning("the wall clock went back; delayed records wait their own delay from now")
        return went_back

    def _write(self, run: Callable[[sqlite3.Connection], Any]) -> Any:
        job = unattended(run)
        self._transactions.run([job])
        if job.error is not None:
            raise job.error
        return job.result
