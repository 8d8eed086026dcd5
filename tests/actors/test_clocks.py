"""The wall clock jumps while retries wait."""

from collections.abc import Callable
from functools import partial

import anyio
import pytest

from hexa_worker.core.retry import RetryPolicy
from hexa_worker.testing.virtual import Backend
from tests.actors.conftest import plan_of
from tests.actors.virtual_worker import VirtualWorker, in_place

HOUR_MS = 3_600_000


def jump(theatre: VirtualWorker, milliseconds: int) -> None:
    theatre.time._start_ms += milliseconds


def free(function: Callable[..., None]) -> object:
    return plan_of(function, retry=RetryPolicy(initial_interval_s=1.0, maximum_retries=3))


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
@pytest.mark.parametrize("plan", [free, in_place])
@pytest.mark.parametrize("limit", [100, 1])
def test_a_waiting_retry_keeps_its_delay(
    backend: Backend, plan: Callable[..., object], jump_ms: int, limit: int
) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1", "b1")
    how = {} if plan is free else {"limit": limit}

    async def scene() -> None:
        running = plan(theatre.failing({"a1": 1, "b1": 1}), **how)
        async with theatre.stage.running(running, clock=theatre.time):  # type: ignore[arg-type]
            await anyio.sleep(0.5)
            jump(theatre, jump_ms)
            theatre.emit("c1")  # so that all look again
            await anyio.sleep(3)

    theatre.play(partial(scene))
    assert sorted(theatre.runs) == [("a1", 0), ("a1", 1), ("b1", 0), ("b1", 1), ("c1", 0)]
    for text in ("a1", "b1"):
        assert 0.99 <= theatre.at(text, 1) - theatre.at(text, 0) <= 1.2
