"""What the rest of the runtime sees of the driver."""

from collections.abc import Iterable
from pathlib import Path

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.nats import Nats
from hexa_worker.drivers.asyncio_bridge import AsyncioDriverAdapter
from hexa_worker.drivers.base import Capabilities
from hexa_worker.drivers.nats.driver import AsyncioNatsDriver, capabilities

CAPABILITIES = capabilities(Nats())
"""With default options."""


class NatsDriver(AsyncioDriverAdapter[AsyncioNatsDriver]):
    """See `hexa_worker.drivers.base.Driver`: runs on every event loop.

    Args:
        options: the broker table.
        clock: decides what is due; default: the machine's.
        folder: what files in `options` are relative to; default: the current one.
        channels: what subscriptions read that are not declared yet: emits may make their streams.
    """

    def __init__(
        self, options: Nats, clock: Clock | None = None, folder: Path | None = None, channels: Iterable[str] = ()
    ) -> None:
        super().__init__(
            lambda: AsyncioNatsDriver(options, clock or SystemClock(), folder or Path(), channels),
            capabilities(options),
        )

    @property
    def capabilities(self) -> Capabilities:
        """What it promises; exact about sizes once it is open."""
        return super().capabilities if self._driver is None else self._driver.capabilities

    async def crash(self) -> None:
        """Die without a goodbye, as ``kill -9`` of the process does: for tests."""
        await self._call(self.inner.crash)

    async def stall(self) -> None:
        """Lose every claim, as a process does that was frozen for long: for tests."""
        await self._call(self.inner.stall)
