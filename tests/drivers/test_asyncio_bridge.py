"""The bridge to asyncio under trio, and nothing at all between under asyncio."""

import asyncio
import threading

import anyio
import anyio.lowlevel
import pytest

from hexa_worker.core.message import Message
from hexa_worker.drivers.asyncio_bridge import AsyncioDriverAdapter, AsyncioThread
from hexa_worker.drivers.base import Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.memory import CAPABILITIES, MemoryDriver, MemorySource
from hexa_worker.errors import DriverUnavailable

pytestmark = pytest.mark.anyio
SPEC = SubscriptionSpec(action="a", group="a", channels=("in",), retry_base="a", retry_count=1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def only_trio(anyio_backend: str) -> None:
    if anyio_backend != "trio":
        pytest.skip("the bridge is for trio")


def make() -> AsyncioDriverAdapter[MemoryDriver]:
    return AsyncioDriverAdapter(MemoryDriver, CAPABILITIES)


async def test_what_is_published_is_received_on_either_loop() -> None:
    driver = make()
    await driver.open()
    source = await driver.subscribe(SPEC)
    await driver.publish([Message(channel="in", payload=b"x")])
    assert [one.payload for one in await source.receive(1, 100)] == [b"x"]
    await driver.close()
    await driver.close()


async def test_on_asyncio_the_source_is_the_drivers_own(anyio_backend: str) -> None:
    driver = make()
    await driver.open()
    source = await driver.subscribe(SPEC)
    assert isinstance(source, MemorySource) == (anyio_backend == "asyncio")
    await driver.close()


async def test_stop_reaches_a_waiting_receive() -> None:
    driver = make()
    await driver.open()
    source = await driver.subscribe(SPEC)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.receive, 1, 100)
            await anyio.sleep(0.05)
            source.stop()
    await driver.close()


async def test_before_open_and_after_close_the_driver_is_unavailable() -> None:
    driver = make()
    with pytest.raises(DriverUnavailable):
        await driver.publish([])
    await driver.open()
    await driver.close()
    with pytest.raises(DriverUnavailable):
        await driver.channels()


async def test_a_cancelled_call_ends_over_there_before_it_ends_here(only_trio: None) -> None:
    thread = AsyncioThread()
    ended: list[str] = []

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(threading.current_thread().name)

    with anyio.move_on_after(0.05) as scope:
        await thread.call(call)
    assert scope.cancelled_caught
    assert ended == ["hexa-worker-asyncio"]
    await thread.close()


async def test_a_cancellation_that_nobody_asked_for_is_an_error(only_trio: None) -> None:
    thread = AsyncioThread()

    async def call() -> None:
        raise asyncio.CancelledError

    with pytest.raises(DriverUnavailable):
        await thread.call(call)
    await thread.close()


async def test_a_call_while_the_thread_ends_is_answered(only_trio: None) -> None:
    thread, ending = AsyncioThread(), threading.Event()

    async def reluctant() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ending.set()
            await asyncio.sleep(0.3)

    async def late() -> None:
        await asyncio.sleep(60)

    async def call_in_vain() -> None:
        with pytest.raises(DriverUnavailable):
            await thread.call(reluctant)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_in_vain)
            await anyio.sleep(0.05)
            tasks.start_soon(thread.close)
            await anyio.to_thread.run_sync(ending.wait)
            with pytest.raises(DriverUnavailable):
                await thread.call(late)


async def test_errors_come_home_as_they_are(only_trio: None) -> None:
    thread = AsyncioThread()

    async def call() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError, match="k"):
        await thread.call(call)
    await thread.close()


async def test_a_hop_takes_far_less_than_a_millisecond(only_trio: None) -> None:
    thread = AsyncioThread()

    async def call() -> None:
        return None

    await thread.call(call)
    fastest_s = 1.0
    for _ in range(200):  # a busy machine interrupts most of them
        begin = anyio.current_time()
        await thread.call(call)
        fastest_s = min(fastest_s, anyio.current_time() - begin)
    assert fastest_s < 0.001
    await thread.close()


class Losing(MemoryDriver):
    """A driver whose broker takes something away at once."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        await revoked(frozenset({"in"}))
        return await super().subscribe(spec)


async def test_the_revoked_callback_runs_on_the_loop_of_the_runtime() -> None:
    home = threading.current_thread()
    told: list[tuple[frozenset[str], bool]] = []

    async def revoked(sources: frozenset[str]) -> None:
        await anyio.lowlevel.checkpoint()
        told.append((sources, threading.current_thread() is home))

    driver = AsyncioDriverAdapter(Losing, CAPABILITIES)
    await driver.open()
    await driver.subscribe(SPEC, revoked)
    assert told == [(frozenset({"in"}), True)]
    await driver.close()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_call_that_is_cancelled_before_it_began_over_there_ends(anyio_backend: str) -> None:
    thread = AsyncioThread()
    try:
        for _ in range(50):
            with anyio.fail_after(5), anyio.CancelScope() as scope:
                scope.cancel()
                await thread.call(asyncio.sleep, 60)
    finally:
        await thread.close()
