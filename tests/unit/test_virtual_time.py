"""Virtual time: it jumps over waiting, never over work."""

import asyncio
import socket
import time

import anyio
import pytest
from anyio import from_thread, to_thread

from hexa_worker.testing.virtual import EPOCH_MS, Backend, VirtualTime

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def work(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def test_a_day_of_sleep_takes_no_time(backend: Backend) -> None:
    virtual = VirtualTime()
    virtual.run(anyio.sleep, 86_400 * 3, backend=backend)  # really slept, no test would end
    assert virtual.monotonic() == pytest.approx(86_400 * 3)
    assert virtual.now_ms() == EPOCH_MS + 86_400 * 3 * 1000


def test_time_stands_still_between_runs_and_goes_on_in_the_next(backend: Backend) -> None:
    virtual = VirtualTime()
    virtual.run(anyio.sleep, 10, backend=backend)
    virtual.run(anyio.sleep, 5, backend=backend)
    assert virtual.monotonic() == pytest.approx(15)


def test_timers_fire_in_the_order_of_their_time(backend: Backend) -> None:
    fired: list[tuple[float, float]] = []
    virtual = VirtualTime()

    async def main() -> None:
        async def after(seconds: float) -> None:
            await anyio.sleep(seconds)
            fired.append((seconds, virtual.monotonic()))

        async with anyio.create_task_group() as group:
            for seconds in (3.0, 1.0, 100.0, 0.001, 2.0):
                group.start_soon(after, seconds)

    virtual.run(main, backend=backend)
    assert [seconds for seconds, _ in fired] == [0.001, 1.0, 2.0, 3.0, 100.0]
    assert [at for _, at in fired] == pytest.approx([0.001, 1.0, 2.0, 3.0, 100.0])


def test_a_deadline_is_not_jumped_to_while_a_thread_works(backend: Backend) -> None:
    async def main() -> str:
        with anyio.fail_after(60):
            return await to_thread.run_sync(work, 0.05)

    virtual = VirtualTime()
    assert virtual.run(main, backend=backend) == "done"
    assert 0.04 < virtual.monotonic() < 60


def test_a_thread_that_waits_for_the_loop_is_served(backend: Backend) -> None:
    async def main() -> None:
        await to_thread.run_sync(lambda: from_thread.run(anyio.sleep, 0.02))

    virtual = VirtualTime()
    virtual.run(main, backend=backend)
    assert virtual.monotonic() > 0.015


def test_time_jumps_again_once_the_thread_is_done(backend: Backend) -> None:
    async def main() -> None:
        await to_thread.run_sync(time.sleep, 0.01)
        await anyio.sleep(3600)

    virtual = VirtualTime()
    virtual.run(main, backend=backend)
    assert virtual.monotonic() > 3600


def test_executors_of_asyncio_are_not_jumped_over_either(backend: Backend) -> None:
    if backend == "trio":
        pytest.skip("asyncio's own")

    async def main() -> str:
        async with asyncio.timeout(60):
            return await asyncio.to_thread(work, 0.03)

    assert VirtualTime().run(main, backend=backend) == "done"


def test_io_that_answers_is_not_jumped_over(backend: Backend) -> None:
    if backend == "trio":
        pytest.skip("trio's mock clock counts tasks that wait for I/O as idle")

    async def main() -> bytes:
        here, there = socket.socketpair()
        here.setblocking(False)
        loop = asyncio.get_running_loop()
        with here, there:
            answer = loop.run_in_executor(None, lambda: there.send(work(0.01).encode()))
            async with asyncio.timeout(60):
                received = await loop.sock_recv(here, 100)
            await answer
        return received

    assert VirtualTime().run(main, backend=backend) == b"done"
