"""The broker thread's own side: it opens the file, goes round, and closes it.

Each turn does what was handed over and what happens by itself: leases are kept alive, the dead are noticed, events for
later become due. That needs no task on the loop, so it is the same on asyncio, uvloop and trio.
"""

import logging
import sqlite3
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path

from hexa_worker.clock import Clock
from hexa_worker.config.model import Embedded
from hexa_worker.drivers.embedded.leasing import members
from hexa_worker.drivers.embedded.leasing.clock_skew import SteadyClock
from hexa_worker.drivers.embedded.loop.commands import Command, unattended
from hexa_worker.drivers.embedded.loop.due_events import DueEvents
from hexa_worker.drivers.embedded.loop.handoff import Handoff
from hexa_worker.drivers.embedded.loop.maintenance import Maintenance
from hexa_worker.drivers.embedded.loop.serving import Serving
from hexa_worker.drivers.embedded.loop.transactions import GroupCommit
from hexa_worker.drivers.embedded.loop.waker import Waker
from hexa_worker.drivers.embedded.loop.wakeups import Wakeups
from hexa_worker.drivers.embedded.storage.files import connect_patiently
from hexa_worker.drivers.embedded.storage.place import FileGone, FilePlace
from hexa_worker.errors import DriverBroken, DriverUnavailable

BUSY = 100
"""More deliveries than this in a tick, and tidying up has to be brief."""
TICK_S = 0.5
"""How often the dead are looked for."""
FAILURE_PAUSE_S = 0.1
"""A file that fails is not asked at once again."""
FAILURES = 100
"""After so many turns in a row that failed there is no hope in going on."""
_log = logging.getLogger("hexa_worker.drivers.embedded")


class Turns:
    """See the module. Made on the loop; all else happens on the thread.

    Args:
        path: the database file.
        options: durability and times.
        clock: what the worker goes by.
        steady: the same, which does not run ahead of what was looked at.
        shared: brings jobs, takes answers.

    Attributes:
        owner: the row of this process.
        overdue: what failed, and is tried again in every tick.
    """

    def __init__(self, path: Path, options: Embedded, clock: Clock, steady: SteadyClock, shared: Handoff) -> None:
        self._path = path
        self._options = options
        self._plain_clock = clock
        self._clock = steady
        self._shared = shared
        self._failures = 0
        self._next_tick = 0.0
        self._held = ExitStack()  # what is open

    @property
    def owner(self) -> int:
        return self._owners.id

    @property
    def overdue(self) -> deque[Command]:
        return self._maintenance.overdue

    def run(self) -> None:
        """Open the file and go round until told to stop."""
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - it is raised on the loop
            self._held.close()
            self._shared.opened.error = error
            self._shared.tell((self._shared.opened,))
            return
        self._shared.running = True
        self._shared.tell((self._shared.opened,))
        try:
            while not self._shared.stopping:
                self._turn_safely()
        except FileGone as error:
            self._shared.lost = error
            _log.error("%s", error)
        except BaseException as error:  # noqa: BLE001 - nothing may end this thread and be silent about it
            self._shared.lost = DriverBroken(
                f"{self._path}: the embedded broker's thread ended: {type(error).__name__}: {error}"
            )
            _log.critical("%s", self._shared.lost, exc_info=error)
        finally:
            self._shared.running = False
            try:
                self._close()
            finally:
                self._shared.tell((self._shared.closed,))  # or whoever stops us would wait for ever

    def _open(self) -> None:
        connection = connect_patiently(self._path, self._options.durability, self._options.busy_timeout_s)
        self._held.callback(connection.close)
        self._owners = members.Members(Path(f"{self._path}-owners"), self._options.lease_s)
        self._held.callback(self._owners.close)
        self._transactions = GroupCommit(
            connection,
            self._path,
            busy_timeout_s=self._options.busy_timeout_s,
            clock=self._clock,
            owners=self._owners,
            reborn=self._begin_again,
        )
        job = unattended(self._owners.register)
        self._transactions.run([job])
        if job.error is not None:
            raise job.error
        self._maintenance = Maintenance(
            self._path,
            connection,
            self._transactions,
            self._owners,
            self._plain_clock,
            self._options.lease_s / 3,
            self._begin_again,
            self._clock,
        )
        self._due_events = DueEvents(connection, self._transactions, self._clock)
        self._place = FilePlace(self._path)
        self._shared.waker = Waker(Path(f"{self._path}-wal"))
        self._held.callback(self._shared.waker.close)
        self._wakeups = Wakeups(self._shared.waker, connection, self._clock)
        self._serving = Serving(
            self._path,
            connection,
            self._shared,
            self._transactions,
            self._due_events,
            self._wakeups,
            self._clock,
            self.overdue,
        )

    def _close(self) -> None:
        self.fail_waiting()
        try:
            if not self._shared.crashing and self._shared.lost is None:
                self._transactions.run([unattended(lambda connection: members.remove(connection, self._owners.id))])
        finally:
            self._held.close()

    def fail_waiting(self) -> None:
        """Answer what has no answer: there will be none. On the thread, or once that has ended."""
        waiting = [*self._serving.take_back(), *self._shared.jobs]
        self._shared.jobs.clear()
        for job in waiting:
            if isinstance(job, Command) or not job.subscriber.closed:
                job.error = self._shared.lost or DriverUnavailable(f"{self._path} is closed")
        self._shared.tell(waiting)

    def _turn_safely(self) -> None:
        """A turn whose failure, a defect of ours or of the disk, ends what waits and not the thread."""
        try:
            self._turn()
            self._failures = 0
        except FileGone:
            raise
        except Exception as error:
            self._failures += 1
            if self._failures > FAILURES:
                raise
            _log.exception("the embedded broker's thread failed; it goes on")
            failed = self._serving.take_back()
            for job in failed:
                job.error = job.error or DriverUnavailable(f"{self._path}: {type(error).__name__}: {error}")
            self._shared.tell(failed)
            time.sleep(FAILURE_PAUSE_S)

    def _turn(self) -> None:
        """One round: sleep if there is nothing to do, then do all there is."""
        if not self._shared.jobs and not self._shared.look:
            self._sleep()
        self._place.check()
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._tick(now)
        if self._due_events.move():
            self._shared.look = True
        self._serving.serve_all()

    def _sleep(self) -> None:
        waiting = bool(self._serving.parked)
        self._shared.sleeping = True
        heard = False
        if not self._shared.jobs and not self._shared.look and not self._shared.stopping:
            heard = self._wakeups.sleep(self._next_tick - time.monotonic(), waiting=waiting)
        self._shared.sleeping = False
        if waiting and self._wakeups.notices(heard=heard):
            self._shared.look = True

    def _tick(self, now: float) -> None:
        self._shared.ask_for_life()
        if self._shared.stopping:
            return
        if self._maintenance.tick(now, self._shared.alive_ms, busy=self._serving.served > BUSY):
            self._shared.look = True
        self._serving.fail_forgotten()
        self._serving.served = 0

    def _begin_again(self, connection: sqlite3.Connection) -> None:
        """Others thought us dead and took everything: go on as a new owner."""
        _log.warning("this process stood still for longer than lease_s; others took over what it had in hand")
        self._owners.register(connection)
        for subscriber in self._shared.subscribers:
            for lease in subscriber.leases:
                lease.lost = True
            subscriber.leases.clear()
            subscriber.unread.clear()
