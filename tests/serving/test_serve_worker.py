"""A worker on the loop of an application: the same promises, without a process of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from hexa_worker import ConfigError, DriverRejected, Emitter, WorkerFailed, serve_worker
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.drivers.base import Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore

pytestmark = pytest.mark.anyio
LIMIT_S = 60

WORKER = """
[worker]
name = "beside"
handlers = ["beside_handlers"]
shutdown_grace_s = 20
restart = { max_restarts = 0 }
[broker]
driver = "embedded"
path = "hexa.db"
"""
HANDLERS = """
import anyio
from hexa_worker import Context, lifespan, subscribe

class Seen:
    def __init__(self) -> None:
        self.begun, self.done = [], []
        self.news, self.go_on = anyio.Event(), anyio.Event()

@subscribe("work", action="do", timeout_s=0)
async def do(number: int, ctx: Context) -> None:
    seen = ctx.state
    seen.begun.append(number)
    seen.news.set()
    await seen.go_on.wait()
    seen.done.append(number)
"""


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "worker.toml").write_text(WORKER)
    (tmp_path / "beside_handlers.py").write_text(HANDLERS)
    path = list(sys.path)
    yield tmp_path / "worker.toml"
    sys.path[:] = path
    sys.modules.pop("beside_handlers", None)


class Seen:
    """What handlers tell, and wait for."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.news = anyio.Event()
        self.go_on = anyio.Event()


async def emit(config: Path, *numbers: int) -> None:
    async with Emitter.from_config(config) as emitter:
        for number in numbers:
            await emitter.emit("work", number)


async def test_it_handles_what_is_emitted_and_tells_how_it_stands(project: Path) -> None:
    seen = Seen()
    seen.go_on.set()
    with anyio.fail_after(LIMIT_S):
        async with serve_worker(project, state=seen) as worker:
            await worker.wait_ready()
            await emit(project, 1, 2)
            while len(seen.done) < 2:
                await anyio.sleep(0.001)
        (one,) = worker.status().subscriptions
    assert sorted(seen.done) == [1, 2]
    assert (one.action, one.state, one.counters.acked, one.held) == ("do", WorkerState.STOPPED, 2, 0)


async def test_the_end_of_the_block_lets_a_running_handler_end(project: Path) -> None:
    seen = Seen()
    await emit(project, 1)
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group, serve_worker(project, state=seen) as worker:
            await seen.news.wait()

            async def go_on() -> None:
                while worker.status().subscriptions[0].state is WorkerState.RUNNING:
                    await anyio.sleep(0.001)
                seen.go_on.set()

            group.start_soon(go_on)
    assert seen.done == [1]
    assert worker.status().subscriptions[0].counters.acked == 1


async def test_an_error_of_the_block_is_raised_as_it_is_after_the_drain(project: Path) -> None:
    seen = Seen()
    await emit(project, 1)
    worker = serve_worker(project, state=seen)

    async def fail() -> None:
        async with worker:
            await seen.news.wait()
            seen.go_on.set()
            raise ZeroDivisionError

    with anyio.fail_after(LIMIT_S), pytest.raises(ZeroDivisionError):
        await fail()
    assert worker.status().subscriptions[0].counters.acked == 1


async def test_a_cancelled_block_ends_at_once_and_what_it_had_in_hand_comes_again(project: Path) -> None:
    seen = Seen()
    await emit(project, 1)
    with anyio.fail_after(LIMIT_S):
        with anyio.CancelScope() as scope:
            async with serve_worker(project, state=seen):
                await seen.news.wait()
                scope.cancel()
                await anyio.sleep_forever()
        assert (seen.begun, seen.done) == ([1], [])
        seen.go_on.set()
        async with serve_worker(project, state=seen):
            while not seen.done:
                await anyio.sleep(0.001)
    assert seen.begun == [1, 1]


async def test_it_stops_when_it_is_told_to_and_the_block_goes_on(project: Path) -> None:
    seen = Seen()
    with anyio.fail_after(LIMIT_S):
        async with serve_worker(project, state=seen) as worker:
            await worker.wait_ready()
            await worker.stop()
            assert worker.status().subscriptions[0].state is WorkerState.STOPPED
            await emit(project, 1)
            with pytest.raises(WorkerFailed, match="stopped before"):
                await worker.wait_ready()
    assert seen.begun == []


async def test_an_error_of_the_lifespan_ends_the_block(project: Path) -> None:
    source = """
        @lifespan
        async def resources():
            raise LookupError("no database")
            yield
    """
    (project.parent / "beside_handlers.py").write_text(HANDLERS + dedent(source))
    with anyio.fail_after(LIMIT_S), pytest.raises(LookupError, match="no database"):
        async with serve_worker(project):
            await anyio.sleep_forever()


async def test_what_the_broker_refuses_for_good_ends_the_block(project: Path) -> None:
    (project.parent / "hexa.db").mkdir()
    with anyio.fail_after(LIMIT_S), pytest.raises(DriverRejected):
        async with serve_worker(project, state=None):
            await anyio.sleep_forever()


async def test_a_mistake_in_worker_toml_is_told_before_the_block(project: Path) -> None:
    await anyio.Path(project).write_text(WORKER + "[worker.nonsense]\n")
    with pytest.raises(ConfigError, match=r"worker\.nonsense: unknown key"):
        async with serve_worker(project):
            raise AssertionError


class Refusing(MemoryDriver):
    """Serves no subscription."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        raise DriverRejected("not this one")


@pytest.mark.parametrize("told_to_stop", [False, True])
async def test_a_subscription_that_failed_for_good_fails_the_block(project: Path, told_to_stop: bool) -> None:
    async def serve() -> None:
        async with serve_worker(project, state=None, driver=Refusing(MemoryStore())) as worker:
            if not told_to_stop:
                await anyio.sleep_forever()
            while not worker.status().subscriptions or worker.status().alive:
                await checkpoint()

    with anyio.fail_after(LIMIT_S), pytest.raises(WorkerFailed, match="do failed: DriverRejected: not this one"):
        await serve()
