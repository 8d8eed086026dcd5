"""The settler: gathers settlements and makes them take effect, in batches.

While one batch is on its way to the broker the next one gathers, so a slow broker makes larger batches and
a fast one small delays. A settlement is never given up while the worker lives: an unavailable broker is
asked again for ever; a retry or dead-letter record that is refused for its size is made smaller; one that is refused
for another reason is parked, its original un-acknowledged, and tried again now and then; only a lost lease ends it,
because the delivery is somebody else's by then.
"""

from collections.abc import Callable, Collection, Sequence

import anyio

from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.outage import Need, Outage
from hexa_worker.actors.parking import Parked, Parking
from hexa_worker.actors.retry_timer import RetryTimer
from hexa_worker.backoff import Backoff
from hexa_worker.clock import Clock
from hexa_worker.core.cutting import smaller
from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import DUPLICATE, EXPIRED
from hexa_worker.core.settlement import (
    Acked,
    DeadLettered,
    Postponed,
    Released,
    RetryAt,
    Route,
    Settlement,
    is_snooze,
)
from hexa_worker.drivers.base import Source, Unsettled
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, LeaseLost, RecordTooLarge
from hexa_worker.faults import fault
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.stats import Counters

DROPPED = "parked, and dropped by command"
SUSPECTS_S = 5.0
"""How long the next suspect waits for the settlement of the one before, should the broker be away."""
Recorder = Callable[[Sequence[Settlement], int], None]


class Settler:
    """Settles what the lanes hand over.

    Args:
        route: where the subscription's failures go.
        mailbox: gets its room back.
        parking: keeps what the broker refuses.
        stats: counts what took effect.
        log: one line per failure.
        clock: stamps what the recorder gets.
        outage: told that the broker is away and is back, and the same of room for what is parked.
        record: told of every batch that took effect (lineage); must not block.
        deduplicator: told of every settlement before and after; None without deduplication.
        retry_timer: where postponed deliveries wait; None: nothing is.
        notes_postponed: the source is told of postponed deliveries, too.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        route: Route,
        mailbox: Mailbox,
        parking: Parking,
        stats: Counters,
        log: SubscriptionLog,
        clock: Clock,
        outage: Outage,
        record: Recorder | None,
        deduplicator: Deduplicator | None,
        retry_timer: RetryTimer | None,
        *,
        notes_postponed: bool,
    ) -> None:
        self.pending: list[Settlement] = []
        self._route = route
        self._parking = parking
        self._mailbox = mailbox
        self._stats = stats
        self._log = log
        self._clock = clock
        self._outage = outage
        self._record = record
        self._deduplicator = deduplicator
        self._retry_timer = retry_timer
        self._skips_postponed = retry_timer is not None and not notes_postponed
        self._work = anyio.Event()
        self.sleeping = False
        self._under_way: list[Settlement] = []
        self._closing = False
        self._ended = anyio.Event()

    def add(self, settlement: Settlement) -> None:
        self.pending.append(settlement)
        if self.sleeping:
            self.wake()

    def wake(self) -> None:
        self.sleeping = False
        self._work.set()

    def close(self) -> None:
        """`run` returns once nothing is pending. What is parked is handed back."""
        self._closing = True
        self.forget_parked()
        self.wake()

    async def run(self, source: Source) -> None:
        """Settle what came from `source` until closed and empty.

        Cancellation: a batch under way ends first, as far as the driver's own deadline lets it.
        """
        while True:
            if not self.pending:
                if self._closing:
                    self._ended.set()
                    return
                await self._wait()
            batch, self.pending = self.pending, []
            if not self._closing:
                batch += self._unparked(self._parking.take_due())
            if batch:
                await self._settle_or_put_back(source, batch)
                self._parking.tried()
                self._look_whether_full()

    async def wait_settled(self) -> None:
        """Wait until a closed settler has nothing left. Cancellation: safe."""
        await self._ended.wait()

    def holds(self, sources: frozenset[str]) -> bool:
        """Whether a settlement of one of `sources` is pending or under way."""
        return any(
            settlement.delivery.source in sources
            for settlements in (self.pending, self._under_way)
            for settlement in settlements
        )

    async def wait_suspects(self) -> None:
        """Wait until no suspect's settlement is pending or under way, as long as that makes sense.

        The next one may kill the process, and what is not settled by then comes again. Cancellation: safe.
        """
        with anyio.move_on_after(SUSPECTS_S):
            while any(one.delivery.crashes for one in (*self.pending, *self._under_way)):
                await self._mailbox.wait_room()

    async def _wait(self) -> None:
        self._work = anyio.Event()
        self.sleeping = True
        if self._parking:
            with anyio.move_on_after(self._parking.patience_s):
                await self._work.wait()
            self.sleeping = False
        else:
            await self._work.wait()

    # -- what is parked

    def forget_parked(self, sources: frozenset[str] | None = None) -> None:
        """Hand back what is parked, or what of it came from `sources`: others may have it."""
        taken = self._parking.take(lambda delivery: sources is None or delivery.source in sources)
        for settlement in self._unparked([one.settlement for one in taken]):
            self.add(Released(settlement.delivery))

    def try_parked(self, ids: Collection[str] | None) -> int:
        """Ask the broker now for those with these message ids, or all; how many there are."""
        count = self._parking.hasten(ids)
        self.wake()
        return count

    def drop_parked(self, ids: Collection[str] | None) -> int:
        """Acknowledge those with these message ids, or all, without a record; how many there were."""
        taken = self._parking.take(lambda delivery: ids is None or delivery.message_id in ids)
        for settlement in self._unparked([one.settlement for one in taken]):
            self._log.dropped(settlement.delivery, DROPPED)
            self.add(Acked(settlement.delivery, dropped=DROPPED))
        return len(taken)

    @property
    def parked(self) -> tuple[Parked, ...]:
        return self._parking.parked

    def _look_whether_full(self) -> None:
        if self._parking.full is self._mailbox.blocked:
            return
        self._mailbox.blocked = self._parking.full
        if self._parking.full:
            self._log.parking_full(len(self._parking))
            self._outage.missed(Need.PARKING, DriverRejected(f"{len(self._parking)} parked deliveries fill their room"))
        else:
            self._outage.met(Need.PARKING)
            self._mailbox.look_for_room()

    def _unparked(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """They are about to be settled, and take room in the mailbox again."""
        self._mailbox.hold([one.delivery for one in settlements])
        return settlements

    def _park(self, settlement: Settlement, error: DriverRejected) -> None:
        self._parking.park(settlement, error)
        self._mailbox.release(1, len(settlement.delivery.payload))
        self._log.parked(settlement.delivery, error)

    # -- settling

    async def _settle_or_put_back(self, source: Source, batch: list[Settlement]) -> None:
        """As `_settle`; when it is cut short, what is not settled is pending again (settling twice is harmless)."""
        try:
            await self._settle(source, batch)
        finally:
            if self._under_way:
                self.pending = [*self._under_way, *self.pending]
                self._under_way = []

    async def _settle(self, source: Source, batch: list[Settlement]) -> None:
        backoff = Backoff()
        deduplicator = self._deduplicator
        self._under_way = batch
        if deduplicator is not None:
            await deduplicator.settling(batch)
        while batch:
            self._under_way = batch
            try:
                await fault("before-settle")
                with anyio.CancelScope(shield=True):
                    unsettled = await source.settle(self._concerning_source(batch))
                await fault("after-settle")
            except DriverUnavailable as error:
                self._log.broker_away(error)
                self._outage.missed(Need.SETTLING, error)
                await backoff.wait()
                continue
            again: list[Settlement] = []
            if unsettled:
                batch = self._sort_out(batch, unsettled, again)
            self._count(batch)
            if deduplicator is not None:
                deduplicator.settled(batch)
            if self._record is not None:
                self._record(batch, self._clock.now_ms())
            self._under_way = batch = again
            if again:
                await backoff.wait()
            else:
                self._outage.met(Need.SETTLING)

    def _concerning_source(self, batch: list[Settlement]) -> list[Settlement]:
        if not self._skips_postponed:
            return batch
        return [settlement for settlement in batch if type(settlement) is not Postponed]

    def _sort_out(
        self, batch: list[Settlement], unsettled: Sequence[Unsettled], again: list[Settlement]
    ) -> list[Settlement]:
        """The settlements that took effect; the others are forgotten, parked or put into `again`."""
        failed = {id(one.settlement) for one in unsettled}
        for one in unsettled:
            if isinstance(one.settlement, Postponed):
                self._sort_out_postponed(one.settlement, one.error, again)
            elif isinstance(one.error, LeaseLost):
                self._forget(one.settlement.delivery)
            elif isinstance(one.error, DriverRejected):
                following = self._instead(one.settlement, one.error)
                if following is None:
                    self._park(one.settlement, one.error)
                else:
                    again.append(following)
            else:
                self._outage.missed(Need.SETTLING, one.error)
                again.append(one.settlement)
        return [settlement for settlement in batch if id(settlement) not in failed]

    def _sort_out_postponed(self, settlement: Postponed, error: DriverError, again: list[Settlement]) -> None:
        """Its source could not note the attempt; the delivery itself is still in hand, if it was not lost."""
        if isinstance(error, DriverUnavailable):
            again.append(settlement)
        elif (
            isinstance(error, LeaseLost) and self._retry_timer is not None and self._retry_timer.drop(settlement.again)
        ):
            self._forget(settlement.again)  # otherwise it is running, and its own settlement will tell

    def _forget(self, delivery: Delivery) -> None:
        self._stats.lost += 1
        if self._deduplicator is not None:
            self._deduplicator.lost(delivery)
        self._log.lease_lost(delivery)
        self._mailbox.release(1, len(delivery.payload))

    def _instead(self, settlement: Settlement, error: DriverRejected) -> Settlement | None:
        """What to settle instead of what was refused; None: nothing, it is parked."""
        following = self._smaller(settlement, error)
        if following is None and self._closing and not isinstance(settlement, Released):
            return Released(settlement.delivery)  # nobody would try it again
        return following

    def _smaller(self, settlement: Settlement, error: DriverRejected) -> DeadLettered | None:
        """What to store instead of what is too large; None: that does not help."""
        if not (isinstance(error, RecordTooLarge) and isinstance(settlement, RetryAt | DeadLettered)):
            return None
        following = smaller(settlement, self._route, str(error), self._clock.now_ms())
        if following is not None:
            self._log.too_large(settlement, error)
        return following

    def _count(self, batch: Sequence[Settlement]) -> None:
        stats = self._stats
        acked = size = kept = 0
        for settlement in batch:
            size += len(settlement.delivery.payload)
            if type(settlement) is Acked and settlement.dropped is None:
                acked += 1
            elif isinstance(settlement, RetryAt | Postponed):
                if is_snooze(settlement):
                    stats.snoozed += 1
                else:
                    stats.retried += 1
                if isinstance(settlement, Postponed):
                    kept += 1
                    size -= len(settlement.delivery.payload)
            elif isinstance(settlement, DeadLettered):
                stats.dead_lettered += 1
            elif isinstance(settlement, Released):
                stats.released += 1
            elif settlement.dropped == DUPLICATE:
                stats.duplicates += 1
            elif settlement.dropped == EXPIRED:
                stats.expired += 1
            else:
                stats.dropped += 1
        stats.acked += acked
        self._mailbox.release(len(batch) - kept, size)
