"""A driver in memory that can be made to fail."""

import pytest

from hexa_worker.drivers.memory import MemoryStore
from tests.dead_letters.fixture import SPECS, Stopped, Weak


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def driver() -> Weak:
    made = Weak(MemoryStore(Stopped()))
    await made.declare(SPECS)
    return made
