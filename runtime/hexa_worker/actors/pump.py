"""The pump: receives whenever there is room, and passes on what may run."""

from msgspec.structs import replace

from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.lane import RecordOutcome
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.outage import Need, Outage
from hexa_worker.actors.pausing import PausedDeliveries
from hexa_worker.actors.services import WorkerServices
from hexa_worker.backoff import Backoff
from hexa_worker.core.expiry import ExpiryWatch
from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import Crashed
from hexa_worker.core.settlement import counted
from hexa_worker.drivers.base import Source
from hexa_worker.errors import DriverUnavailable
from hexa_worker.faults import fault
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.stats import Counters


class Pump:
    """One worker's pump.

    Args:
        plan: the subscription.
        env: its clock, and its suspects.
        mailbox: gets what may run, and says how much there is room for.
        deduplicator: stands between pump and mailbox; None without deduplication.
        stats: counts what came.
        log: says that the broker is away.
        paused: keeps what is paused.
        outage: told that the broker, or the claim store, is away and is back.
        record_outcome: settles a suspect that is given up.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        plan: Plan,
        env: WorkerServices,
        mailbox: Mailbox,
        deduplicator: Deduplicator | None,
        stats: Counters,
        log: SubscriptionLog,
        paused: PausedDeliveries,
        outage: Outage,
        record_outcome: RecordOutcome,
    ) -> None:
        self._action = plan.action
        self.expiry = ExpiryWatch(env.clock.now_ms)
        self._route = plan.route
        self._monotonic = env.clock.monotonic
        self._suspects = env.suspects
        self._maximum_crashes = env.maximum_crashes
        self._mailbox = mailbox
        self._deduplicator = deduplicator
        self._stats = stats
        self._log = log
        self._outage = outage
        self._record_outcome = record_outcome
        self._stopping = False
        self._paused = paused

    def stop(self) -> None:
        """Receive no more; the source is told by others. Idempotent."""
        self._stopping = True
        self._mailbox.look_for_room()
        self._paused.switch.wake()

    async def run(self, source: Source) -> None:
        """Receive whenever there is room and it is not paused, until the source says it is stopped.

        Cancellation: as `Source.receive`.
        """
        await self._receive_all(source)
        await self._paused.wait_moved()

    async def run_paused(self) -> None:
        """Pass on what was paused and may go on, for ever. Cancellation: safe."""
        await self._paused.run(self._pass_on)

    async def _receive_all(self, source: Source) -> None:
        mailbox, monotonic, backoff = self._mailbox, self._monotonic, Backoff()
        outage, paused, switch = self._outage, self._paused, self._paused.switch
        while not self._stopping:
            if switch.pause.whole or switch.held:
                await switch.wait_changed()
                continue
            room, room_bytes = mailbox.room(monotonic())
            if not room:
                await mailbox.wait_room()
                continue
            try:
                batch = await source.receive(room, room_bytes)
            except DriverUnavailable as error:
                self._log.broker_away(error)
                if outage.missed(Need.RECEIVING, error):
                    backoff = Backoff()
                await backoff.wait()
                continue
            if not batch:
                return
            outage.met(Need.RECEIVING)
            await fault("received")
            self._stats.received += len(batch)
            if paused.active:
                batch = paused.keep(batch)
            if batch:
                await self._pass_on(batch)

    async def _pass_on(self, batch: list[Delivery]) -> None:
        route, expiry = self._route, self.expiry
        if not expiry.seen:
            expiry.look(batch)
        batch = [counted(one, route) if one.attempt else one for one in batch]
        if self._suspects is not None and self._suspects.any():
            batch = self._mark_suspects(batch)
        if self._deduplicator is None:
            self._stats.received_bytes += self._mailbox.put(batch)
        else:
            await self._claim(batch, self._deduplicator)

    async def _claim(self, batch: list[Delivery], deduplicator: Deduplicator) -> None:
        """Let `batch` through the deduplicator; wait while it withholds deliveries."""
        self._stats.received_bytes += await deduplicator.accept(batch)
        if deduplicator.withheld and not self._stopping:
            self._outage.missed(Need.CLAIMING, deduplicator.withheld)
            await deduplicator.wait_open()
            self._outage.met(Need.CLAIMING)

    def _mark_suspects(self, batch: list[Delivery]) -> list[Delivery]:
        """Note on each delivery how many crashes it was in; those over the limit are dead-lettered here."""
        assert self._suspects is not None  # noqa: S101 - the caller looked
        kept: list[Delivery] = []
        for delivery in batch:
            crashes = self._suspects.crashes(self._action, delivery.source, delivery.offset)
            suspect = replace(delivery, crashes=crashes) if crashes else delivery
            if crashes < self._maximum_crashes:
                kept.append(suspect)
                continue
            self._mailbox.hold((suspect,))
            why = self._suspects.why(self._action, delivery.source, delivery.offset)
            self._record_outcome(suspect, Crashed(crashes, why))
        return kept
