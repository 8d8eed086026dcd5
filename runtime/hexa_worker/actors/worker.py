"""One subscription's worker: a pump, a mailbox, lanes, a settler and a sweeper around one source.

A worker runs once. Everything that goes wrong in its handlers ends in a settlement; anything else ends the
worker with an error, and its supervisor makes a new one. Closing the source releases what was in flight.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from anyio import get_current_task

from hexa_worker.actors.answering import build_answering
from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.handler_runtime import HandlerRuntime
from hexa_worker.actors.holding import Hold
from hexa_worker.actors.lane import Lane, LaneParts, NoCell
from hexa_worker.actors.lane_queues import KeyedLaneQueues, LaneQueues
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.outage import Outage
from hexa_worker.actors.outcome_hooks import ToldSettler
from hexa_worker.actors.outcomes import OutcomeHandler
from hexa_worker.actors.parking import Parking
from hexa_worker.actors.pausing import PausedDeliveries, PauseSwitch
from hexa_worker.actors.pump import Pump
from hexa_worker.actors.retry_timer import RetryTimer
from hexa_worker.actors.services import WorkerServices
from hexa_worker.actors.settler import Settler
from hexa_worker.actors.sweeper import sweep
from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DUPLICATE
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source
from hexa_worker.errors import HandlerCancelled
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.stats import Counters

FLUSH_S = 5.0
"""How long the last settlements may take when a worker ends."""
HURRIED_FLUSH_S = 0.8
"""The same after a second stop signal."""


class Worker:
    """One run of one subscription.

    Args:
        plan: what to run.
        env: what all workers of the process share.
        stats: the subscription's counters; they outlive the worker.
        log: the subscription's log.
        switch: says what of the subscription is paused.
        on_running: called when it has begun to consume, and again after its broker was away.
        on_unavailable: told why when its broker, or the claim store, is away.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        plan: Plan,
        env: WorkerServices,
        stats: Counters,
        log: SubscriptionLog,
        switch: PauseSwitch,
        on_running: Callable[[], None],
        on_unavailable: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._env = env
        self._log = log
        self._on_running = on_running
        self._stopping = self._hurried = False
        self._lane_scope = anyio.CancelScope()
        self.source: Source | None = None
        self._mailbox, self._retry_timer = _mailbox(plan, env.clock, stats)
        paused = PausedDeliveries(switch, self._mailbox, plan.order_by, log.full_of_paused)
        self._hold = Hold(env.isolation, self._mailbox, switch, stats) if plan.route.holds else None
        self._outage = Outage(on_unavailable, on_running)
        self._deduplicator: Deduplicator | None = None
        if env.claiming is not None and plan.effect_key is not None:
            self._deduplicator = Deduplicator(plan, env.claiming, self._mailbox, stats, log, self._skip)
        self.settler = Settler(
            plan.route,
            self._mailbox,
            Parking(limit=plan.mailbox, limit_bytes=plan.mailbox_bytes, stats=stats, monotonic=env.clock.monotonic),
            stats,
            log,
            env.clock,
            self._outage,
            None if env.record is None else partial(env.record, plan.action),
            self._deduplicator,
            self._retry_timer,
            notes_postponed=env.driver.capabilities.keeps_attempts,
        )
        self._outcomes = OutcomeHandler(
            plan, env, self._mailbox, self._deduplicator, self._retry_timer, paused, self._hold, self.settler, log
        )
        self._pump = Pump(
            plan, env, self._mailbox, self._deduplicator, stats, log, paused, self._outage, self._outcomes.record
        )
        self._lanes = self._make_lanes(stats)

    # -- its life

    async def run(self) -> None:
        """Consume until `stop`, then drain.

        Raises:
            DriverUnavailable: the broker was away at the start.
            Exception: anything else: the worker is broken and should be made anew.

        Cancellation: what is in hand is released, within `HURRIED_FLUSH_S`.
        """
        source = self.source = await self._env.sources.subscribe(self._plan, self._revoked)
        try:
            if self._stopping:
                return
            self._on_running()
            try:
                await self._serve(source)
            finally:
                with anyio.move_on_after(HURRIED_FLUSH_S, shield=True):
                    await self._flush(source)
        finally:
            with anyio.move_on_after(FLUSH_S, shield=True):
                await source.close()

    async def _serve(self, source: Source) -> None:
        settler = self.settler
        self._env.isolation.watch(self._busy)
        try:
            async with anyio.create_task_group() as background:
                background.start_soon(self._guard, lambda: settler.run(source))
                background.start_soon(self._guard, self._sweep)
                background.start_soon(self._guard, lambda: self._outage.run(source))
                background.start_soon(self._guard, self._pump.run_paused)
                if self._retry_timer is not None:
                    background.start_soon(self._guard, self._retry_timer.run)
                if self._deduplicator is not None:
                    background.start_soon(self._guard, self._deduplicator.run_waiting)
                    background.start_soon(self._guard, self._deduplicator.run_extending)
                    background.start_soon(self._guard, self._deduplicator.run_endings)
                async with anyio.create_task_group() as group:
                    self._lane_scope = group.cancel_scope
                    for lane in self._lanes:
                        group.start_soon(self._guard, lane.run)
                    await self._guard(lambda: self._pump.run(source))
                    self._outcomes.drained = True
                    self._outcomes.release_queued()
                    self._mailbox.close()
                    group.cancel_scope.deadline = anyio.current_time() + (0 if self._hurried else self._env.grace_s)
                settler.close()
                with anyio.move_on_after(HURRIED_FLUSH_S if self._hurried else FLUSH_S):
                    await settler.wait_settled()
                background.cancel_scope.cancel()
        finally:
            self._env.isolation.unwatch(self._busy)

    async def _flush(self, source: Source) -> None:
        """Settle what a cancelled or broken run left, so that it is released and not run twice."""
        self._outcomes.drained = True
        self._outcomes.release_queued()
        self.settler.close()
        if self.settler.pending:
            await self.settler.run(source)
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

    def resume(self) -> int:
        """Run what is held again; how many deliveries that are."""
        return 0 if self._hold is None else self._hold.resume()

    @property
    def lanes(self) -> Sequence[Lane]:
        return self._lanes

    def longest_s(self, now: float) -> float:
        """For how long the handler call has run that runs longest."""
        return max((now - lane.started for lane in self._lanes if lane.current and not lane.waiting), default=0.0)

    @property
    def in_flight(self) -> int:
        """How many deliveries handlers run right now."""
        return sum(len(lane.current) for lane in self._lanes)

    @property
    def held(self) -> int:
        """How many deliveries are received and not settled, the parked ones among them."""
        return self._mailbox.held + len(self.settler.parked)

    @property
    def kept(self) -> int:
        """How many of them are kept because they are paused."""
        return self._mailbox.paused

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

    def _make_lanes(self, stats: Counters) -> list[Lane]:
        plan, env = self._plan, self._env
        lanes: list[Lane] = []
        hooks = self._outcomes.hooks
        middlewares = plan.middlewares if plan.internal else (*env.middlewares, *plan.middlewares)
        parts = LaneParts(
            plan=plan,
            call=build_answering(plan, middlewares),
            runtime=HandlerRuntime(plan, env, lanes, self._deduplicator, self._log),
            mailbox=self._mailbox,
            settler=self.settler if hooks is None else ToldSettler(self.settler, hooks),
            record_outcome=self._outcomes.record,
            stats=stats,
            log=self._log,
            isolation=self._hold or env.isolation,
            expiry=self._pump.expiry,
            maximum_crashes=env.maximum_crashes,
            monotonic=env.clock.monotonic,
        )
        for number in range(plan.concurrency):
            cells = (NoCell(),) if env.journal is None else env.journal.cells(plan.action, number, plan.batch)
            lanes.append(Lane(number, parts, cells))
        return lanes

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
        self.settler.add(Acked(delivery, dropped=DUPLICATE))

    # -- sources that go to others

    async def _revoked(self, sources: frozenset[str]) -> None:
        """Forget what is queued of `sources`; wait until what is in flight of them is settled."""
        self._outcomes.leaving |= sources
        try:
            self._outcomes.release_queued(sources)
            self._release_parked(sources)
            while self._holds(sources):
                await self._mailbox.wait_room()
                self._release_parked(sources)  # refused meanwhile
        finally:
            self._outcomes.leaving -= sources

    def _release_parked(self, sources: frozenset[str]) -> None:
        if self.settler.parked:
            self.settler.forget_parked(sources)

    def _holds(self, sources: frozenset[str]) -> bool:
        running = any(delivery.source in sources for lane in self._lanes for delivery in lane.current)
        return running or self.settler.holds(sources)


def _mailbox(plan: Plan, clock: Clock, stats: Counters) -> tuple[Mailbox, RetryTimer | None]:
    """What waits for lanes, and what lets retries in their place go on, where there are any."""
    busy = plan.concurrency * plan.batch
    if plan.in_place is OrderBy.NONE:
        plain = LaneQueues(plan.order_by, plan.concurrency)
        return Mailbox(plain, limit=plan.mailbox, limit_bytes=plan.mailbox_bytes, busy=busy), None
    maximum_keys = plan.retry.waiting_keys(plan.mailbox)
    keyed = KeyedLaneQueues(plan.order_by, plan.concurrency, maximum_keys=maximum_keys, clock=clock, stats=stats)
    mailbox = Mailbox(keyed, limit=plan.mailbox, limit_bytes=plan.mailbox_bytes, busy=busy)
    return mailbox, RetryTimer(keyed, mailbox, clock)
