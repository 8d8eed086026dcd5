"""The composition root: configuration in, a running worker process out. Nobody else knows everybody."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from hexa_worker.actors.backoff import Backoff
from hexa_worker.actors.environment import Environment, Journal, Suspects
from hexa_worker.actors.gate import Gate
from hexa_worker.actors.supervisor import Supervised, Supervisor
from hexa_worker.actors.worker import spec_of
from hexa_worker.clock import Clock, SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.model import Config, Embedded, Memory
from hexa_worker.core.lifecycle import State
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.emitter import Emitter
from hexa_worker.errors import DriverUnavailable
from hexa_worker.handlers.loader import Loaded
from hexa_worker.telemetry.log import SubscriptionLog

IDLE_POLL_S = 0.1
STUCK_AFTER_S = 10.0
log = logging.getLogger("hexa_worker.app")


class Stop:
    """How a process is told to end. Make it inside the event loop.

    Attributes:
        asked: drain: receive no more, let running handlers end, release the rest.
        now: cancel running handlers too.
    """

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.now = anyio.Event()


Observe = Callable[[Supervisor], Awaitable[None]]


def make_driver(config: Config, clock: Clock | None = None) -> Driver:
    """The driver that worker.toml names; its client library is imported here and not before.

    Raises:
        ConfigError: the client library is not installed.
    """
    broker = config.file.broker
    match broker:
        case Memory():
            from hexa_worker.drivers.memory import MemoryDriver, MemoryStore  # noqa: PLC0415 - lazy by design

            return MemoryDriver(MemoryStore(clock))
        case Embedded():
            from hexa_worker.drivers.embedded import EmbeddedDriver  # noqa: PLC0415 - lazy by design

            return EmbeddedDriver(config.folder / broker.path, broker, clock)


@asynccontextmanager
async def opened(driver: Driver, give_up: anyio.Event | None = None) -> AsyncIterator[Driver]:
    """An open driver; closed at the end.

    Args:
        driver: what to open.
        give_up: with it, an unavailable broker is tried again until the event is set.

    Raises:
        DriverUnavailable: the broker is away (and nobody wants to wait for it).
    """
    try:
        await _open(driver, give_up)
        yield driver
    finally:
        with anyio.CancelScope(shield=True):
            await driver.close()


async def _open(driver: Driver, give_up: anyio.Event | None) -> None:
    backoff = Backoff(first_s=0.2, longest_s=5.0)
    while True:
        try:
            return await driver.open()
        except DriverUnavailable as error:
            if give_up is None or give_up.is_set():
                raise
            log.warning("broker is away, trying again: %s", error)
        with anyio.move_on_after(5.0):  # a stop ends the wait early
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when, give_up, group.cancel_scope)
                await backoff.wait()
                group.cancel_scope.cancel()


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def specs(loaded: Loaded) -> tuple[SubscriptionSpec, ...]:
    """What a driver must know of all subscriptions."""
    return tuple(spec_of(plan) for plan in loaded.plans)


async def serve(  # noqa: PLR0913 - one keyword per collaborator
    config: Config,
    loaded: Loaded,
    *,
    stop: Stop,
    until_idle: bool = False,
    driver: Driver | None = None,
    clock: Clock | None = None,
    journal: Journal | None = None,
    suspects: Suspects | None = None,
    record: Callable[[Sequence[Settlement], int], None] | None = None,
    stuck: Callable[[Delivery], None] | None = None,
    observe: Observe | None = None,
) -> int:
    """Run every subscription until stopped (or idle); returns the exit code: 0, or 1 when one has failed.

    Args:
        config: the loaded worker.toml.
        loaded: its handlers.
        stop: see `Stop`.
        until_idle: end by itself once nothing is left to do, retries included.
        driver: instead of the configured one.
        clock: instead of the machine's.
        journal: where lanes note what they have in hand.
        suspects: what was in hand at crashes.
        record: told of settlements that took effect.
        stuck: told of a delivery whose handler ignores its cancellation.
        observe: runs beside the supervisor, for reports.

    Raises:
        DriverRejected, ConfigError: the broker will never take this configuration.

    Cancellation: what is in hand is released.
    """
    clock = clock or SystemClock()
    driver = driver or make_driver(config, clock)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(opened(driver, stop.asked))
            await _declare(driver, loaded, stop)
        except DriverUnavailable:
            if stop.asked.is_set():
                return 0
            raise
        state = await stack.enter_async_context(loaded.lifespan()) if loaded.lifespan is not None else None
        env = Environment(
            driver=driver,
            clock=clock,
            gate=Gate(),
            state=state,
            middlewares=loaded.middlewares,
            emit=Emitter(driver, clock, encode).emit,
            record=record,
            journal=journal,
            suspects=suspects,
            stuck=stuck or _ignore,
            grace_s=config.file.worker.shutdown_grace_s,
            stuck_after_s=STUCK_AFTER_S,
            maximum_crashes=config.file.worker.maximum_crashes,
        )
        return await _supervise(config, loaded, env, stop, until_idle=until_idle, observe=observe)


def _ignore(_delivery: Delivery) -> None:
    """Nobody wants to know."""


async def _declare(driver: Driver, loaded: Loaded, stop: Stop) -> None:
    """Declare the subscriptions; an unavailable broker is asked again until a stop."""
    backoff = Backoff()
    while True:
        try:
            return await driver.declare(specs(loaded))
        except DriverUnavailable as error:
            if stop.asked.is_set():
                raise
            log.warning("broker is away, trying again: %s", error)
            await backoff.wait()


async def _supervise(
    config: Config, loaded: Loaded, env: Environment, stop: Stop, *, until_idle: bool, observe: Observe | None
) -> int:
    worker = config.file.worker
    changed = anyio.Event()
    supervisor = Supervisor(
        [
            Supervised(plan, env, SubscriptionLog(plan.action, env.clock, worker.log.repeat_s), worker.restart, changed.set)
            for plan in loaded.plans
        ]
    )
    async with anyio.create_task_group() as group:
        group.start_soon(_obey, stop, supervisor)
        if until_idle:
            group.start_soon(_stop_when_idle, supervisor)
        if observe is not None:
            group.start_soon(observe, supervisor)
        await supervisor.run()
        group.cancel_scope.cancel()
    return 1 if any(one.state is State.FAILED for one in supervisor.subscriptions) else 0


async def _obey(stop: Stop, supervisor: Supervisor) -> None:
    await stop.asked.wait()
    supervisor.stop()
    await stop.now.wait()
    supervisor.stop_now()


async def _stop_when_idle(supervisor: Supervisor) -> None:
    """Stop once no subscription has anything left, seen twice in a row."""
    seen = 0
    while seen < 2:  # noqa: PLR2004 - an event may be between two subscriptions at one look
        await anyio.sleep(IDLE_POLL_S)
        seen = seen + 1 if await _all_idle(supervisor) else 0
    supervisor.stop()


async def _all_idle(supervisor: Supervisor) -> bool:
    for one in supervisor.subscriptions:
        if one.state is State.FAILED:
            continue
        source = one.source
        if source is None or one.held:
            return False
        try:
            if not (await source.backlog()).idle:
                return False
        except DriverUnavailable:
            return False
    return True
