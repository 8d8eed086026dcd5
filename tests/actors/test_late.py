"""Handlers that take longer than they may."""

from typing import Any

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.core.settlement import RetryAt
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio


async def test_a_late_handler_is_cancelled_and_retried() -> None:
    stage, tries = WorkerFixture(), list[int]()

    async def handle(_payload: Any, ctx: Context) -> None:
        tries.append(ctx.attempt)
        if ctx.attempt == 0:
            await anyio.sleep_forever()

    stage.emit(1)
    await stage.run(plan_of(handle, timeout_s=0.05))
    assert tries == [0, 1]
    first = stage.settled[0]
    assert isinstance(first, RetryAt)
    assert first.failure.reason == "timeout"


async def test_whoever_follows_a_late_handler_has_all_of_its_time() -> None:
    stage = WorkerFixture()

    async def handle(number: int, ctx: Context) -> None:
        if number == 1 and not ctx.attempt:
            await anyio.sleep(60)
        await anyio.sleep(0.2)  # some looks of the sweeper, and much less than the timeout

    stage.emit(1)
    stage.emit(2)
    await stage.run(plan_of(handle, timeout_s=1.0, concurrency=1))
    assert sorted(stage.kinds()) == ["Acked", "Acked", "RetryAt"]


async def test_a_lane_goes_on_after_a_late_handler() -> None:
    stage, seen = WorkerFixture(), list[int]()

    async def handle(number: int, ctx: Context) -> None:
        if number % 2 and ctx.attempt == 0:
            await anyio.sleep_forever()
        seen.append(number)

    for number in range(6):
        stage.emit(number)
    await stage.run(plan_of(handle, timeout_s=0.05, concurrency=1))
    assert sorted(seen) == list(range(6))


async def test_extending_gives_a_handler_more_time() -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, ctx: Context) -> None:
        ctx.extend(5)
        await anyio.sleep(0.15)

    stage.emit(1)
    await stage.run(plan_of(handle, timeout_s=0.05))
    assert stage.kinds() == ["Acked"]


async def test_a_handler_that_ignores_its_cancellation_is_reported_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexa_worker.app.STUCK_AFTER_S", 0.05)
    stage = WorkerFixture()
    done = anyio.Event()

    async def handle(_payload: Any, _ctx: Context) -> None:
        with anyio.CancelScope(shield=True):
            await done.wait()

    stage.emit(1)
    async with stage.running(plan_of(handle, timeout_s=0.02)):
        while not stage.stuck:
            await anyio.sleep(0.005)
        done.set()
    assert stage.stuck[0].offset == 0
