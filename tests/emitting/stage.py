"""A memory driver that tells what was published together and can be held up."""

from collections.abc import Sequence

import anyio

from hexa_worker.core.message import Message
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.errors import DriverError


class Gated(MemoryDriver):
    """Publishes while its gate is open.

    Attributes:
        batches: what was published together.
        error: raised instead of publishing.
    """

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.batches: list[list[Message]] = []
        self.gate = anyio.Event()
        self.asked = anyio.Event()
        self.error: Exception | None = None
        self.gate.set()
        self._shut_after: int | None = None

    def shut_after(self, count: int) -> None:
        """Shut once so many batches were published."""
        self._shut_after = len(self.batches) + count

    def shut(self) -> None:
        self.gate = anyio.Event()
        self.asked = anyio.Event()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        if self._shut_after is not None and len(self.batches) >= self._shut_after:
            self._shut_after = None
            self.shut()
        self.batches.append(list(messages))
        self.asked.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await super().publish(messages)
