"""The broker thread, as the event loop sees it: the one place where this process touches the file.

It gathers whatever the loop has asked for meanwhile, and does it in one transaction (group commit). Waiting receives
wait there: the loop is only woken when there is something for it. What both sides share is in `handoff`, what the
thread does in `turns` and `serving`.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hexa_worker.clock import Clock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.embedded.leasing import members
from hexa_worker.drivers.embedded.leasing.clock_skew import SteadyClock
from hexa_worker.drivers.embedded.loop.commands import Command, Receive, returning
from hexa_worker.drivers.embedded.loop.handoff import Handoff
from hexa_worker.drivers.embedded.loop.turns import Turns
from hexa_worker.drivers.embedded.subscriber import Subscriber
from hexa_worker.errors import DriverError, DriverUnavailable


class BrokerThread:
    """See the module. Made, started and used on the loop.

    Args:
        path: the database file.
        options: durability and times.
        clock: says what is due.

    Attributes:
        clock: the same, which does not run ahead of what was looked at.
    """

    def __init__(self, path: Path, options: Embedded, clock: Clock) -> None:
        self.clock = SteadyClock(clock, members.now_ms)
        self._path = path
        self._shared = Handoff(self._resolve)
        self._turns = Turns(path, options, clock, self.clock, self._shared)
        self._thread = threading.Thread(target=self._turns.run, name="hexa-worker-broker", daemon=True)

    @property
    def lost(self) -> DriverError | None:
        """Why the thread has ended though nobody asked it to."""
        return self._shared.lost

    @property
    def owner(self) -> int:
        """The row of this process."""
        return self._turns.owner

    async def start(self) -> None:
        """Open the file. Raises what `files.connect` raises."""
        self._thread.start()
        try:
            await self._shared.opened.done.wait()
        except BaseException:
            self._shared.stopping = True  # nobody will ask it to
            raise
        if self._shared.opened.error is not None:
            raise self._shared.opened.error

    async def stop(self) -> None:
        """Give everything back and close the file. Idempotent."""
        if self._shared.running:
            self._shared.stopping = True
            self._shared.waker.ring()
            await self._shared.closed.done.wait()

    async def crash(self) -> None:
        """Die without a goodbye, as a killed process does."""
        self._shared.crashing = True
        await self.stop()

    async def write(
        self,
        run: Callable[[sqlite3.Connection], Any],
        *,
        committed: Callable[[], None] | None = None,
        wakes: Callable[[], bool] | None = None,
        changes: Subscriber | None = None,
    ) -> Any:
        """Do `run` in a write transaction, alone or with others; see `Command`."""
        return await self.do(Command(run, writes=True, committed=committed, wakes=wakes, changes=changes))

    async def read(self, run: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self.do(Command(run, writes=False))

    async def receive(self, subscriber: Subscriber, room: int, room_bytes: int) -> list[Delivery]:
        """Wait for deliveries; what comes after the waiter was cancelled is handed back."""
        job = Receive(subscriber, room, room_bytes)
        try:
            result: list[Delivery] = await self.do(job)
        except BaseException:
            if job.done.is_set() and job.result:
                self.submit(returning(subscriber, job.result))
            raise
        return result

    def submit(self, job: Command | Receive) -> None:
        """Hand over a job. On the loop."""
        self._shared.jobs.append(job)
        if self._shared.sleeping:
            self._shared.waker.ring()

    def look(self) -> None:
        """Let waiting receives be looked at again."""
        self._shared.look = True
        if self._shared.running:
            self._shared.waker.ring()

    async def do(self, job: Command | Receive) -> Any:
        """Do `job` and return its result; raises its error."""
        if not self._shared.running:
            raise self.lost or DriverUnavailable(f"{self._path} is not open")
        self.submit(job)
        try:
            await job.done.wait()
        except BaseException:
            job.abandoned = True
            raise
        if job.error is not None:
            raise job.error
        return job.result

    def _resolve(self, jobs: Iterable[Command | Receive]) -> None:
        for job in jobs:
            job.done.set()
            if job.abandoned and isinstance(job, Receive) and job.result:
                self.submit(returning(job.subscriber, job.result))
            if job is self._shared.closed:
                self._turns.fail_waiting()  # what was handed over just as the thread ended

    def add(self, subscriber: Subscriber) -> None:
        """A subscriber whose leases are to be kept alive."""
        self._shared.subscribers |= {subscriber}

    def drop(self, subscriber: Subscriber, overdue: Command | None = None) -> None:
        """It is closed; `overdue` failed at its end, and is tried again in every tick."""
        self._shared.subscribers -= {subscriber}
        if overdue is not None:
            self._turns.overdue.append(overdue)
