"""The wall clock jumps while retries wait in the file."""

import time
from pathlib import Path

import anyio
import pytest

from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Message
from hexa_worker.drivers.embedded import EmbeddedDriver
from tests.embedded.things import PLENTY, spec

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: all of it happens in the broker thread."""
    return "asyncio"


class Jumping:
    """The machine's clocks; the wall clock can be set."""

    monotonic = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms


async def retry(driver: EmbeddedDriver, clock: Jumping, text: bytes, delay_ms: int) -> None:
    await driver.publish([Message(channel="do.retry.1", payload=text, due_ms=clock.now_ms() + delay_ms)])


@pytest.mark.parametrize("jump_ms", [HOUR_MS, 300, -HOUR_MS], ids=["an hour on", "a moment on", "an hour back"])
@pytest.mark.parametrize("others", [0, 2], ids=["one process", "three processes"])
async def test_a_jump_of_the_wall_clock_makes_no_retry_early_or_late(path: Path, jump_ms: int, others: int) -> None:
    clock = Jumping()
    drivers = [EmbeddedDriver(path, Embedded(), clock) for _ in range(1 + others)]
    for driver in drivers:
        await driver.open()
        await driver.declare([spec()])
    source = await drivers[0].subscribe(spec())
    arrived: dict[bytes, float] = {}
    began = time.perf_counter()
    for number in range(10):
        await retry(drivers[0], clock, b"before-%d" % number, 900)
    clock.ahead_ms += jump_ms
    await retry(drivers[-1], clock, b"after", 1_000)
    with anyio.fail_after(15):
        while len(arrived) < 11:
            for one in await source.receive(20, PLENTY):
                arrived[one.payload] = time.perf_counter() - began
    assert min(arrived.values()) >= 0.89
    assert max(arrived.values()) < 4, "not an hour late"
    assert len(await drivers[0].browse("do.retry.1", -1, 100)) in (0, 11)
    for driver in drivers:
        await driver.close()


async def test_what_waits_over_a_restart_is_moved_along_too(path: Path) -> None:
    clock = Jumping()
    first = EmbeddedDriver(path, Embedded(), clock)
    await first.open()
    await first.declare([spec()])
    began = time.perf_counter()
    await retry(first, clock, b"x", 1_500)
    await anyio.sleep(0.7)  # the clock is looked at twice a second
    await first.close()
    clock.ahead_ms += HOUR_MS
    second = EmbeddedDriver(path, Embedded(), clock)
    await second.open()
    source = await second.subscribe(spec())
    with anyio.fail_after(10):
        assert len(await source.receive(1, PLENTY)) == 1
    assert time.perf_counter() - began >= 1.49
    await second.close()


async def test_a_jump_that_is_taken_back_before_anybody_looked_makes_no_retry_late(path: Path) -> None:
    clock = Jumping()
    driver = EmbeddedDriver(path, Embedded(), clock)
    await driver.open()
    await driver.declare([spec()])
    source = await driver.subscribe(spec())
    clock.ahead_ms += HOUR_MS
    began = time.perf_counter()
    await retry(driver, clock, b"x", 200)
    clock.ahead_ms -= HOUR_MS
    with anyio.fail_after(10):
        await source.receive(1, PLENTY)
    assert time.perf_counter() - began >= 0.19
    await driver.close()
