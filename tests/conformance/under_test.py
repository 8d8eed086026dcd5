"""The drivers that this project ships, as the conformance suite sees them."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from hexa_worker.clock import Clock
from hexa_worker.config.model import Embedded
from hexa_worker.drivers import embedded, memory
from hexa_worker.drivers.base import Driver
from hexa_worker.testing import DriverUnderTest


@asynccontextmanager
async def memory_broker() -> AsyncIterator[memory.MemoryStore]:
    """A store of its own for each claim."""
    yield memory.MemoryStore()


async def _crash(_store: memory.MemoryStore, driver: Driver) -> None:
    cast("memory.MemoryDriver", driver).crash()


async def _stall(_store: memory.MemoryStore, driver: Driver) -> None:
    cast("memory.MemoryDriver", driver).lose_leases()


async def _away(store: memory.MemoryStore) -> None:
    store.away = True


async def _back(store: memory.MemoryStore) -> None:
    store.away = False


def _clocked(store: memory.MemoryStore, clock: Clock) -> memory.MemoryDriver:
    store.clock = clock
    return memory.MemoryDriver(store)


MEMORY = DriverUnderTest[memory.MemoryStore](
    name="memory",
    capabilities=memory.CAPABILITIES,
    broker=memory_broker,
    driver=memory.MemoryDriver,
    kill=_crash,
    stall=_stall,
    away=_away,
    back=_back,
    clocked=_clocked,
    quiet_s=0.02,
    delay_s=0.06,
    deadline_s=10.0,
)


class EmbeddedBroker:
    """A file of its own for each claim; away is another process that keeps it locked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hexa.db"
        self._locker: sqlite3.Connection | None = None

    def driver(self, clock: Clock | None = None) -> embedded.EmbeddedDriver:
        """A driver that stands for one more process."""
        return embedded.EmbeddedDriver(self.path, Embedded(busy_timeout_s=0.3), clock)

    def lock(self) -> None:
        """Let nobody write."""
        self._locker = sqlite3.connect(self.path, isolation_level=None)
        self._locker.execute("BEGIN EXCLUSIVE")

    def unlock(self) -> None:
        """Let everybody write."""
        if self._locker is not None:
            self._locker.close()
            self._locker = None


@asynccontextmanager
async def embedded_broker() -> AsyncIterator[EmbeddedBroker]:
    """See `EmbeddedBroker`."""
    with TemporaryDirectory() as folder:
        broker = EmbeddedBroker(Path(folder))
        yield broker
        broker.unlock()


async def _kill_embedded(_broker: EmbeddedBroker, driver: Driver) -> None:
    await cast("embedded.EmbeddedDriver", driver).crash()


async def _stall_embedded(_broker: EmbeddedBroker, driver: Driver) -> None:
    await cast("embedded.EmbeddedDriver", driver).stall()


async def _lock_embedded(broker: EmbeddedBroker) -> None:
    broker.lock()


async def _unlock_embedded(broker: EmbeddedBroker) -> None:
    broker.unlock()


EMBEDDED = DriverUnderTest[EmbeddedBroker](
    name="embedded",
    capabilities=embedded.CAPABILITIES,
    broker=embedded_broker,
    driver=EmbeddedBroker.driver,
    kill=_kill_embedded,
    stall=_stall_embedded,
    away=_lock_embedded,
    back=_unlock_embedded,
    clocked=EmbeddedBroker.driver,
    quiet_s=0.05,
    delay_s=0.1,
    deadline_s=15.0,
)

DRIVERS = (MEMORY, EMBEDDED)
