"""What the tests of every driver on a real broker do with it: open, subscribe, publish, take, acknowledge."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import anyio

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Driver, Revoked, Source, SubscriptionSpec, nothing_revoked
from hexa_worker.errors import DriverUnavailable

T = TypeVar("T")
D = TypeVar("D", bound=Driver)
S = TypeVar("S", bound=Source)
S_co = TypeVar("S_co", bound=Source, covariant=True)
PLENTY = 64 * 1024 * 1024


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
async def kept_open(driver: D) -> AsyncIterator[D]:
    """An open driver; closed at the end."""
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


class Subscribing(Protocol[S_co]):
    """A driver whose sources are known better than by `Source`."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = ...) -> S_co:
        """See `Driver.subscribe`."""
        ...


@asynccontextmanager
async def subscribed(
    driver: Subscribing[S], one: SubscriptionSpec, revoked: Revoked = nothing_revoked
) -> AsyncIterator[S]:
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


async def confirmed(driver: Driver, messages: Sequence[Message]) -> list[str]:
    """Publish messages; each must be confirmed. Returns their ids."""
    answers = await driver.publish(messages)
    ids = [answer for answer in answers if isinstance(answer, str)]
    assert len(ids) == len(messages), answers
    return ids


async def publish(driver: Driver, channel: str, *payloads: bytes, key: bytes | None = None) -> list[str]:
    """Publish payloads; each must be confirmed. Returns their ids."""
    return await confirmed(driver, [Message(channel=channel, payload=payload, key=key) for payload in payloads])


async def patiently(call: Callable[[], Awaitable[T]], within_s: float = 30.0) -> T:
    """The answer of `call`, asked again while the broker is away."""
    with anyio.fail_after(within_s):
        while True:
            try:
                return await call()
            except DriverUnavailable:
                await anyio.sleep(0.1)
