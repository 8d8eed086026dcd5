"""Several real processes on one file."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.embedded import EmbeddedDriver
from tests.embedded.things import PLENTY, numbers, publish, spec, take

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


class Other:
    """Another process, as the test sees it."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def line(self) -> str:
        with anyio.fail_after(30):
            return (await self._lines.receive_until(b"\n", 1 << 24)).decode()

    async def tell(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(b"\n")


@asynccontextmanager
async def other(path: Path, action: str) -> AsyncIterator[Other]:
    command = [sys.executable, "-m", "tests.embedded.process", str(path), action]
    async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=ROOT) as process:
        try:
            yield Other(process)
        finally:
            if process.returncode is None:
                process.kill()


async def test_what_a_killed_process_had_in_flight_is_taken_over_at_once_and_only_that(
    driver: EmbeddedDriver, path: Path
) -> None:
    await publish(driver, 10)
    async with other(path, "hold") as holder:
        assert await holder.line() == "10"
        source = await driver.subscribe(spec())
        holder.process.send_signal(signal.SIGKILL)
        with anyio.fail_after(3):
            again = await take(source, 7)
        assert sorted(numbers(again)) == list(range(3, 10))
        assert not await source.settle([Acked(one) for one in again])
        assert (await source.backlog()).idle


async def test_a_frozen_process_is_taken_over_after_lease_s_and_settles_nothing_when_it_goes_on(
    driver: EmbeddedDriver, path: Path
) -> None:
    await publish(driver, 10)
    async with other(path, "hold") as holder:
        assert await holder.line() == "10"
        source = await driver.subscribe(spec())
        holder.process.send_signal(signal.SIGSTOP)
        with anyio.fail_after(6):
            again = await take(source, 7)
        holder.process.send_signal(signal.SIGCONT)
        await holder.tell()
        assert await holder.line() == "LeaseLost"
        assert not await source.settle([Acked(one) for one in again])


async def test_three_processes_share_the_work_and_none_gets_what_another_got(
    driver: EmbeddedDriver, path: Path
) -> None:
    count = 6_000
    await driver.declare([spec()])
    async with other(path, "consume") as first, other(path, "consume") as second, other(path, "consume") as third:
        others = (first, second, third)
        for one in others:
            assert await one.line() == "ready"
        for _ in range(count // 500):
            await publish(driver, 500)
        shares = [[int(offset) for offset in (await one.line()).split(",") if offset] for one in others]
    assert sorted(offset for share in shares for offset in share) == list(range(count))


async def test_a_message_from_another_process_wakes_a_waiting_receive_soon(path: Path) -> None:
    receiver, publisher = EmbeddedDriver(path), EmbeddedDriver(path)
    await receiver.open()
    await publisher.open()
    source = await receiver.subscribe(spec())
    waits: list[float] = []

    async def wait(started: list[float]) -> None:
        (one,) = await source.receive(10, PLENTY)
        waits.append(anyio.current_time() - started[0])
        await source.settle([Acked(one)])

    for _ in range(20):
        started: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, started)
            await anyio.sleep(0.01)  # the broker thread falls asleep, too
            started.append(anyio.current_time())
            await publish(publisher, 1)
    assert sorted(waits)[len(waits) // 2] < 0.05
    await receiver.close()
    await publisher.close()


async def test_a_full_disk_confirms_nothing_it_did_not_keep_and_room_mends_it(
    driver: EmbeddedDriver, path: Path
) -> None:
    async with other(path, "fill") as filler:
        confirmed = int(await filler.line())
        assert str(path) in await filler.line()
        assert await filler.line() == "1"
    source = await driver.subscribe(spec())
    assert (await source.backlog()).ready == confirmed + 1
