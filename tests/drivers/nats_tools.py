"""What the tests of the nats driver share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from hexa_worker.config.nats import Nats
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Revoked, Source, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.nats import NatsDriver
from hexa_worker.errors import DriverUnavailable

T = TypeVar("T")
PLENTY = 64 * 1024 * 1024


def options(address: str, **more: Any) -> Nats:
    """Options with short times."""
    return Nats(servers=(address,), **{"ack_wait_s": 3.0, "timeout_s": 5.0, **more})


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
async def opened(address: str, **more: Any) -> AsyncIterator[NatsDriver]:
    """An open driver; closed at the end."""
    driver = NatsDriver(options(address, **more))
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def subscribed(
    driver: NatsDriver, one: SubscriptionSpec, revoked: Revoked = nothing_revoked
) -> AsyncIterator[Source]:
    """A source; closed at the end."""
    source = await driver.subscribe(one, revoked)
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


async def publish(driver: NatsDriver, channel: str, *payloads: bytes, key: bytes | None = None) -> None:
    """Publish payloads; each must be confirmed."""
    answers = await driver.publish([Message(channel=channel, payload=payload, key=key) for payload in payloads])
    assert all(isinstance(answer, str) for answer in answers), answers


async def patiently(call: Callable[[], Awaitable[T]], within_s: float = 30.0) -> T:
    """The answer of `call`, asked again while the broker is away."""
    with anyio.fail_after(within_s):
        while True:
            try:
                return await call()
            except DriverUnavailable:
                await anyio.sleep(0.1)
