"""One subscription's worker: a pump, a mailbox, lanes, a settler and a sweeper around one source.

A worker runs once. Everything that goes wrong in its handlers ends in a settlement; anything else ends the
worker with an error, and its supervisor makes a new one. Closing the source hands back what was in hand.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from anyio import get_current_task

from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.invoke import build_call
from hexa_worker.actors.lane import Lane, LaneParts
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.outage import Outage
from hexa_worker.actors.parking import Parking
from hexa_worker.actors.pump import Pump
from hexa_worker.actors.retry_timer import RetryTimer
from hexa_worker.actors.services import WorkerServices
from hexa_worker.actors.settler import Settler
from hexa_worker.actors.sweeper import sweep
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DUPLICATE, DeadLetter, Interrupted, Outcome, Raised, error_of, is_hopeless
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, RetryAt, Settlement, settle
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.opening import spec_of
from hexa_worker.errors import ConfigError, HandlerCancelled
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.subscriptions.transactions import Transactions
from hexa_worker.telemetry.log import DeliveryLogger, SubscriptionLog
from hexa_worker.telemetry.stats import Counters
from hexa_worker.telemetry.tracebacks import format_error

FLUSH_S = 5.0
"""How long the last settlements may take when a worker ends."""
HURRIED_FLUSH_S = 0.8
"""The same after a second stop signal."""
_FAILED = (RetryAt, DeadLettered)


class Worker:
    """One run of one subscription.

    Args:
        plan: what to run.
        env: what all workers of the process share.
        stats: the subscription's counters; they outlive the worker.
        log: the subscription's log.
        on_running: called when it has begun to consume, and again after its broker was away.
        on_unavailable: told why when its broker, or the claim store, is away.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        plan: Plan,
        env: WorkerServices,
        stats: Counters,
        log: SubscriptionLog,
        on_running: Callable[[], None],
        on_unavailable: Callable[[str], None],
    ) -> None:
        self.action = plan.action
        self.state = env.state
        self._plan = plan
        self._route = plan.route
        self._env = env
        self._stats = stats
        self._log = log
        self._on_running = on_running
        self._lanes: list[Lane] = []
        self._stopping = False
        self._hurried = False
        self._lane_scope = anyio.CancelScope()
        self._leaving = set[str]()  # sources that are being revoked
        self._drained = False  # nothing is queued any more, and nothing will be
        self.source: Source | None = None
        self._waits: RetryTimer | None = None
        if plan.in_place is not OrderBy.NONE:
            self._waits = RetryTimer(
                order_by=plan.order_by,
                lanes=plan.concurrency,
                maximum_keys=plan.retry.waiting_keys(plan.mailbox),
                clock=env.clock,
                stats=stats,
            )
        self._mailbox = Mailbox(
            limit=plan.mailbox,
            limit_bytes=plan.mailbox_bytes,
            lanes=plan.concurrency,
            order_by=plan.order_by,
            busy=plan.concurrency * plan.batch,
            waits=self._waits,
        )
        self._outage = Outage(on_unavailable, on_running)
        self._parking = Parking(
            limit=plan.mailbox, limit_bytes=plan.mailbox_bytes, stats=stats, monotonic=env.clock.monotonic
        )
        self._deduplicator: Deduplicator | None = None
        if env.claiming is not None and plan.effect_key is not None:
            self._deduplicator = Deduplicator(plan, env.claiming, self._mailbox, stats, log, self._skip)
        self._pump = Pump(
            plan,
            env,
            self._mailbox,
            self._deduplicator,
            stats,
            log,
            outage=self._outage,
            record_outcome=self._record_outcome,
        )

    # -- its life

    async def run(self) -> None:
        """Consume until `stop`, then drain.

        Raises:
            DriverUnavailable: the broker was away at the start.
            Exception: anything else: the worker is broken and should be made anew.

        Cancellation: what is in hand is released, within `HURRIED_FLUSH_S`.
        """
        source = self.source = await self._env.driver.subscribe(spec_of(self._plan), self._revoked)
        try:
            if self._stopping:
                return
            record = None if self._env.record is None else partial(self._env.record, self._plan.action)
            settler = self._settler = Settler(
                source,
                self._route,
                self._mailbox,
                self._parking,
                self._stats,
                self._log,
                self._env.clock,
                self._outage,
                record,
                self._deduplicator,
                keeps_attempts=self._env.driver.capabilities.keeps_attempts,
                lost=None if self._waits is None else self._lost,
            )
            lanes = self._make_lanes(settler)
            self._on_running()
            try:
                await self._serve(source, settler, lanes)
            finally:
                with anyio.move_on_after(HURRIED_FLUSH_S, shield=True):
                    await self._flush(settler)
        finally:
            with anyio.move_on_after(FLUSH_S, shield=True):
                await source.close()

    async def _serve(self, source: Source, settler: Settler, lanes: Sequence[Lane]) -> None:
        self._env.gate.watch(self._busy)
        try:
            async with anyio.create_task_group() as background:
                background.start_soon(self._guard, settler.run)
                background.start_soon(self._guard, self._sweep)
                background.start_soon(self._guard, lambda: self._outage.run(source))
                if self._waits is not None:
                    background.start_soon(self._guard, self._mailbox.run_waits)
                if self._deduplicator is not None:
                    background.start_soon(self._guard, self._deduplicator.run_waiting)
                    background.start_soon(self._guard, self._deduplicator.run_extending)
                    background.start_soon(self._guard, self._deduplicator.run_endings)
                async with anyio.create_task_group() as group:
                    self._lane_scope = group.cancel_scope
                    for lane in lanes:
                        group.start_soon(self._guard, lane.run)
                    await self._guard(lambda: self._pump.run(source))
                    self._drained = True
                    self._release_queued()
                    self._mailbox.close()
                    group.cancel_scope.deadline = anyio.current_time() + (0 if self._hurried else self._env.grace_s)
                settler.close()
                with anyio.move_on_after(HURRIED_FLUSH_S if self._hurried else FLUSH_S):
                    await settler.wait_settled()
                background.cancel_scope.cancel()
        finally:
            self._env.gate.unwatch(self._busy)

    async def _flush(self, settler: Settler) -> None:
        """Settle what a cancelled or broken run left, so that it is released and not run twice."""
        self._drained = True
        self._release_queued()
        settler.close()
        if settler.pending:
            await settler.run()
        if self._deduplicator is not None:
            await self._deduplicator.flush()

    def stop(self) -> None:
        """Receive no more, let running handlers end within the grace, release the rest. Idempotent."""
        self._stopping = True
        if self._deduplicator is not None:
            self._deduplicator.stop()
        self._pump.stop()
        if self.source is not None:
            self.source.stop()

    def stop_now(self) -> None:
        """Cancel running handlers too. Idempotent."""
        self._hurried = True
        self.stop()
        self._lane_scope.cancel()

    @property
    def in_flight(self) -> int:
        """How many deliveries handlers run right now."""
        return sum(len(lane.current) for lane in self._lanes)

    @property
    def held(self) -> int:
        """How many deliveries are received and not settled, the parked ones among them."""
        return self._mailbox.held + len(self._parking)

    @property
    def settler(self) -> Settler | None:
        """Knows what is parked; None before it consumes."""
        return self._settler if self._lanes else None

    async def _guard(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part; whatever it raises reaches the supervisor as an ordinary exception.

        KeyboardInterrupt or a foreign CancelledError that crossed a task's edge would take siblings along.
        """
        try:
            await run()
        except Exception:
            raise
        except BaseException as error:
            if get_current_task().has_pending_cancellation():
                raise
            raise HandlerCancelled(f"{type(error).__qualname__} from inside a worker") from error

    # -- its parts

    def _make_lanes(self, settler: Settler) -> list[Lane]:
        plan, env = self._plan, self._env
        parts = LaneParts(
            plan=plan,
            call=build_call(plan.handler, (*env.middlewares, *plan.middlewares), plan.threads),
            runtime=self,
            mailbox=self._mailbox,
            acks=settler,
            record_outcome=self._record_outcome,
            stats=self._stats,
            log=self._log,
            gate=env.gate,
            maximum_crashes=env.maximum_crashes,
            monotonic=env.clock.monotonic,
        )
        for number in range(plan.concurrency):
            lane = Lane(number, parts)
            if env.journal is not None:
                lane = Lane(number, parts, env.journal.cells(plan.action, number, plan.batch))
            self._lanes.append(lane)
        return self._lanes

    def _busy(self) -> int:
        return sum(1 for lane in self._lanes if lane.current and not lane.waiting)

    async def _sweep(self) -> None:
        await sweep(
            self._lanes,
            monotonic=self._env.clock.monotonic,
            timeout_s=self._plan.timeout_s,
            stuck_after_s=self._env.stuck_after_s,
            stuck=self._stuck,
        )

    def _stuck(self, delivery: Delivery, seconds: float) -> None:
        self._log.stuck(delivery, seconds)
        self._env.stuck(delivery)

    def _skip(self, delivery: Delivery) -> None:
        self._settler.add(Acked(delivery, dropped=DUPLICATE))

    def _record_outcome(self, delivery: Delivery, outcome: Outcome) -> None:
        """Decide what is done about an outcome, say so, and hand it to the settler."""
        try:
            settlement = self._settlement(delivery, outcome)
        except BaseException as error:  # noqa: BLE001 - the outcome is an object of the user's, and may be anything
            unreadable = TypeError(f"its outcome cannot be read: {type(error).__qualname__}")
            settlement = self._settlement(delivery, Raised(unreadable))
        if isinstance(settlement, Postponed):
            self._postpone(settlement)
            return
        if isinstance(settlement, _FAILED):
            self._log.failure(settlement)
        elif isinstance(settlement, Acked) and settlement.dropped is not None:
            self._log.dropped(delivery, settlement.dropped)
        self._settler.add(settlement)

    def _traceback(self, delivery: Delivery, outcome: Outcome) -> str:
        """Of what is kept only: it takes its time."""
        last = self._plan.retry.next_retry(delivery.attempt) is None or isinstance(outcome, DeadLetter)
        error = error_of(outcome)
        if error is None or not (last or self._log.debug or is_hopeless(error)):
            return ""
        return format_error(error)

    def _settlement(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        return settle(
            outcome,
            delivery,
            self._route,
            now_ms=self._env.clock.now_ms(),
            jitter=random.random() if self._plan.retry.jitter else 0.0,  # noqa: S311 - spreads load
            traceback=self._traceback(delivery, outcome),
        )

    def _postpone(self, settlement: Postponed) -> None:
        """Run it again later, in its place; whoever has it by then.

        It may only be handed back once what is queued behind it was, or that would run before it.
        """
        delivery, again = settlement.delivery, settlement.again
        self._log.failure(settlement)
        if self._deduplicator is not None:
            self._deduplicator.postponed(delivery, again)
        self._settler.add(settlement)
        if self._drained or again.source in self._leaving:
            self._record_outcome(again, Interrupted())
        else:
            self._mailbox.postpone(again)

    def _lost(self, again: Delivery) -> None:
        """What was postponed is somebody else's by now; if it is running, its own settlement will tell."""
        assert self._waits is not None  # noqa: S101 - nothing is postponed without it
        lane = self._waits.drop(again)
        if lane is None:
            return
        self._stats.lost += 1
        self._log.lease_lost(again)
        if self._deduplicator is not None:
            self._deduplicator.lost(again)
        self._mailbox.release(1, len(again.payload))
        self._mailbox.let_go_on({lane})

    def _release_queued(self, sources: frozenset[str] | None = None) -> None:
        waiting = [] if self._deduplicator is None else self._deduplicator.take(sources)
        for delivery in (*self._mailbox.take_queued(sources), *waiting):
            self._record_outcome(delivery, Interrupted())

    async def _revoked(self, sources: frozenset[str]) -> None:
        """Forget what is queued of `sources`; wait until what is in hand of them is settled."""
        self._leaving |= sources
        try:
            self._release_queued(sources)
            self._release_parked(sources)
            while self._in_flight(sources):
                await self._mailbox.wait_room()
                self._release_parked(sources)  # refused meanwhile
        finally:
            self._leaving -= sources

    def _release_parked(self, sources: frozenset[str]) -> None:
        if self._parking:
            self._settler.forget_parked(sources)

    def _in_flight(self, sources: frozenset[str]) -> bool:
        if not self._lanes:
            return False  # it has not begun
        running = any(delivery.source in sources for lane in self._lanes for delivery in lane.current)
        return running or self._settler.holds(sources)

    # -- what a handler's context asks for (`hexa_worker.subscriptions.api.Runtime`)

    async def emit(self, event: Event, parent: Lineage | None) -> str:
        """Publish and return the event id once the broker has confirmed."""
        return await self._env.emit(event, parent)

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Move the deadline of a running delivery to `seconds` from now."""
        if math.isnan(seconds):
            raise ValueError("seconds must be a number, not NaN")
        for lane in self._lanes:
            if any(one is delivery for one in lane.current):
                lane.deadline = self._env.clock.monotonic() + seconds

    def fence(self, delivery: Delivery) -> int | None:
        """The fence of a delivery's claim; None without one."""
        return None if self._deduplicator is None else self._deduplicator.fence(delivery)

    @property
    def transactions(self) -> Transactions:
        """The outbox. Raises ConfigError when worker.toml has none."""
        if self._env.transactions is None:
            raise ConfigError("there is no outbox", where="outbox", hint="add [outbox] with a url to worker.toml")
        return self._env.transactions

    def logger(self, delivery: Delivery, lineage: Lineage, items: int = 1) -> DeliveryLogger:
        """A logger bound to a delivery, or to a batch of so many `items` by its first one."""
        return self._log.bound(delivery, lineage, items)
