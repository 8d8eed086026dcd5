"""Simulation: real handlers while everything goes wrong, replayed by a seed."""

from collections.abc import Sequence

import anyio
import msgspec
import pytest

from hexa_worker import Context, DeadLetter, Event, Snooze, subscribe
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked, RetryAt, Settlement
from hexa_worker.drivers.base import Unsettled
from hexa_worker.drivers.memory import MemorySource
from hexa_worker.testing import FaultRates, Simulated, SimulationFailed, simulate


class Order(msgspec.Struct):
    id: int


@subscribe("orders", action="check", concurrency=4)
async def check(order: Order, ctx: Context) -> None:
    await anyio.sleep(0.05 * (order.id % 3))
    if order.id % 5 == 0 and ctx.attempt == 0:
        raise ValueError("not yet")
    if order.id % 11 == 3:
        raise DeadLetter("no")
    await ctx.emit("checked", order, key=str(order.id % 2))


@subscribe("checked", action="charge", concurrency=2)
async def charge(order: Order, ctx: Context) -> None:
    await anyio.sleep(0.02)
    if order.id % 13 == 4:
        raise ValueError("never")


EVENTS = [Event(channel="orders", payload={"id": number}, key=f"k{number % 4}") for number in range(40)]


def run(seed: int, **changes: object) -> Simulated:
    return simulate([check, charge], EVENTS, seed=seed, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_whatever_goes_wrong(seed: int) -> None:
    result = run(seed)
    assert result.violations == []
    assert sum(entry.what == "handle_ok" for entry in result.entries) >= 40


IN_PLACE = {"order_by": "key", "retry": {"order": "key", "maximum_waiting_keys": 2}}


@subscribe("orders", action="check", concurrency=4)
async def snoozing(order: Order, ctx: Context) -> None:
    await anyio.sleep(0.02)
    if order.id % 4 == 0 and ctx.snoozes < order.id % 3:
        raise Snooze(0.7 * (1 + ctx.snoozes))
    if order.id % 5 == 0 and ctx.attempt == 0:
        raise ValueError("not yet")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_snoozed_is_never_lost_and_never_early_whatever_goes_wrong(seed: int, in_place: bool) -> None:
    settings = {"check": IN_PLACE} if in_place else {}
    troubles = FaultRates(crash=0.08, stall=0.0, away=0.02) if in_place else FaultRates()
    result = simulate([snoozing], EVENTS, seed=seed, settings=settings, troubles=troubles)
    assert result.violations == []
    assert any(entry.error == "Snooze" for entry in result.entries)
    assert max(entry.snoozes for entry in result.entries) == 2


@pytest.mark.parametrize("seed", range(5))
def test_order_by_key_holds_whatever_goes_wrong(seed: int) -> None:
    crashes = FaultRates(crash=0.08, stall=0.0, away=0.02)
    result = run(seed, settings={"check": {"order_by": "key"}, "charge": {"order_by": "key"}}, troubles=crashes)
    assert result.violations == []


@pytest.mark.parametrize("seed", range(8))
def test_order_by_key_holds_across_retries_whatever_goes_wrong(seed: int) -> None:
    crashes = FaultRates(crash=0.08, stall=0.0, away=0.02)
    result = run(seed, settings={"check": IN_PLACE, "charge": IN_PLACE}, troubles=crashes)
    assert result.violations == []
    assert any(entry.attempt for entry in result.entries)


def test_things_do_go_wrong() -> None:
    results = [run(seed) for seed in range(5)]
    assert all(len(result.faults) > 5 for result in results)
    assert {fault.pid is None for result in results for fault in result.faults} == {True, False}


def test_the_same_seed_is_the_same_history_and_another_is_another() -> None:
    def history(seed: int) -> list[tuple[object, ...]]:
        return [(one.what, one.at, one.pid, one.action, one.attempt, one.payload) for one in run(seed).entries]

    assert history(7) == history(7)
    assert history(7) != history(8)


@subscribe("orders", action="check", concurrency=4)
async def check_at_once(order: Order, ctx: Context) -> None:
    if order.id % 5 == 0 and ctx.attempt == 0:
        raise ValueError("not yet")
    await ctx.emit("checked", order)


@subscribe("checked", action="charge")
async def charge_at_once(order: Order) -> None:
    del order


@pytest.mark.parametrize("seed", [1, 2, 10])
def test_a_process_that_dies_while_it_subscribes_handles_nothing_more(seed: int) -> None:
    assert simulate([check_at_once, charge_at_once], EVENTS[:20], seed=seed).violations == []


@subscribe("orders", action="check", concurrency=4)
async def check_slowly(order: Order, ctx: Context) -> None:
    await anyio.sleep(0.05)
    if order.id % 5 == 0 and ctx.attempt == 0:
        raise ValueError("not yet")
    await ctx.emit("checked", order)


@subscribe("checked", action="charge")
async def charge_slowly(order: Order) -> None:
    del order
    await anyio.sleep(0.02)


@pytest.mark.parametrize("seed", [5, 10, 22, 38])
def test_what_is_emitted_during_the_last_drain_is_handled(seed: int) -> None:
    assert simulate([check_slowly, charge_slowly], EVENTS[:20], seed=seed).violations == []


class LosesOnDeath(MemorySource):
    """A broker that forgets what a dead process had in hand."""

    def _hand_back(self, released: Sequence[tuple[int, Delivery]]) -> None:
        if not self._lost:
            super()._hand_back(released)


class AcksBeforeItStores(MemorySource):
    """A broker whose retry records are stored a moment after the acknowledgement."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        unsettled = await super().settle(
            [Acked(one.delivery) if isinstance(one, RetryAt) else one for one in settlements]
        )
        await anyio.sleep(0.2)
        if not self._lost:
            for one in settlements:
                if isinstance(one, RetryAt):
                    self._store.append(one.record)
        return unsettled


@pytest.mark.parametrize("broken", [LosesOnDeath, AcksBeforeItStores])
def test_a_broken_broker_is_found_and_the_seed_named(broken: type[MemorySource]) -> None:
    with pytest.raises(SimulationFailed, match=r"replay with seed=\d+") as caught:
        _run_all(broken)
    assert "I1" in str(caught.value)


def _run_all(source: type[MemorySource]) -> None:
    for seed in range(20):
        run(seed, source=source)
