"""One more process on a file, run by the tests: ``python -m tests.embedded.process FILE ACTION``.

It prints a line for each thing that a test waits for, and flushes it.
"""

import resource
import sys
from pathlib import Path

import anyio

from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.errors import DriverUnavailable
from tests.embedded.things import spec

LEASE_S = 1.0


def say(line: object) -> None:
    """Tell the test."""
    print(line, flush=True)  # noqa: T201 - the pipe to the test


async def hold(driver: EmbeddedDriver) -> None:
    """Take ten deliveries, finish the first three, keep the others; settle them when told to."""
    source = await driver.subscribe(spec())
    taken = await source.receive(10, 1 << 30)
    await source.settle([Acked(one) for one in taken[:3]])
    say(len(taken))
    await anyio.to_thread.run_sync(sys.stdin.readline)
    unsettled = await source.settle([Acked(one) for one in taken[3:]])
    say(",".join(sorted({type(one.error).__name__ for one in unsettled})))


async def consume(driver: EmbeddedDriver) -> None:
    """Finish whatever comes, until a second passes without anything; say the offsets."""
    source = await driver.subscribe(spec())
    say("ready")
    seen: list[int] = []
    while True:
        taken: list[int] = []
        with anyio.move_on_after(1.0):
            batch = await source.receive(200, 1 << 30)
            await source.settle([Acked(one) for one in batch])
            taken = [one.offset for one in batch]
        if not taken:
            break
        seen += taken
    say(",".join(map(str, seen)))


async def fill(driver: EmbeddedDriver) -> None:
    """Publish until the file may not grow any more; say how many were confirmed, then whether room helps."""
    soft, hard = 2 * 1024 * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    confirmed = 0
    try:
        while True:
            confirmed += len(await driver.publish([Message(channel="work", payload=b"x" * 10_000)] * 10))
    except DriverUnavailable as error:
        say(confirmed)
        say(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    say(len(await driver.publish([Message(channel="work", payload=b"room again")])))


async def main() -> None:
    """Open the file and do what was asked."""
    actions = {action.__name__: action for action in (hold, consume, fill)}
    driver = EmbeddedDriver(Path(sys.argv[1]), Embedded(lease_s=LEASE_S))
    await driver.open()
    await actions[sys.argv[2]](driver)
    await driver.close()


if __name__ == "__main__":
    anyio.run(main)
