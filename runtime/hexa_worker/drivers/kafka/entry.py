"""What the rest of the runtime sees of the driver."""

from pathlib import Path

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.kafka import Kafka
from hexa_worker.drivers.asyncio_bridge import AsyncioDriverAdapter
from hexa_worker.drivers.kafka.driver import AsyncioKafkaDriver, capabilities

CAPABILITIES = capabilities(Kafka())
"""With default options."""


class KafkaDriver(AsyncioDriverAdapter[AsyncioKafkaDriver]):
    """See `hexa_worker.drivers.base.Driver`: runs on every event loop.

    Args:
        options: the broker table.
        clock: decides what is due; default: the machine's.
        folder: what files in `options` are relative to; default: the current one.
    """

    def __init__(self, options: Kafka, clock: Clock | None = None, folder: Path | None = None) -> None:
        super().__init__(
            lambda: AsyncioKafkaDriver(options, clock or SystemClock(), folder or Path()), capabilities(options)
        )

    async def crash(self) -> None:
        """Die without a goodbye, as ``kill -9`` of the process does: for tests."""
        await self._call(self.inner.crash)

    async def stall(self, seconds: float) -> None:
        """Say nothing to the brokers for so long, as a frozen process does: for tests."""
        await self._call(self.inner.stall, seconds)
