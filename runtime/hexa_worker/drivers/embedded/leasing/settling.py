"""Making settlements take effect, those of one call in one transaction.

The fence comes first: a lease that is no longer ours gets nothing written, neither progress nor records. What a
lease keeps in memory changes only once the transaction has committed (`Settling.committed`).
"""

import sqlite3
from collections.abc import Sequence

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, Released, RetryAt, Settlement
from hexa_worker.drivers.base import Unsettled
from hexa_worker.drivers.embedded.leasing import leases, postponed
from hexa_worker.drivers.embedded.leasing.leases import DelayedLease, LeaseChange, LogLease
from hexa_worker.drivers.embedded.storage.append import store
from hexa_worker.drivers.embedded.storage.records import checked_headers
from hexa_worker.drivers.embedded.subscriber import Subscriber
from hexa_worker.errors import DriverRejected, LeaseLost

_STORED = (RetryAt, DeadLettered)


class Settling:
    """One call of `Source.settle`.

    Attributes:
        unsettled: what did not take effect.
        wakes: somebody may have something to receive afterwards.
    """

    def __init__(self, subscriber: Subscriber, settlements: Sequence[Settlement]) -> None:
        self.unsettled: list[Unsettled] = []
        self.wakes = False
        self._subscriber = subscriber
        self._settlements = settlements
        self._changes: list[tuple[LogLease, LeaseChange]] = []
        self._returned: list[tuple[LogLease, list[int]]] = []
        self._postponed: list[tuple[LogLease, Sequence[Postponed]]] = []
        self._records: list[Message] = []
        self._headers: list[bytes | None] = []

    def run(self, connection: sqlite3.Connection, now_ms: int) -> None:
        """Write everything. Inside a write transaction of the caller; may be run again if that fails."""
        self.unsettled, self.wakes = [], False
        self._changes, self._returned, self._postponed, self._records, self._headers = [], [], [], [], []
        groups: dict[LogLease, list[Settlement]] = {}
        last: LogLease | None = None
        group: list[Settlement] = []
        for settlement in self._settlements:
            token = settlement.delivery.token
            if token is not last:  # mostly those of one lease follow one another
                last, group = token, groups.setdefault(token, [])
            group.append(settlement)
        for lease, group in groups.items():
            self._settle_lease(connection, lease, group)
        if self._records:
            self.wakes = True
            store(connection, self._records, self._headers, now_ms)

    def committed(self) -> None:
        """What was written is durable: the leases may know."""
        held = self._subscriber.leases
        for lease, offsets in self._returned:
            lease.returned.update(offsets)
        for lease, later in self._postponed:
            lease.postpone(later)
        for lease, change in self._changes:
            lease.apply(change)
            if lease.remaining == len(lease.returned):
                lease.lost = lease.remaining > 0
                held.discard(lease)

    def _settle_lease(self, connection: sqlite3.Connection, lease: LogLease, group: list[Settlement]) -> None:
        if lease.lost:
            self._lose(group)
            return
        finished = [settlement.delivery.offset for settlement in group if type(settlement) is Acked]
        released: list[int] = []
        records: list[tuple[Message, bytes | None]] = []
        if len(finished) < len(group):
            records = self._sort(lease, group, finished, released)
        later: list[Postponed] = []
        if self._subscriber.spec.in_place:
            later = [one for one in group if isinstance(one, Postponed) and lease.is_open(one.delivery.offset)]
        kept = released if lease.ordered else []
        change = lease.finishing(finished if kept else finished + released)
        if change.remaining == lease.remaining and not kept and not later:
            return  # all settled before
        if not leases.advance(connection, lease, change):
            self._lose(group, lost=lease)
            return
        self._changes.append((lease, change))
        self._records += [record for record, _ in records]
        self._headers += [headers for _, headers in records]
        if self._subscriber.spec.in_place and not isinstance(lease, DelayedLease):
            self._note(connection, lease, later, [one.delivery for one in group if one.delivery.comes_again], finished)
        self._give_back(connection, lease, change, released)
        if isinstance(lease, DelayedLease):
            leases.delete_delayed(connection, lease, set(finished).difference(released) if released else finished)
        elif lease.ordered and not change.remaining:
            self.wakes = True

    def _note(
        self,
        connection: sqlite3.Connection,
        lease: LogLease,
        later: Sequence[Postponed],
        retried: Sequence[Delivery],
        finished: Sequence[int],
    ) -> None:
        """Keep what was postponed for whoever comes after us; forget what is finished of it."""
        if later:
            self._postponed.append((lease, later))
            postponed.note(connection, self._subscriber.id, lease.channel, later)
        if retried:
            over = {one.offset for one in retried}.intersection(finished)
            postponed.forget(connection, self._subscriber.id, lease.channel, over)

    def _sort(
        self, lease: LogLease, group: list[Settlement], finished: list[int], released: list[int]
    ) -> list[tuple[Message, bytes | None]]:
        """Sort what was not simply acknowledged; returns the records to store and their encoded headers."""
        records: list[tuple[Message, bytes | None]] = []
        seen: set[int] = set()
        for settlement in group:
            offset = settlement.delivery.offset
            if isinstance(settlement, Acked | Postponed) or offset in seen or not lease.is_open(offset):
                continue
            seen.add(offset)
            if isinstance(settlement, Released):
                released.append(offset)
            elif isinstance(settlement, _STORED):
                try:
                    records.append((settlement.record, checked_headers(settlement.record)))
                    finished.append(offset)
                except DriverRejected as error:
                    self.unsettled.append(Unsettled(settlement, error))
        return records

    def _give_back(
        self, connection: sqlite3.Connection, lease: LogLease, change: LeaseChange, released: list[int]
    ) -> None:
        if not lease.ordered:
            if released:
                self.wakes = True
                leases.give_back_some(connection, self._subscriber.id, lease, change, sorted(released))
            return
        if released:
            self._returned.append((lease, released))
        if change.remaining and change.remaining == len(lease.returned.union(released)):
            self.wakes = True
            connection.execute("UPDATE leases SET owner = 0 WHERE id = ? AND owner = ?", (lease.id, lease.owner))

    def _lose(self, group: list[Settlement], lost: LogLease | None = None) -> None:
        if lost is not None:
            lost.lost = True
            self._subscriber.leases.discard(lost)
        error = LeaseLost("another process has taken this delivery over")
        self.unsettled += [Unsettled(settlement, error) for settlement in group if _was_open(lost, settlement.delivery)]


def _was_open(lease: LogLease | None, delivery: Delivery) -> bool:
    token = lease or delivery.token
    return not isinstance(token, LogLease) or token.is_open(delivery.offset)
