"""From worker.toml to a driver: which one, and what records look like in which channel.

A broker's client library is imported only when worker.toml names its driver.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hexa_worker.clock import Clock
from hexa_worker.config.kafka import Kafka
from hexa_worker.config.model import Config, Embedded, Memory
from hexa_worker.config.nats import Nats
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.clients import require_client

if TYPE_CHECKING:
    from hexa_worker.drivers.formats import ChannelFormats


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
    inner: Driver = getattr(driver, "unwired", driver)
    return inner


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
