"""The supervisor: one-for-one, each subscription's worker isolated from its siblings.

A worker that breaks is made anew with exponential backoff inside an intensity window; one that keeps
breaking is failed and reported while its siblings run on. A broker that is away is no failure: it is tried
again for ever. So is one that refuses what it took before: rights come back, and topics are made again.
"""

from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio import get_current_task
from msgspec.structs import replace

from hexa_worker.actors.pausing import PauseSwitch
from hexa_worker.actors.services import WorkerServices
from hexa_worker.actors.worker import Worker
from hexa_worker.backoff import LONGEST_REFUSAL_S, Backoff
from hexa_worker.core.controls import Controls
from hexa_worker.core.lifecycle import StateChange, WorkerState, advance
from hexa_worker.core.restart import RestartIntensity, RestartPolicy
from hexa_worker.core.scrubbing import encodable
from hexa_worker.drivers.base import Source
from hexa_worker.errors import (
    DriverBroken,
    DriverError,
    DriverRejected,
    DriverUnavailable,
    HandlerCancelled,
    only_error,
)
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.report import Report, SubscriptionReport
from hexa_worker.telemetry.stats import Counters

GOOD_START_S = 5.0
"""A worker that the broker refuses before it has run for so long has never run well."""


class Supervised:
    """One subscription under supervision, across the runs of its worker.

    Attributes:
        plan: what it runs.
        state: where it is in its life.
        stats: its counters since the process started.
        error: text of its last failure, or empty.
        switch: says what of it is paused.
    """

    def __init__(
        self,
        plan: Plan,
        env: WorkerServices,
        log: SubscriptionLog,
        policy: RestartPolicy,
        changed: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.state = WorkerState.STARTING
        self.stats = Counters()
        self.error = ""
        self.switch = PauseSwitch()
        self._env = env
        self._log = log
        self._intensity = RestartIntensity(policy)
        self._changed = changed
        self._worker: Worker | None = None
        self._stop = anyio.Event()
        self._renews = False  # its worker drains, and another one follows
        self._configured = plan
        self._running_since = float("inf")
        self._ran_well = env.proven

    @property
    def source(self) -> Source | None:
        """The present worker's source, while it consumes."""
        if self._worker is None or self._renews or self.state is not WorkerState.RUNNING:
            return None
        return self._worker.source

    @property
    def worker(self) -> Worker | None:
        """The present worker; None while there is none."""
        return self._worker

    @property
    def held(self) -> int:
        """How many deliveries it has received and not settled."""
        return 0 if self._worker is None else self._worker.held

    @property
    def stands_still(self) -> bool:
        """It is paused as a whole, and all that was passed on before is settled; or it is held, and nothing runs."""
        if self._worker is not None and self.switch.held:
            return not self._worker.in_flight
        return self.switch.pause.whole and self.held == (0 if self._worker is None else self._worker.kept)

    def resume(self) -> int:
        """Run again what is held because its retries are used up, and all behind it; how many deliveries are held."""
        count = 0 if self._worker is None else self._worker.resume()
        if count:
            self._log.info(f"resumed, what was held runs again: {count}")
        return count

    def set_concurrency(self, wanted: int | None) -> None:
        """Let so many handler calls run at once; None: as configured. Its worker drains, and one of that size follows.

        It receives nothing meanwhile. A handler that does not end within the grace of a stop is cancelled and released.
        """
        plan = _with_concurrency(self._configured, wanted)
        if plan.concurrency == self.plan.concurrency:
            return
        self._log.info(f"concurrency {plan.concurrency}, was {self.plan.concurrency}")
        self.plan = plan
        if self._worker is not None and not self._stop.is_set():
            self._renews = True
            self._worker.stop()

    def report(self) -> SubscriptionReport:
        return SubscriptionReport(
            action=self.plan.action,
            state=self.state,
            destination=self.plan.pattern or ",".join(self.plan.channels),
            error=encodable(self.error),
            counters=self.stats.copy(),
            in_flight=0 if self._worker is None else self._worker.in_flight,
            held=self.held - self.stats.parked,
            mailbox=self.plan.mailbox,
            concurrency=self.plan.concurrency,
            paused=self.switch.pause.whole,
            paused_keys=len(self.switch.pause.keys),
            kept=0 if self._worker is None else self._worker.kept,
            last_failure=self._log.last_failure,
            longest_s=0.0 if self._worker is None else self._worker.longest_s(self._env.clock.monotonic()),
        )

    def stop(self) -> None:
        """Drain. Idempotent."""
        self._stop.set()
        if self.state not in (WorkerState.STOPPED, WorkerState.FAILED):
            self._move(StateChange.STOP_ASKED)
        if self._worker is not None:
            self._worker.stop()

    def stop_now(self) -> None:
        """Cancel what runs and release it. Idempotent."""
        self.stop()
        if self._worker is not None:
            self._worker.stop_now()

    async def run(self) -> None:
        """Keep a worker running until stopped or given up; never raises for what the worker does.

        Raises:
            DriverBroken: the process cannot go on.
        """
        waits, refusals = Backoff(first_s=0.1), Backoff(first_s=0.5, longest_s=LONGEST_REFUSAL_S)
        while not self._stop.is_set():
            try:
                await self._run_worker()
            except DriverUnavailable as error:
                await self._lost(error, waits)
            except BaseException as error:
                if _is_own_cancellation(error) or _is_broken(error):
                    raise
                one = _flat(error)
                if isinstance(one, DriverRejected) and self._has_run_well():
                    await self._lost(one, refusals)
                elif not await self._crashed(one):
                    return
            else:
                break
            self._worker = None
            if not self._stop.is_set():
                self._move(StateChange.RETRIED)
        if self.state is not WorkerState.STOPPED:
            self._move(StateChange.DRAINED)

    async def _run_worker(self) -> None:
        """Run a worker, and those that follow it with another concurrency."""
        while True:
            self._renews = False
            self._worker = Worker(
                self.plan,
                self._env,
                self.stats,
                self._log,
                self.switch,
                on_running=self._is_running,
                on_unavailable=self._is_unavailable,
            )
            await self._worker.run()
            if not self._renews or self._stop.is_set():
                return

    def _has_run_well(self) -> bool:
        self._ran_well |= self._env.clock.monotonic() - self._running_since >= GOOD_START_S
        return self._ran_well

    async def _lost(self, error: DriverError, waits: Backoff) -> None:
        """Note that the broker is away, or refuses what it has taken before, and wait before it is asked again."""
        self.error = str(error)
        self._log.broker_away(error)
        self._move(StateChange.BROKER_LOST)
        if self.state is not WorkerState.STOPPED:
            await self._pause(waits.wait)

    async def _crashed(self, error: BaseException) -> bool:
        """Note a failure and wait for the restart; False when there will be none."""
        self.error = f"{type(error).__qualname__}: {error}"
        self.stats.restarts += 1
        self._intensity, delay_s = self._intensity.record(self._env.clock.monotonic())
        self._log.crashed(error, delay_s)
        self._move(StateChange.CRASHED if delay_s is not None else StateChange.GAVE_UP)
        if delay_s is None:
            return False
        await self._pause(lambda: anyio.sleep(delay_s))
        return True

    async def _pause(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait, but not longer than until a stop."""
        async with anyio.create_task_group() as group:

            async def until_stop() -> None:
                await self._stop.wait()
                group.cancel_scope.cancel()

            group.start_soon(until_stop)
            await wait()
            group.cancel_scope.cancel()

    def _is_running(self) -> None:
        if self.state is WorkerState.WAITING:
            self._log.info("running again")
            self._move(StateChange.RETRIED)
        if self.state is WorkerState.STARTING:
            self._running_since = self._env.clock.monotonic()
            self._move(StateChange.STARTED)

    def _is_unavailable(self, error: str) -> None:
        self.error = error
        if self.state is WorkerState.RUNNING:
            self._move(StateChange.BROKER_LOST)

    def _move(self, change: StateChange) -> None:
        before, self.state = self.state, advance(self.state, change)
        if before is not self.state:
            self._changed()


def _with_concurrency(plan: Plan, wanted: int | None) -> Plan:
    if wanted is None:
        return plan
    threads = wanted if plan.threads == plan.concurrency else plan.threads
    return replace(plan, concurrency=wanted, threads=threads, mailbox=max(plan.mailbox, wanted * plan.batch))


class Supervisor:
    """All subscriptions of one process.

    Args:
        plans: what to supervise.
        env: what their workers share.
        policy: how often a failing subscription is restarted.
        log: makes the log of an action.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        env: WorkerServices,
        *,
        policy: RestartPolicy,
        log: Callable[[str], SubscriptionLog],
    ) -> None:
        self._env = env
        self._news = anyio.Event()
        self._revision = 0
        self.subscriptions = tuple(Supervised(plan, env, log(plan.action), policy, self._changed) for plan in plans)

    def _changed(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def wait_changed(self) -> None:
        """Wait until the state of a subscription changes from now on. Cancellation: safe."""
        await self._news.wait()

    def report(self) -> Report:
        return Report(
            system=self._env.driver.capabilities.name,
            booted=all(one.state is not WorkerState.STARTING for one in self.subscriptions),
            subscriptions=tuple(one.report() for one in self.subscriptions),
            revision=self._revision,
        )

    def monotonic(self) -> float:
        return self._env.clock.monotonic()

    def control(self, controls: Controls) -> None:
        """Do what an operator wants from now on."""
        for one in self.subscriptions:
            one.switch.set(controls.pause_of(one.plan.action))
            one.set_concurrency(controls.concurrency.get(one.plan.action))
            if controls.resumed.get(one.plan.action, 0) > self._revision:
                one.resume()
        self._revision = controls.revision
        self._changed()

    async def run(self) -> None:
        """Run until every subscription has stopped or failed. Cancellation: what is in hand is released."""
        async with anyio.create_task_group() as group:
            for one in self.subscriptions:
                group.start_soon(one.run, name=f"subscription {one.plan.action}")

    def stop(self) -> None:
        """Drain all. Idempotent."""
        for one in self.subscriptions:
            one.stop()

    def stop_now(self) -> None:
        """Cancel and release all. Idempotent."""
        for one in self.subscriptions:
            one.stop_now()


def _is_own_cancellation(error: BaseException) -> bool:
    cancelled = anyio.get_cancelled_exc_class()
    inside = isinstance(error, BaseExceptionGroup) and error.subgroup(cancelled) is not None
    return (isinstance(error, cancelled) or inside) and get_current_task().has_pending_cancellation()


def _is_broken(error: BaseException) -> bool:
    """Whether the driver itself has come to an end: the process has to."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(DriverBroken) is not None
    return isinstance(error, DriverBroken)


def _flat(error: BaseException) -> BaseException:
    """The one error inside a group, where there is only one."""
    error = only_error(error)
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return HandlerCancelled("cancelled by something the worker awaited")
    return error
