"""The composition root: configuration in, a running worker process out. Nobody else knows everybody."""

from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from msgspec.structs import replace

from hexa_worker.actors.dedup_stage import DedupSettings
from hexa_worker.actors.inspector import warn
from hexa_worker.actors.isolation import Isolation
from hexa_worker.actors.services import CrashJournal, KnownSuspects, WorkerServices
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.actors.typed_source import Sources
from hexa_worker.clock import Clock, SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.model import Config
from hexa_worker.core.controls import AS_CONFIGURED, Controls
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.dedup.base import ClaimStore
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import (
    declare,
    declared_specs,
    driver_name,
    make_driver,
    opened,
    record_form,
    specs,
    until_available,
    without_wire,
)
from hexa_worker.errors import DriverUnavailable
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.stop import CANCEL, DRAIN, StopSignals
from hexa_worker.subscriptions.plan import Loaded
from hexa_worker.telemetry.log import SubscriptionLog
from hexa_worker.telemetry.report import Report

if TYPE_CHECKING:
    from hexa_worker.outbox.relay import Relay
    from hexa_worker.subscriptions.transactions import Transactions

IDLE_POLL_S = 0.1
STUCK_AFTER_S = 10.0
REPORT_S = 1.0
RELAY_FINISH_S = 5.0
"""How long the relay may take to end behind the batch that it has in hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How subscriptions are served, beyond what worker.toml says.

    Attributes:
        until_idle: end by itself once nothing is left to do, retries included.
        driver: instead of the configured one.
        clock: instead of the machine's.
        journal: where lanes note what they have in hand.
        suspects: what was in hand at crashes.
        record: told of the settlements of an action that took effect, and when.
        stuck: told of a delivery whose handler ignores its cancellation.
        report: told how things stand, from the event loop, every `REPORT_S` and when a subscription's state changes.
        claims: instead of the configured claim store, where deduplication is on.
        transactions: instead of the configured outbox, which is not relayed then.
        preflight: look at the broker once every subscription was started, and warn of what will be lost.
        proven: this configuration has run well before: a broker or claim store that refuses it is asked again.
        beside: runs as long as the subscriptions do.
        controls: what an operator wants from the start; `Supervisor.control` takes what comes later.
    """

    until_idle: bool = False
    driver: Driver | None = None
    clock: Clock | None = None
    journal: CrashJournal | None = None
    suspects: KnownSuspects | None = None
    record: Callable[[str, Sequence[Settlement], int], None] | None = None
    stuck: Callable[[Delivery], None] | None = None
    report: Callable[[Report], None] | None = None
    claims: ClaimStore | None = None
    transactions: "Transactions | None" = None
    preflight: bool = False
    proven: bool = False
    beside: Callable[[Supervisor], Coroutine[Any, Any, None]] | None = None
    controls: Controls = AS_CONFIGURED


async def serve(config: Config, loaded: Loaded, stop: StopSignals, options: ServeOptions) -> int:
    """Run every subscription until stopped (or idle); returns the exit code: 0, or 1 when one has failed.

    Args:
        config: the loaded worker.toml.
        loaded: its handlers.
        stop: asks it to drain, or to cancel.
        options: see there.

    Raises:
        DriverRejected, ConfigError: the broker will never take this configuration.

    Cancellation: what is in hand is released.
    """
    clock = options.clock or SystemClock()
    driver = options.driver or make_driver(config, clock)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(opened(driver, stop, proven=options.proven))
            await until_available(partial(declare, driver, declared_specs(loaded)), stop, proven=options.proven)
        except DriverUnavailable:
            return 0  # asked to stop before the broker was there
        state = await stack.enter_async_context(loaded.lifespan()) if loaded.lifespan is not None else None
        env = WorkerServices(
            driver=driver,
            sources=await stack.enter_async_context(Sources(driver)),
            clock=clock,
            isolation=Isolation(),
            state=state,
            middlewares=loaded.middlewares,
            outcome_hooks=loaded.outcome_hooks,
            encoder=EventEncoder(driver, clock, encode),
            record=options.record,
            claiming=await _claiming(stack, config, clock, options.claims, proven=options.proven),
            journal=options.journal,
            suspects=options.suspects,
            stuck=options.stuck or _ignore,
            grace_s=config.file.worker.shutdown_grace_s,
            stuck_after_s=STUCK_AFTER_S,
            maximum_crashes=config.file.worker.maximum_crashes,
            transactions=options.transactions or _transactions(config, clock),
            proven=options.proven,
        )
        if loaded.ticker is not None:
            loaded.ticker.bind(env.encoder, clock.now_ms)
            try:
                await until_available(loaded.ticker.seed, stop, proven=options.proven)
            except DriverUnavailable:
                return 0  # asked to stop before the broker was there
        return await _supervise(config, loaded, env, stop, options)


def _transactions(config: Config, clock: Clock) -> "Transactions | None":
    """The outbox for handlers; None where worker.toml has none."""
    options = config.file.outbox
    if options is None:
        return None
    from hexa_worker.outbox.inbox import HandlerOutbox  # noqa: PLC0415 - only where it is on
    from hexa_worker.outbox.outbox import Outbox  # noqa: PLC0415 - as above

    return HandlerOutbox(Outbox(options.table, record_form(config), clock, driver_name(config)))


def _relay(config: Config, driver: Driver) -> "Relay | None":
    """The outbox's relay of this process; None where worker.toml wants none.

    Raises:
        ConfigError: the client library of its database is not installed.
    """
    options = config.file.outbox
    if options is None or not options.relay:
        return None
    from hexa_worker.outbox.opening import make_store  # noqa: PLC0415 - only where it is on
    from hexa_worker.outbox.relay import Relay  # noqa: PLC0415 - as above

    return Relay(make_store(config), without_wire(driver), options)


async def _claiming(
    stack: AsyncExitStack, config: Config, clock: Clock, store: ClaimStore | None, *, proven: bool
) -> DedupSettings | None:
    """The claim store, open until the end of `stack`; None where deduplication is off.

    Raises:
        DriverRejected: it will never work.
    """
    options = config.file.dedup
    if options.store == "none":
        return None
    from hexa_worker.dedup.breaker import Breaker  # noqa: PLC0415 - only where it is on
    from hexa_worker.dedup.opening import make_claims  # noqa: PLC0415 - as above

    breaker = Breaker(store or make_claims(config, clock), clock)
    stack.push_async_callback(_close_shielded, breaker)
    await breaker.open(proven=proven)
    return DedupSettings(
        store=breaker, lease_s=options.lease_s, ttl_s=options.ttl_s, on_failure=options.on_store_failure
    )


async def _close_shielded(store: ClaimStore) -> None:
    with anyio.CancelScope(shield=True):
        await store.close()


def _ignore(_delivery: Delivery) -> None:
    """Nobody wants to know."""


async def _supervise(
    config: Config, loaded: Loaded, env: WorkerServices, stop: StopSignals, options: ServeOptions
) -> int:
    relay = _relay(config, env.driver) if options.transactions is None else None
    worker = config.file.worker
    logs = {plan.action: SubscriptionLog(plan.action, env.clock, worker.log.repeat_s) for plan in loaded.plans}
    supervisor = Supervisor(loaded.plans, env, policy=worker.restart, log=logs.__getitem__)
    supervisor.control(options.controls)
    report = options.report
    if report is not None and relay is not None:
        report = partial(_report_outbox, report, relay)
    async with anyio.create_task_group() as group:
        group.start_soon(_obey, stop, supervisor)
        if options.beside is not None:
            group.start_soon(options.beside, supervisor)
        if relay is not None:
            group.start_soon(relay.run)
        if options.until_idle:
            group.start_soon(_stop_when_idle, supervisor, relay)
        if report is not None:
            group.start_soon(_report, supervisor, report)
        group.start_soon(_tell_repeats, logs.values())
        if options.preflight:
            group.start_soon(warn, env.driver, specs(loaded), partial(_until_booted, supervisor))
        await supervisor.run()
        if relay is not None:
            await relay.finish(RELAY_FINISH_S)
        group.cancel_scope.cancel()
    for one in logs.values():
        one.tell_repeats(at_end=True)
    if report is not None:
        report(supervisor.report())
    unsent = options.until_idle and relay is not None and relay.failure is not None
    return 1 if unsent or any(one.state is WorkerState.FAILED for one in supervisor.subscriptions) else 0


def _report_outbox(report: Callable[[Report], None], relay: "Relay", one: Report) -> None:
    report(replace(one, outbox=relay.report()))


async def _report(supervisor: Supervisor, report: Callable[[Report], None]) -> None:
    while True:
        report(supervisor.report())
        with anyio.move_on_after(REPORT_S):
            await supervisor.wait_changed()


async def _until_booted(supervisor: Supervisor) -> None:
    while any(one.state is WorkerState.STARTING for one in supervisor.subscriptions):
        await supervisor.wait_changed()


async def _tell_repeats(logs: Collection[SubscriptionLog]) -> None:
    while True:
        await anyio.sleep(REPORT_S)
        for one in logs:
            one.tell_repeats()


async def _obey(stop: StopSignals, supervisor: Supervisor) -> None:
    await stop.wait(DRAIN)
    supervisor.stop()
    await stop.wait(CANCEL)
    supervisor.stop_now()


async def _stop_when_idle(supervisor: Supervisor, relay: "Relay | None") -> None:
    """Stop once no subscription has anything left and the outbox is sent, or never will be, seen twice in a row."""
    seen = 0
    while seen < 2:  # noqa: PLR2004 - an event may be between two subscriptions at one look
        await anyio.sleep(IDLE_POLL_S)
        sent = relay is None or relay.failure is not None or not await relay.busy()
        seen = seen + 1 if sent and await _all_idle(supervisor) else 0
    supervisor.stop()


async def _all_idle(supervisor: Supervisor) -> bool:
    for one in supervisor.subscriptions:
        if one.state is WorkerState.FAILED or one.stands_still:
            continue
        source = one.source
        if source is None or one.held:
            return False
        try:
            backlog = await source.backlog()
            if not (backlog.idle or (one.plan.internal and backlog.waits_only)):
                return False
        except DriverUnavailable:
            return False
    return True
