"""The drivers that this project ships, as the conformance suite sees them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from hexa_worker.drivers import memory
from hexa_worker.drivers.base import Driver
from hexa_worker.testing import DriverUnderTest


@asynccontextmanager
async def memory_broker() -> AsyncIterator[memory.MemoryStore]:
    """A store of its own for each claim."""
    yield memory.MemoryStore()


async def _crash(_store: memory.MemoryStore, driver: Driver) -> None:
    cast(memory.MemoryDriver, driver).crash()


async def _stall(_store: memory.MemoryStore, driver: Driver) -> None:
    cast(memory.MemoryDriver, driver).lose_leases()


async def _away(store: memory.MemoryStore) -> None:
    store.away = True


async def _back(store: memory.MemoryStore) -> None:
    store.away = False


MEMORY = DriverUnderTest[memory.MemoryStore](
    name="memory",
    capabilities=memory.CAPABILITIES,
    broker=memory_broker,
    driver=memory.MemoryDriver,
    kill=_crash,
    stall=_stall,
    away=_away,
    back=_back,
    quiet_s=0.02,
    delay_s=0.06,
    deadline_s=10.0,
)

DRIVERS = (MEMORY,)
