"""What the tests of the pulsar driver share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import anyio
import pulsar

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source, SubscriptionSpec
from hexa_worker.drivers.pulsar import PulsarDriver
from hexa_worker.drivers.pulsar.source import PulsarSource
from hexa_worker.errors import DriverUnavailable
from tests.brokers.base import Broker
from tests.brokers.round_trips import pulsar_silence

T = TypeVar("T")
PLENTY = 64 * 1024 * 1024


def options(node: Broker, **more: Any) -> Pulsar:
    """Options with short times."""
    known: dict[str, Any] = {"url": node.address, "admin_url": node.admin_address, "timeout_s": 5.0}
    return Pulsar(**{**known, "delay_tick_s": 0.1, **more})


def spec(name: str, **more: Any) -> SubscriptionSpec:
    """A subscription called `name` that reads the channel ``{name}.in``."""
    known: dict[str, Any] = {
        "action": name,
        "group": name,
        "channels": (f"{name}.in",),
        "retry_base": name,
        "retry_count": 2,
    }
    return SubscriptionSpec(**{**known, **more})


@asynccontextmanager
async def opened(options: Pulsar) -> AsyncIterator[PulsarDriver]:
    """An open driver; closed at the end."""
    driver = PulsarDriver(options)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def subscribed(driver: PulsarDriver, one: SubscriptionSpec) -> AsyncIterator[PulsarSource]:
    """A source; closed at the end."""
    source = await driver.subscribe(one)
    try:
        yield source
    finally:
        await source.close()


async def take(source: Source, count: int, within_s: float = 20.0) -> list[Delivery]:
    """Receive until `count` deliveries came."""
    taken: list[Delivery] = []
    with anyio.fail_after(within_s):
        while len(taken) < count:
            try:
                taken += await source.receive(count - len(taken), PLENTY)
            except DriverUnavailable:
                await anyio.sleep(0.1)
    return taken


async def ack(source: Source, deliveries: Sequence[Delivery]) -> None:
    """Acknowledge all; each must take effect."""
    assert await source.settle([Acked(one) for one in deliveries]) == []


async def expect_quiet(source: Source, for_s: float = 0.5) -> None:
    """Nothing comes."""
    come: list[Delivery] = []
    with anyio.move_on_after(for_s):
        come = await source.receive(100, PLENTY)
    assert come == []


async def publish(driver: PulsarDriver, channel: str, *payloads: bytes, key: bytes | None = None) -> list[str]:
    """Publish payloads; each must be confirmed."""
    answers = await driver.publish([Message(channel=channel, payload=payload, key=key) for payload in payloads])
    ids = [answer for answer in answers if isinstance(answer, str)]
    assert len(ids) == len(payloads), answers
    return ids


async def patiently(call: Callable[[], Awaitable[T]], within_s: float = 30.0) -> T:
    """The answer of `call`, asked again while the broker is away."""
    with anyio.fail_after(within_s):
        while True:
            try:
                return await call()
            except DriverUnavailable:
                await anyio.sleep(0.1)


@contextmanager
def raw_client(node: Broker, **more: Any) -> Iterator[Any]:
    """pulsar-client's own client."""
    client = pulsar.Client(node.address, logger=pulsar_silence(), **more)
    try:
        yield cast("Any", client)
    finally:
        client.close()
