"""One subscription's deliveries in one process."""

import sqlite3
from collections.abc import Sequence

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Backlog, Unsettled
from hexa_worker.drivers.embedded.backlog import backlog
from hexa_worker.drivers.embedded.leasing.leases import LogLease, give_back
from hexa_worker.drivers.embedded.leasing.settling import Settling
from hexa_worker.drivers.embedded.loop.commands import Command
from hexa_worker.drivers.embedded.loop.thread import BrokerThread
from hexa_worker.drivers.embedded.storage.place import FileGone
from hexa_worker.drivers.embedded.subscriber import Subscriber
from hexa_worker.errors import DriverError, DriverRejected, LeaseLost


class EmbeddedSource:
    """See `hexa_worker.drivers.base.Source`."""

    def __init__(self, thread: BrokerThread, subscriber: Subscriber) -> None:
        self._thread = thread
        self._subscriber = subscriber
        self._stopped = False
        self._closed = False
        thread.add(subscriber)

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Source.receive`."""
        if self._stopped:
            return []
        try:
            return await self._thread.receive(self._subscriber, max_count, max_bytes)
        except FileGone as error:  # a new source reads the file that is there now
            raise DriverRejected(str(error)) from error

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`."""
        settling = Settling(self._subscriber, settlements)
        now_ms = self._thread.clock.now_ms()
        try:
            await self._thread.write(
                lambda connection: settling.run(connection, now_ms),
                committed=settling.committed,
                wakes=lambda: settling.wakes,
                changes=self._subscriber,
            )
        except FileGone as error:  # it concerns a file that nobody reads any more
            lost = LeaseLost(str(error))
            return [Unsettled(settlement, lost) for settlement in settlements]
        except DriverRejected as error:
            if len(settlements) == 1:
                return [Unsettled(settlement, error) for settlement in settlements]
            return [one for settlement in settlements for one in await self.settle((settlement,))]  # most are innocent
        return settling.unsettled

    async def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Source.backlog`."""
        now_ms = self._thread.clock.now_ms()
        found: Backlog = await self._thread.read(lambda connection: backlog(connection, self._subscriber, now_ms))
        return found

    def stop(self) -> None:
        """See `hexa_worker.drivers.base.Source.stop`."""
        self._stopped = True
        self._subscriber.closed = True
        self._thread.look()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Source.close`."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        given: list[LogLease] = []
        job = Command(
            lambda connection: self._give_back(connection, given),
            writes=True,
            committed=lambda: self._forget(given),
            wakes=lambda: True,
            changes=self._subscriber,
        )
        try:
            await self._thread.do(job)
        except BaseException as error:  # they may stay ours for as long as this process lives, and nobody runs them
            self._thread.drop(self._subscriber, overdue=job)
            if not isinstance(error, DriverError):
                raise
        else:
            self._thread.drop(self._subscriber)

    def _give_back(self, connection: sqlite3.Connection, given: list[LogLease]) -> None:
        given[:] = self._subscriber.leases
        for lease in given:
            give_back(connection, lease)

    def _forget(self, given: Sequence[LogLease]) -> None:
        for lease in given:
            lease.lost = True
        self._subscriber.leases.difference_update(given)
        self._subscriber.unread.clear()
