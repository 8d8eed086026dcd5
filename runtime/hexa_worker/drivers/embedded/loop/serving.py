"""What the broker thread does with jobs: commands in one transaction; receives wait until there is something.

On the broker thread only.
"""

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from hexa_worker.drivers.embedded import forgetting
from hexa_worker.drivers.embedded.errors import translate
from hexa_worker.drivers.embedded.leasing import leases
from hexa_worker.drivers.embedded.leasing.clock_skew import SteadyClock
from hexa_worker.drivers.embedded.leasing.leasing import claimable, due_times, promising
from hexa_worker.drivers.embedded.leasing.reading import read
from hexa_worker.drivers.embedded.loop.commands import Command, Receive, gather, unattended
from hexa_worker.drivers.embedded.loop.due_events import DueEvents
from hexa_worker.drivers.embedded.loop.handoff import Handoff
from hexa_worker.drivers.embedded.loop.transactions import GroupCommit
from hexa_worker.drivers.embedded.loop.wakeups import Wakeups
from hexa_worker.errors import DriverRejected


class Serving:
    """Everything that was handed over and has no answer yet.

    Args:
        path: the database file.
        connection: its connection.
        shared: brings jobs, takes answers.
        transactions: does what writes.
        due_events: events for later, which may make a receive due.
        wakeups: told when the next receive is due.
        clock: says what is due.
        overdue: gets what failed and has to be tried again.

    Attributes:
        parked: receives that wait.
        served: how many deliveries were handed out since somebody looked.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        path: Path,
        connection: sqlite3.Connection,
        shared: Handoff,
        transactions: GroupCommit,
        due_events: DueEvents,
        wakeups: Wakeups,
        clock: SteadyClock,
        overdue: deque[Command],
    ) -> None:
        self._path = path
        self._connection = connection
        self._shared = shared
        self._transactions = transactions
        self._due_events = due_events
        self._wakeups = wakeups
        self._clock = clock
        self._overdue = overdue
        self._current: list[Command | Receive] = []
        self.parked: list[Receive] = []
        self.served = 0

    def serve_all(self) -> None:
        """Do all that was handed over, and look at what waits if there is a reason."""
        self._current = gather(self._shared.jobs)
        if self._current:
            self._do(self._current)
            self._current = []
        if self._shared.look:
            self._shared.look = False  # before looking: what is asked for meanwhile is another look
            if self.parked:
                self._look_again()

    def take_back(self) -> list[Command | Receive]:
        """Take what was begun or waits, and has no answer."""
        taken = [*self._current, *self.parked]
        self._current, self.parked = [], []
        return taken

    def fail_forgotten(self) -> None:
        """Answer receives whose group an operator has dropped: nothing will ever come for it."""
        if not self.parked:
            return
        try:
            forgotten = forgetting.forgotten(self._connection)
        except sqlite3.Error:
            return  # whoever claims next meets the same error and reports it
        failed = [job for job in self.parked if job.subscriber.id in forgotten]
        if failed:
            self.parked = [job for job in self.parked if job not in failed]
            for job in failed:
                job.error = DriverRejected(f"group {job.subscriber.spec.group!r} was forgotten while it was read")
            self._shared.tell(failed)

    def _do(self, jobs: Sequence[Command | Receive]) -> None:
        writes = [job for job in jobs if isinstance(job, Command) and job.writes]
        reads = [job for job in jobs if isinstance(job, Command) and not job.writes]
        receives = [job for job in jobs if isinstance(job, Receive)]
        hungry = [job for job in receives if not job.subscriber.unread]
        if not writes:
            hungry = self._claimable(hungry)
        if writes or hungry:
            self._transactions.run([*writes, *hungry])
            self._shared.tell(writes)
            if any(job.error is None and job.wakes is not None and job.wakes() for job in writes):
                self._shared.look = True  # and never False: the loop may ask for a look meanwhile
        for read_job in reads:
            self._read(read_job)
        self._shared.tell(reads)
        self._serve(receives)

    def _claimable(self, receives: Iterable[Receive]) -> list[Receive]:
        """Those that would get something. Reads only."""
        now_ms = self._clock.now_ms()
        asking = [job for job in receives if not job.subscriber.closed]
        try:
            if len(asking) > 1:
                likely = set(promising(self._connection, [job.subscriber for job in asking], now_ms))
                asking = [job for job in asking if job.subscriber in likely]
            return [job for job in asking if claimable(self._connection, job.subscriber, now_ms)]
        except sqlite3.Error:
            return asking  # the claim meets the same error and reports it

    def _look_again(self) -> None:
        """Look whether there is something now for the receives that wait."""
        self._wakeups.looked()
        parked = [job for job in self.parked if not job.abandoned]
        self._current, self.parked = [*parked], []
        hungry = self._claimable(parked)
        if hungry:
            self._transactions.run(hungry)
        self._serve(parked)
        self._current = []

    def _serve(self, receives: Sequence[Receive]) -> None:
        """Read what was leased; who gets nothing waits on."""
        served: list[Receive] = []
        for job in receives:
            if job.abandoned:
                continue
            subscriber = job.subscriber
            if job.error is None and subscriber.unread and not subscriber.closed:
                self._read_leased(job)
            if job.result or job.error is not None or subscriber.closed:
                served.append(job)
            else:
                self.parked.append(job)
        self.served += sum([len(job.result) for job in served])
        self._shared.tell(served)
        if self.parked and receives:
            self._find_next_due()

    def _find_next_due(self) -> None:
        bases = {job.subscriber.base for job in self.parked}
        try:
            times = [due_ms for base, due_ms in due_times(self._connection).items() if base in bases]
        except sqlite3.Error:
            return  # whoever claims next meets the same error and reports it
        event_ms = self._due_events.look()
        self._wakeups.due_ms = min([*times, *([] if event_ms is None else [event_ms])], default=None)

    def _read_leased(self, job: Receive) -> None:
        subscriber = job.subscriber
        try:
            job.result = read(self._connection, subscriber, job.room, job.room_bytes)
        except sqlite3.Error as error:
            job.error = translate(error, self._path)
        if subscriber.emptied:
            emptied, subscriber.emptied = subscriber.emptied, []
            end = unattended(lambda connection: leases.finish(connection, emptied))
            self._transactions.run([end])
            if end.error is not None:  # while their rows are there nobody reads on behind them
                self._overdue.append(end)
            subscriber.leases.difference_update(emptied)
            self._shared.look = True

    def _read(self, job: Command) -> None:
        try:
            job.result = job.run(self._connection)
        except sqlite3.Error as error:
            job.error = translate(error, self._path)
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            job.error = error
