"""From worker.toml to an open driver: which one, what records look like in which channel, what it is told of a plan.

A broker's client library is imported only when worker.toml names its driver.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from hexa_worker.backoff import LONGEST_REFUSAL_S, Backoff
from hexa_worker.clock import Clock
from hexa_worker.config.kafka import Kafka
from hexa_worker.config.model import Config, Embedded, Memory
from hexa_worker.config.nats import Nats
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.drivers.clients import require_client
from hexa_worker.errors import DriverRejected, DriverUnavailable
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.plan import NOT_CHOSEN, Loaded, Plan
from hexa_worker.telemetry.log import AWAY_REPEAT_S, reason_of

if TYPE_CHECKING:
    from hexa_worker.drivers.formats import ChannelFormats

log = logging.getLogger("hexa_worker.app")  # only a worker waits for its broker


def make_driver(config: Config, clock: Clock | None = None) -> Driver:
    """The driver that worker.toml names, and around it the wire formats; its client library is imported here.

    Raises:
        ConfigError: the client library is not installed.
    """
    driver = make_plain_driver(config, clock)
    subscriptions = config.file.subscriptions
    if all(one in ("plain", None) for one in (config.file.broker.wire, *[one.wire for one in subscriptions.values()])):
        return driver
    from hexa_worker.drivers.formats import FormattingDriver  # noqa: PLC0415 - lazy by design

    return FormattingDriver(driver, forms_of(config))


def driver_name(config: Config) -> str:
    """As worker.toml says it: ``kafka``."""
    return str(config.file.broker.__struct_config__.tag)


def forms_of(config: Config) -> "ChannelFormats":
    """What records look like in each channel, as far as worker.toml says it; `Driver.declare` tells the rest."""
    from hexa_worker.drivers.formats import ChannelFormats  # noqa: PLC0415 - lazy by design
    from hexa_worker.record_formats.form import Form  # noqa: PLC0415 - lazy by design

    broker = config.file.broker
    default = Form(broker.wire, driver_name(config), config.file.worker.name)
    channels: dict[str, Form] = {}
    ladders: dict[str, Form] = {}
    for action, one in config.file.subscriptions.items():
        form = Form(one.wire or default.wire, default.driver, default.source, one.group or action)
        ladders[one.retry_channel or one.group or action] = form
        for channel in one.channels or (() if one.channel is None else (one.channel,)):
            channels[channel] = form
    return ChannelFormats(default, channels, ladders)


def channels_of(config: Config) -> frozenset[str]:
    """The channels that subscriptions read, as far as worker.toml says it."""
    found: set[str] = set()
    for one in config.file.subscriptions.values():
        found.update(one.channels or (() if one.channel is None else (one.channel,)))
    return frozenset(found)


def without_wire(driver: Driver) -> Driver:
    """What `make_driver` made, without the wire formats around it."""
    from hexa_worker.drivers.formats import FormattingDriver  # noqa: PLC0415 - lazy by design

    return driver.inner if isinstance(driver, FormattingDriver) else driver


def record_form(config: Config) -> Callable[[Message], Message]:
    """What puts a record into the form that its channel has in the broker, as `make_driver` would when publishing."""
    from hexa_worker.record_formats.convert import to_wire  # noqa: PLC0415 - lazy by design

    of = forms_of(config).of
    return lambda message: to_wire(message, of(message.channel))


def make_plain_driver(config: Config, clock: Clock | None = None) -> Driver:
    """As `make_driver`, without the wire formats: for records that were put into their form already."""
    require_client(config)
    broker = config.file.broker
    match broker:
        case Memory():
            from hexa_worker.drivers.memory import MemoryDriver, MemoryStore  # noqa: PLC0415 - lazy by design

            return MemoryDriver(MemoryStore(clock))
        case Embedded():
            from hexa_worker.drivers.embedded import EmbeddedDriver  # noqa: PLC0415 - lazy by design

            return EmbeddedDriver(config.folder / broker.path, broker, clock)
        case Kafka():
            from hexa_worker.drivers.kafka import KafkaDriver  # noqa: PLC0415 - lazy by design

            return KafkaDriver(broker, clock, config.folder)
        case Nats():
            from hexa_worker.drivers.nats import NatsDriver  # noqa: PLC0415 - lazy by design

            return NatsDriver(broker, clock, config.folder, channels_of(config))
        case Pulsar():
            from hexa_worker.drivers.pulsar import PulsarDriver  # noqa: PLC0415 - lazy by design

            return PulsarDriver(broker, clock, config.folder)


@asynccontextmanager
async def opened(driver: Driver, stop: StopSignals | None = None, *, proven: bool = False) -> AsyncIterator[Driver]:
    """An open driver; closed at the end.

    Args:
        driver: what to open.
        stop: with it, an unavailable broker is tried again until a stop is asked.
        proven: so is one that refuses.

    Raises:
        DriverUnavailable: the broker is away (and nobody wants to wait for it).
    """
    try:
        if stop is None:
            await driver.open()
        else:
            await until_available(driver.open, stop, proven=proven)
        yield driver
    finally:
        with anyio.CancelScope(shield=True):
            await driver.close()


async def declare(driver: Driver, wanted: Sequence[SubscriptionSpec]) -> None:
    """Declare subscriptions; one that is refused does not keep its siblings from what they need.

    Args:
        driver: an open driver.
        wanted: the subscriptions.

    Raises:
        DriverRejected: all are refused.
        DriverUnavailable: the broker is away.
    """
    try:
        await driver.declare(wanted)
    except DriverRejected:
        served = 0
        for spec in wanted:
            with suppress(DriverRejected):  # its worker will say so
                await driver.declare((spec,))
                served += 1
        if not served:
            raise


async def until_available(call: Callable[[], Awaitable[None]], stop: StopSignals, *, proven: bool) -> None:
    """Make a call until the broker is there for it.

    Args:
        call: what is asked.
        stop: ends it.
        proven: a refusal passes as well: the broker has taken this before.

    Raises:
        DriverUnavailable: a stop was asked first.
        DriverRejected: it is refused.
    """
    away, refused = Backoff(first_s=0.1), Backoff(first_s=0.5, longest_s=LONGEST_REFUSAL_S)
    said: dict[str, float] = {}
    while True:
        try:
            return await call()
        except (DriverUnavailable, DriverRejected) as error:
            unavailable = isinstance(error, DriverUnavailable)
            if not (unavailable or proven):
                raise
            if anyio.current_time() > said.get(reason_of(error), float("-inf")) + AWAY_REPEAT_S:
                said[reason_of(error)] = anyio.current_time()
                what = "is away" if unavailable else "refuses what it took before"
                log.warning("broker %s, trying again: %s", what, error)
            if await _stopped_within(stop, (away if unavailable else refused).wait):
                raise DriverUnavailable(str(error)) from error


async def _stopped_within(stop: StopSignals, wait: Callable[[], Awaitable[None]]) -> bool:
    """Wait; True as soon as a stop is asked."""
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await stop.wait()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await wait()
        group.cancel_scope.cancel()
    return stop.level > 0


def spec_of(plan: Plan) -> SubscriptionSpec:
    """What a driver must know of a plan, or of all that share its source.

    One retry channel exists even without retries: redrives enter there.
    """
    shared = plan.shared
    retry = plan.retry if shared is None else shared.retry
    delays = range(1, retry.channels_count + 1) if plan.wire == "hexa" else ()
    return SubscriptionSpec(
        action=plan.action if shared is None else shared.group,
        group=plan.group,
        channels=plan.channels,
        pattern=plan.pattern,
        retry_base=plan.retry_base,
        retry_count=max(retry.channels_count, 1),
        order_by=plan.order_by,
        start=plan.start,
        options=plan.options,
        wire=plan.wire,
        retry_delays_ms=tuple(round(retry.delay_s(number) * 1000) for number in delays),
        mailbox_bytes=plan.mailbox_bytes,
        in_place=plan.in_place is not OrderBy.NONE if shared is None else shared.in_place,
    )


def declared_specs(loaded: Loaded) -> tuple[SubscriptionSpec, ...]:
    """The same of all that are declared: those that are left out of this run keep what comes for them meanwhile."""
    others = tuple(spec_of(one.plan) for one in loaded.off if one.reason == NOT_CHOSEN)
    return (*specs(loaded), *others)


def off_specs(loaded: Loaded) -> tuple[SubscriptionSpec, ...]:
    """The same of those that do not run, and may have events and dead letters all the same."""
    return tuple(spec_of(one.plan) for one in loaded.off)


def specs(loaded: Loaded) -> tuple[SubscriptionSpec, ...]:
    """What a driver must know of all subscriptions."""
    return tuple({spec.action: spec for spec in map(spec_of, loaded.plans)}.values())
