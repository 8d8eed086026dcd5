"""Group commit: many jobs, one transaction, and errors that stay with whom they concern."""

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hexa_worker.clock import Clock
from hexa_worker.drivers.embedded.errors import is_busy, primary_code, translate
from hexa_worker.drivers.embedded.leasing.leasing import claim
from hexa_worker.drivers.embedded.leasing.members import Members
from hexa_worker.drivers.embedded.loop.commands import Command, Receive
from hexa_worker.errors import DriverError, DriverRejected

_OF_ALL = frozenset(
    "SQLITE_" + name
    for name in ("BUSY", "LOCKED", "PROTOCOL", "FULL", "IOERR", "NOMEM", "CORRUPT", "NOTADB", "READONLY", "CANTOPEN")
)
"""Errors that concern the file, not one job."""

_log = logging.getLogger("hexa_worker.drivers.embedded")


class GroupCommit:
    """The write transactions of this process.

    Args:
        path: named in errors.
        busy_timeout_s: how long other processes' transactions are waited for.
        clock: says what is due.
        owners: in whose name leases are taken.
        reborn: called inside a transaction in which this process turns out to have been removed.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        busy_timeout_s: float,
        clock: Clock,
        owners: Members,
        reborn: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._connection = connection
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._clock = clock
        self._owners = owners
        self._reborn = reborn

    def run(self, jobs: Sequence[Command | Receive]) -> None:
        """Do `jobs` in one transaction, waiting for other processes' as long as is allowed.

        SQLite's own waiting is unfair under contention, hence the short random waits.
        """
        deadline = time.monotonic() + self._busy_timeout_s
        pause = 0.0005
        while True:
            try:
                self._attempt(jobs)
            except sqlite3.Error as error:
                self._roll_back()
                if is_busy(error) and time.monotonic() < deadline:
                    time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads waiters
                    pause = min(pause * 1.5, 0.01)
                    continue
                failure = translate(error, self._path)
                for job in jobs:
                    job.error = failure
            except BaseException:
                self._roll_back()  # or nobody could write any more
                raise
            return

    def _attempt(self, jobs: Sequence[Command | Receive]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        if isinstance(jobs[-1], Receive) and not self._owners.exists(connection):
            self._reborn(connection)  # a lease of an owner that does not exist would never end
        if len(jobs) == 1:
            self._run_one(jobs[0])
            if jobs[0].error is not None:
                self._roll_back()
                return
        else:
            for job in jobs:
                connection.execute("SAVEPOINT job")
                self._run_one(job)
                if job.error is not None:
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
        connection.execute("COMMIT")
        for job in jobs:
            if isinstance(job, Receive):
                if job.error is None:
                    job.subscriber.leases.update(job.claimed)
                    job.subscriber.unread.extend(job.claimed)
            elif job.committed is not None and job.error is None:
                job.committed()

    def _run_one(self, job: Command | Receive) -> None:
        """Do one job's part of a transaction; an error of its own stays its own."""
        job.error = None
        try:
            if isinstance(job, Command):
                job.result = job.run(self._connection)
            elif not job.subscriber.closed:
                job.claimed = claim(
                    self._connection,
                    job.subscriber,
                    self._owners.id,
                    job.room,
                    self._clock.now_ms(),
                    self._owners.peers,
                )
        except DriverError as error:
            job.error = error
        except sqlite3.Error as error:
            if primary_code(error) in _OF_ALL or not self._connection.in_transaction:
                raise
            job.error = DriverRejected(f"{self._path}: {error}")
        except (ValueError, TypeError, OverflowError) as error:
            job.error = DriverRejected(f"cannot be stored: {error}")

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                _log.warning("a transaction on %s could not be rolled back", self._path)
