"""The broker thread: the one place where this process touches the file.

It owns the connection, gathers whatever the loop has asked for meanwhile, and does it in one transaction (group
commit). It also keeps the leases alive, hears other processes' commits and notices the dead; that needs no
task on the loop, so it is the same on asyncio, uvloop and trio. Waiting receives wait here: the loop is only
woken when there is something for it.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hexa_worker.clock import Clock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.embedded.errors import translate
from hexa_worker.drivers.embedded.leasing import leases, members
from hexa_worker.drivers.embedded.leasing.clock_skew import SteadyClock
from hexa_worker.drivers.embedded.leasing.leasing import claimable, due_times, promising
from hexa_worker.drivers.embedded.leasing.reading import read
from hexa_worker.drivers.embedded.loop.commands import Command, Receive, gather, returning, unattended
from hexa_worker.drivers.embedded.loop.due_events import DueEvents
from hexa_worker.drivers.embedded.loop.maintenance import Maintenance
from hexa_worker.drivers.embedded.loop.transactions import GroupCommit
from hexa_worker.drivers.embedded.loop.waker import Waker
from hexa_worker.drivers.embedded.loop.wakeups import Wakeups
from hexa_worker.drivers.embedded.storage.files import connect_patiently
from hexa_worker.drivers.embedded.storage.place import FileGone, FilePlace
from hexa_worker.drivers.embedded.subscriber import Subscriber
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.errors import DriverBroken, DriverError, DriverUnavailable

BUSY = 100
"""More deliveries than this in a tick, and tidying up has to be brief."""
TICK_S = 0.5
"""How often the dead are looked for."""
FAILURE_PAUSE_S = 0.1
"""A file that fails is not asked at once again."""
FAILURES = 100
"""After so many turns in a row that failed there is no hope in going on."""
_log = logging.getLogger("hexa_worker.drivers.embedded")


class BrokerThread:
    """See the module. Made and started on the loop.

    Args:
        path: the database file.
        options: durability and times.
        clock: says what is due.

    Attributes:
        clock: the same, which does not run ahead of what was looked at.
    """

    def __init__(self, path: Path, options: Embedded, clock: Clock) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        self.clock = SteadyClock(clock, members.now_ms)
        self._jobs: deque[Command | Receive] = deque()
        self._current: list[Command | Receive] = []
        self._parked: list[Receive] = []
        self._subscribers: set[Subscriber] = set()
        self._opened = Command(lambda _: None, writes=False)
        self._closed = Command(lambda _: None, writes=False)
        self._stopping = False
        self._crashing = False
        self._running = False
        self._failures = 0
        self.lost: DriverError | None = None
        """Why the thread has ended though nobody asked it to."""
        self._sleeping = False
        self._look = False
        self._served = 0
        self._next_tick = 0.0
        self._alive_ms = members.now_ms()
        self._held = ExitStack()  # what is open
        self._loop = LoopHandle()
        self._thread = threading.Thread(target=self._main, name="hexa-worker-broker", daemon=True)

    # -- the loop's side

    async def start(self) -> None:
        """Open the file. Raises what `files.connect` raises."""
        self._thread.start()
        try:
            await self._opened.done.wait()
        except BaseException:
            self._stopping = True  # nobody will ask it to
            raise
        if self._opened.error is not None:
            raise self._opened.error

    async def stop(self) -> None:
        """Give everything back and close the file. Idempotent."""
        if self._running:
            self._stopping = True
            self._bell.ring()
            await self._closed.done.wait()

    async def crash(self) -> None:
        """Die without a goodbye, as a killed process does."""
        self._crashing = True
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
        self._jobs.append(job)
        if self._sleeping:
            self._bell.ring()

    def look(self) -> None:
        """Let waiting receives be looked at again."""
        self._look = True
        if self._running:
            self._bell.ring()

    async def do(self, job: Command | Receive) -> Any:
        """Do `job` and return its result; raises its error."""
        if not self._running:
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
            if job is self._closed:
                self._fail_waiting()  # what was handed over just as the thread ended

    def _mark_alive(self) -> None:
        self._alive_ms = members.now_ms()

    # -- the thread's side

    def _main(self) -> None:
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - it is raised on the loop
            self._held.close()
            self._opened.error = error
            self._tell((self._opened,))
            return
        self._running = True
        self._tell((self._opened,))
        try:
            while not self._stopping:
                self._turn_safely()
        except FileGone as error:
            self.lost = error
            _log.error("%s", error)
        except BaseException as error:  # noqa: BLE001 - nothing may end this thread and be silent about it
            self.lost = DriverBroken(
                f"{self._path}: the embedded broker's thread ended: {type(error).__name__}: {error}"
            )
            _log.critical("%s", self.lost, exc_info=error)
        finally:
            self._running = False
            try:
                self._close()
            finally:
                self._tell((self._closed,))  # or whoever stops us would wait for ever

    def _tell(self, jobs: Sequence[Command | Receive]) -> None:
        if not jobs:
            return
        if not self._loop.post(self._resolve, jobs):  # the loop is gone: nobody waits any more
            self._stopping = True

    def _open(self) -> None:
        self._connection = connect_patiently(self._path, self._options.durability, self._options.busy_timeout_s)
        self._held.callback(self._connection.close)
        self._owners = members.Members(Path(f"{self._path}-owners"), self._options.lease_s)
        self._held.callback(self._owners.close)
        self._transactions = GroupCommit(
            self._connection,
            self._path,
            busy_timeout_s=self._options.busy_timeout_s,
            clock=self.clock,
            owners=self._owners,
            reborn=self._begin_again,
        )
        job = unattended(self._owners.register)
        self._transactions.run([job])
        if job.error is not None:
            raise job.error
        self._upkeep = Maintenance(
            self._path,
            self._connection,
            self._transactions,
            self._owners,
            self._clock,
            self._options.lease_s / 3,
            self._begin_again,
            self.clock,
        )
        self._due_events = DueEvents(self._connection, self._transactions, self.clock)
        self._place = FilePlace(self._path)
        self._bell = Waker(Path(f"{self._path}-wal"))
        self._held.callback(self._bell.close)
        self._listening = Wakeups(self._bell, self._connection, self.clock)

    def _close(self) -> None:
        self._fail_waiting()
        try:
            if not self._crashing and self.lost is None:
                self._transactions.run([unattended(lambda connection: members.remove(connection, self._owners.id))])
        finally:
            self._held.close()

    def _fail_waiting(self) -> None:
        waiting = [*self._current, *self._jobs, *self._parked]
        self._current = []
        self._jobs.clear()
        self._parked.clear()
        for job in waiting:
            if isinstance(job, Command) or not job.subscriber.closed:
                job.error = self.lost or DriverUnavailable(f"{self._path} is closed")
        self._tell(waiting)

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
            failed = [*self._current, *self._parked]
            self._current, self._parked = [], []
            for job in failed:
                job.error = job.error or DriverUnavailable(f"{self._path}: {type(error).__name__}: {error}")
            self._tell(failed)
            time.sleep(FAILURE_PAUSE_S)

    def _turn(self) -> None:
        """One round: sleep if there is nothing to do, then do all there is."""
        if not self._jobs and not self._look:
            self._sleep()
        self._place.check()
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._tick(now)
        if self._due_events.move():
            self._look = True
        self._current = gather(self._jobs)
        if self._current:
            self._do(self._current)
            self._current = []
        if self._look:
            self._look = False  # before looking: what is asked for meanwhile is another look
            if self._parked:
                self._look_again()

    def _sleep(self) -> None:
        waiting = bool(self._parked)
        self._sleeping = True
        heard = False
        if not self._jobs and not self._look and not self._stopping:
            heard = self._listening.sleep(self._next_tick - time.monotonic(), waiting=waiting)
        self._sleeping = False
        if waiting and self._listening.notices(heard=heard):
            self._look = True

    def _do(self, jobs: Sequence[Command | Receive]) -> None:
        writes = [job for job in jobs if isinstance(job, Command) and job.writes]
        reads = [job for job in jobs if isinstance(job, Command) and not job.writes]
        receives = [job for job in jobs if isinstance(job, Receive)]
        hungry = [job for job in receives if not job.subscriber.unread]
        if not writes:
            hungry = self._claimable(hungry)
        if writes or hungry:
            self._transactions.run([*writes, *hungry])
            self._tell(writes)
            if any(job.error is None and job.wakes is not None and job.wakes() for job in writes):
                self._look = True  # and never False: the loop may ask for a look meanwhile
        for read_job in reads:
            self._read(read_job)
        self._tell(reads)
        self._serve(receives)

    def _claimable(self, receives: Iterable[Receive]) -> list[Receive]:
        """Those that would get something. Reads only."""
        now_ms = self.clock.now_ms()
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
        self._listening.looked()
        parked = [job for job in self._parked if not job.abandoned]
        self._current, self._parked = [*parked], []
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
                self._parked.append(job)
        self._served += sum([len(job.result) for job in served])
        self._tell(served)
        if self._parked and receives:
            self._find_next_due()

    def _find_next_due(self) -> None:
        bases = {job.subscriber.base for job in self._parked}
        try:
            times = [due_ms for base, due_ms in due_times(self._connection).items() if base in bases]
        except sqlite3.Error:
            return  # whoever claims next meets the same error and reports it
        event_ms = self._due_events.look()
        self._listening.due_ms = min([*times, *([] if event_ms is None else [event_ms])], default=None)

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
                self._upkeep.overdue.append(end)
            subscriber.leases.difference_update(emptied)
            self._look = True

    def _read(self, job: Command) -> None:
        try:
            job.result = job.run(self._connection)
        except sqlite3.Error as error:
            job.error = translate(error, self._path)
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            job.error = error

    # -- what happens by itself

    def _tick(self, now: float) -> None:
        if not self._loop.post(self._mark_alive):
            self._stopping = True
            return
        if self._upkeep.tick(now, self._alive_ms, busy=self._served > BUSY):
            self._look = True
        self._served = 0

    def _begin_again(self, connection: sqlite3.Connection) -> None:
        """Others thought us dead and took everything: go on as a new owner."""
        _log.warning("this process stood still for longer than lease_s; others took over what it had in hand")
        self._owners.register(connection)
        for subscriber in self._subscribers:
            for lease in subscriber.leases:
                lease.lost = True
            subscriber.leases.clear()
            subscriber.unread.clear()

    @property
    def owner(self) -> int:
        """The row of this process."""
        return self._owners.id

    def add(self, subscriber: Subscriber) -> None:
        """A subscriber whose leases are to be kept alive."""
        self._subscribers = self._subscribers | {subscriber}

    def drop(self, subscriber: Subscriber, overdue: Command | None = None) -> None:
        """It is closed; `overdue` failed at its end, and is tried again in every tick."""
        self._subscribers = self._subscribers - {subscriber}
        if overdue is not None:
            self._upkeep.overdue.append(overdue)
