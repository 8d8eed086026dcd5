"""Retries that keep their place are not their own duplicates."""

from functools import partial

import anyio
import msgspec
import pytest

from hexa_worker.config.dedup import Dedup
from hexa_worker.core.idempotency import by_event
from hexa_worker.core.outcome import DUPLICATE
from hexa_worker.core.settlement import Acked
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.drivers.memory import MemoryDriver
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.testing.virtual import Backend
from tests.actors.virtual_worker import VirtualWorker, in_place
from tests.actors.weak_drivers import AmnesiacDriver, ForgetfulDriver


def dedup_theatre(backend: Backend, lease_s: float = 5.0) -> VirtualWorker:
    theatre = VirtualWorker(backend, dedup=Dedup(store="memory", lease_s=lease_s))
    theatre.stage.claims = MemoryClaims(lease_s=lease_s, clock=theatre.time)
    return theatre


def with_dedup(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, effect_key=lambda delivery: "act:" + by_event(delivery))


def test_a_waiting_retry_is_not_its_own_duplicate_and_its_copy_is(backend: Backend) -> None:
    theatre = dedup_theatre(backend, lease_s=1.0)
    theatre.emit("a1", "a2", "a1")
    theatre.run(with_dedup(in_place(theatre.failing({"a1": 3}), attempts=3)))
    assert [run for run in theatre.runs if run[0] == "a1"] == [("a1", number) for number in range(4)]
    assert theatre.finished() == ["a1", "a2"]
    assert sum(isinstance(one, Acked) and one.dropped == DUPLICATE for one in theatre.stage.settled) == 1


@pytest.mark.parametrize("driver", [MemoryDriver, ForgetfulDriver])
def test_a_retry_that_was_handed_back_is_not_taken_for_a_duplicate(
    backend: Backend, driver: type[MemoryDriver]
) -> None:
    theatre = dedup_theatre(backend)
    theatre.emit("a1", "a2")
    plan = with_dedup(in_place(theatre.failing({"a1": 3})))

    async def first() -> None:
        async with theatre.stage.running(plan, driver=driver(theatre.stage.store), clock=theatre.time):
            await anyio.sleep(2)  # attempt 1 has failed, too

    theatre.play(first)
    theatre.run(plan, driver=driver(theatre.stage.store))
    assert theatre.finished() == ["a1", "a2"]


def test_a_retry_that_was_handed_back_and_whose_attempts_were_forgotten_is_not_lost(backend: Backend) -> None:
    theatre = dedup_theatre(backend)
    theatre.emit("a1", "a2")
    plan = with_dedup(in_place(theatre.failing({"a1": 2})))

    async def for_a_while(driver: MemoryDriver) -> None:
        async with theatre.stage.running(plan, driver=driver, clock=theatre.time):
            await anyio.sleep(0.5)

    theatre.play(partial(for_a_while, MemoryDriver(theatre.stage.store)))  # attempt 0 fails
    theatre.play(partial(for_a_while, MemoryDriver(theatre.stage.store)))  # attempt 1 is not due yet
    theatre.run(plan, driver=AmnesiacDriver(theatre.stage.store))
    assert theatre.finished() == ["a1", "a2"]
