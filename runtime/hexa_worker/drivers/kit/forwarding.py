"""A driver and a source that ask another one for everything; subclasses change how, or some of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import (
    Backlog,
    Capabilities,
    Driver,
    Finding,
    Revoked,
    Source,
    SubscriptionSpec,
    Unsettled,
    nothing_revoked,
)
from hexa_worker.errors import DriverError

T = TypeVar("T")


class ForwardingDriver:
    """See `hexa_worker.drivers.base.Driver`. Whoever extends it says who `inner` is."""

    @property
    def inner(self) -> Driver:
        """The driver that is asked."""
        raise NotImplementedError

    async def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await function(*args)

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def open(self) -> None:
        await self._call(self.inner.open)

    async def close(self) -> None:
        await self._call(self.inner.close)

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        return await self._call(self.inner.publish, messages)

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        await self._call(self.inner.declare, specs)

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> Source:
        return await self._call(self.inner.subscribe, spec, revoked)

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        return await self._call(self.inner.browse, channel, after, limit, since_ms)

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        return await self._call(self.inner.remove, channel, offsets)

    async def channels(self) -> Sequence[str]:
        return await self._call(self.inner.channels)

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        return await self._call(self.inner.backlog, spec)

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        return await self._call(self.inner.preflight, spec)

    async def inspect(self) -> Mapping[str, str]:
        return await self._call(self.inner.inspect)


class ForwardingSource:
    """See `hexa_worker.drivers.base.Source`.

    Args:
        source: the one that is asked.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    async def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await function(*args)

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        return await self._call(self._source.receive, max_count, max_bytes)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        return await self._call(self._source.settle, settlements)

    async def backlog(self) -> Backlog:
        return await self._call(self._source.backlog)

    def stop(self) -> None:
        self._source.stop()

    async def close(self) -> None:
        await self._call(self._source.close)
