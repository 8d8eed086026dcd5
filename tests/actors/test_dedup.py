"""What a worker does with copies of an event, whoever else has it in hand, and with a claim store that is away."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from hexa_worker import Context, DeadLetter, Retry
from hexa_worker.config.dedup import Dedup
from hexa_worker.core import lineage
from hexa_worker.core.claims import Answer, Ask, Ending, Granted, GrantedClaim
from hexa_worker.core.idempotency import by_event
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DUPLICATE
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked
from hexa_worker.dedup.base import ClaimStore
from hexa_worker.dedup.embedded import EmbeddedClaims
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable
from hexa_worker.subscriptions.plan import Plan
from tests.actors.conftest import plan_of
from tests.actors.weak_drivers import RevokingDriver
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "embedded"])
def claims(request: pytest.FixtureRequest, tmp_path: Path) -> ClaimStore:
    if request.param == "memory":
        return MemoryClaims(lease_s=5.0)
    return EmbeddedClaims(tmp_path / "claims.db", lease_s=5.0)


def stage_of(claims: ClaimStore, **options: Any) -> WorkerFixture:
    return WorkerFixture(dedup=Dedup(store="memory", **options), claims=claims)


def dedup_plan(function: Callable[..., Any], **settings: Any) -> Plan:
    return plan_of(function, effect_key=lambda delivery: "act:" + by_event(delivery), **settings)


def emit(stage: WorkerFixture, payload: Any, event_id: str, key: bytes | None = None) -> None:
    headers = ((lineage.EVENT_ID, event_id.encode()),)
    stage.store.append(Message(channel="events", payload=msgspec.json.encode(payload), key=key, headers=headers))
    stage.store.wake()


def duplicates(stage: WorkerFixture) -> int:
    return sum(isinstance(one, Acked) and one.dropped == DUPLICATE for one in stage.settled)


async def test_every_event_delivered_twice_is_handled_once(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        seen.append(number)

    for _ in range(2):
        for number in range(200):
            emit(stage, number, f"event-{number}")
    assert await stage.run(dedup_plan(handle)) == 0
    assert sorted(seen) == list(range(200))
    assert duplicates(stage) == 200
    assert stage.reports[-1].subscriptions[0].counters.duplicates == 200


async def test_a_second_run_knows_what_the_first_one_did(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        seen.append(number)

    for _ in range(2):
        emit(stage, 1, "event-1")
        assert await stage.run(dedup_plan(handle)) == 0
    assert seen == [1]


async def test_a_retry_is_not_its_own_duplicate_but_a_copy_of_the_failed_attempt_is(claims: ClaimStore) -> None:
    stage, attempts = stage_of(claims), list[int]()

    async def handle(_payload: Any, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 0:
            emit(stage, 1, "event-1")
        if ctx.attempt < 2:
            raise Retry(after=0.05)

    emit(stage, 1, "event-1")
    assert await stage.run(dedup_plan(handle)) == 0
    assert attempts == [0, 1, 2]
    assert duplicates(stage) == 1


async def test_a_dead_letter_ends_an_event_and_its_redrive_begins_it_again(claims: ClaimStore) -> None:
    stage, rounds = stage_of(claims), list[int]()

    async def handle(_payload: Any, ctx: Context) -> None:
        rounds.append(ctx.attempt)
        raise DeadLetter("no")

    emit(stage, 1, "event-1")
    emit(stage, 1, "event-1")
    assert await stage.run(dedup_plan(handle)) == 0
    assert rounds == [0]
    [letter] = await stage.dead()
    again = (*letter.headers, (lineage.REDRIVEN_FROM, letter.message_id.encode()))
    for _ in range(2):  # a redrive that was cut short is run again
        stage.store.append(Message(channel="act.retry.1", payload=letter.payload, headers=again))
    assert await stage.run(dedup_plan(handle)) == 0
    assert rounds == [0, 1]


async def test_two_children_of_one_event_are_two_effects(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[str]()

    async def parent(_payload: Any, ctx: Context) -> None:
        await ctx.emit("children", ["a"])
        await ctx.emit("children", ["a"])

    async def child(payload: list[str], _ctx: Context) -> None:
        seen.extend(payload)

    emit(stage, 1, "event-1")
    child_plan = dedup_plan(child, action="child", channels=("children",))
    assert await stage.run(dedup_plan(parent), child_plan) == 0
    assert seen == ["a", "a"]


async def test_a_delivery_waits_for_a_live_owner_without_an_attempt(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[int]()
    await claims.open()
    (granted,) = await claims.claim([Ask("act:e:event-1", "somebody:1", 0)])
    assert isinstance(granted, Granted)

    async def handle(number: int, ctx: Context) -> None:
        seen.append(number)
        if number == 2:
            held = GrantedClaim("act:e:event-1", "somebody:1", granted.fence, 0)
            await claims.end([Ending(held, 0, 1_000)])  # the other owner gives it back
        else:
            assert ctx.attempt == 0
            assert ctx.fence is not None
            assert ctx.fence > granted.fence

    emit(stage, 1, "event-1")
    emit(stage, 2, "event-2")
    assert await stage.run(dedup_plan(handle)) == 0
    assert seen == [2, 1]


async def test_the_claim_of_a_dead_owner_is_taken_over_after_its_lease() -> None:
    claims = MemoryClaims(lease_s=0.5)
    stage, seen = stage_of(claims, lease_s=0.5), list[float]()
    await claims.claim([Ask("act:e:event-1", "dead:1", 0)])
    began = anyio.current_time()

    async def handle(_number: int, _ctx: Context) -> None:
        seen.append(anyio.current_time() - began)

    emit(stage, 1, "event-1")
    assert await stage.run(dedup_plan(handle)) == 0
    [waited] = seen
    assert waited > 0.4


async def test_a_handler_longer_than_the_lease_keeps_its_claim() -> None:
    claims = MemoryClaims(lease_s=0.5)
    stage, other = stage_of(claims, lease_s=0.5), list[Answer]()

    async def handle(_number: int, _ctx: Context) -> None:
        await anyio.sleep(1.2)
        other.extend(await claims.claim([Ask("act:e:event-1", "thief:1", 0)]))

    emit(stage, 1, "event-1")
    assert await stage.run(dedup_plan(handle)) == 0
    assert not any(isinstance(one, Granted) for one in other)


async def test_what_follows_a_waiting_delivery_of_its_key_waits_too(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[int]()
    await claims.open()
    (granted,) = await claims.claim([Ask("act:e:event-1", "somebody:1", 0)])
    assert isinstance(granted, Granted)

    async def handle(number: int, _ctx: Context) -> None:
        seen.append(number)
        if number == 3:
            await claims.end([Ending(GrantedClaim("act:e:event-1", "somebody:1", granted.fence, 0), 0, 1_000)])

    emit(stage, 1, "event-1", b"k")
    emit(stage, 2, "event-2", b"k")
    emit(stage, 3, "event-3", b"other")
    assert await stage.run(dedup_plan(handle, order_by=OrderBy.KEY)) == 0
    assert seen == [3, 1, 2]


async def test_what_waits_is_released_at_a_stop(claims: ClaimStore) -> None:
    stage = stage_of(claims)
    await claims.open()
    await claims.claim([Ask("act:e:event-1", "somebody:1", 0)])

    async def handle(_number: int, _ctx: Context) -> None:
        raise AssertionError("somebody else has it")

    emit(stage, 1, "event-1")
    async with stage.running(dedup_plan(handle)) as stop:
        while not (stage.reports and stage.reports[-1].subscriptions[0].counters.received):
            await anyio.sleep(0.01)
        stop.ask()
    assert stage.kinds() == ["Released"]


async def test_an_event_that_was_cancelled_and_released_is_handled_by_the_next_run(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[int]()
    stage.grace_s = 0.0
    began = anyio.Event()

    async def handle(number: int, _ctx: Context) -> None:
        if not began.is_set():
            began.set()
            await anyio.sleep_forever()
        seen.append(number)

    emit(stage, 1, "event-1")
    async with stage.running(dedup_plan(handle)) as stop:
        await began.wait()
        stop.ask()
    assert await stage.run(dedup_plan(handle)) == 0
    assert seen == [1]


class Flaky:
    """A memory store that can be away."""

    def __init__(self) -> None:
        self.inner = MemoryClaims(lease_s=5.0)
        self.away = False
        self.error: DriverError = DriverUnavailable("away on purpose")

    def _look(self) -> None:
        if self.away:
            raise self.error

    async def open(self) -> None:
        self._look()

    async def close(self) -> None:
        pass

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        self._look()
        return await self.inner.claim(asks)

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        self._look()
        return await self.inner.end(endings)

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        self._look()
        return await self.inner.extend(held)


async def test_with_process_events_are_handled_and_counted_while_the_store_is_away() -> None:
    flaky = Flaky()
    flaky.away = True
    stage, seen = stage_of(flaky, on_store_failure="process"), list[int | None]()

    async def handle(_number: int, ctx: Context) -> None:
        seen.append(ctx.fence)

    emit(stage, 1, "event-1")
    assert await stage.run(dedup_plan(handle)) == 0
    assert seen == [None]
    assert stage.kinds() == ["Acked"]
    assert stage.reports[-1].subscriptions[0].counters.unclaimed == 1


async def test_with_hold_nothing_is_handled_or_received_until_the_store_is_back() -> None:
    flaky = Flaky()
    flaky.away = True
    stage, seen = stage_of(flaky, on_store_failure="hold"), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        assert not flaky.away
        seen.append(number)

    emit(stage, 1, "event-1")
    async with stage.running(dedup_plan(handle)) as stop:
        while not any(one.subscriptions[0].state is WorkerState.WAITING for one in stage.reports):
            await anyio.sleep(0.01)
        emit(stage, 2, "event-2")
        await anyio.sleep(0.1)
        assert stage.reports[-1].subscriptions[0].counters.received == 1
        assert seen == []
        flaky.away = False
        while len(seen) < 2:
            await anyio.sleep(0.01)
        stop.ask()
    assert seen == [1, 2]


async def test_a_store_that_refuses_at_the_start_is_waited_for_where_another_process_has_run() -> None:
    flaky = Flaky()
    flaky.away, flaky.error = True, DriverRejected("rights were taken away")
    stage, seen = stage_of(flaky, on_store_failure="hold"), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        seen.append(number)

    emit(stage, 1, "event-1")
    with pytest.raises(DriverRejected, match="rights were taken away"):
        await stage.run(dedup_plan(handle))
    async with stage.running(dedup_plan(handle), proven=True) as stop:
        while not any(one.subscriptions[0].state is WorkerState.WAITING for one in stage.reports):
            await anyio.sleep(0.01)
        assert seen == []
        flaky.away = False
        while not seen:
            await anyio.sleep(0.01)
        stop.ask()
    assert seen == [1]


async def test_with_hold_a_subscription_that_lost_all_it_held_goes_on_when_the_store_is_back() -> None:
    flaky = Flaky()
    flaky.away = True
    stage, seen = stage_of(flaky, on_store_failure="hold"), list[int]()
    driver = RevokingDriver(stage.store)

    async def handle(number: int, _ctx: Context) -> None:
        seen.append(number)

    emit(stage, 1, "event-1")
    async with stage.running(dedup_plan(handle), driver=driver) as stop:
        while not any(one.subscriptions[0].state is WorkerState.WAITING for one in stage.reports):
            await anyio.sleep(0.01)
        await driver.revoke("events")
        flaky.away = False
        while not seen:
            await anyio.sleep(0.01)
        stop.ask()
    assert seen == [1]


async def test_held_events_are_released_at_a_stop_while_the_store_is_away() -> None:
    flaky = Flaky()
    flaky.away = True
    stage = stage_of(flaky, on_store_failure="hold")

    async def handle(_number: int, _ctx: Context) -> None:
        raise AssertionError("nobody knows whether it was handled")

    emit(stage, 1, "event-1")
    async with stage.running(dedup_plan(handle)) as stop:
        while not any(one.subscriptions[0].state is WorkerState.WAITING for one in stage.reports):
            await anyio.sleep(0.01)
        stop.ask()
    assert stage.kinds() == ["Released"]


async def test_an_effect_that_ended_while_the_store_was_away_is_known_afterwards() -> None:
    flaky = Flaky()
    stage, seen = stage_of(flaky), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        flaky.away = True
        seen.append(number)

    emit(stage, 1, "event-1")
    async with stage.running(dedup_plan(handle)) as stop:
        while not stage.settled:
            await anyio.sleep(0.01)
        flaky.away = False
        while flaky.inner.entries["act:e:event-1"].phase.value != "done":
            await anyio.sleep(0.01)
        stop.ask()
    assert seen == [1]


async def test_an_effect_is_done_in_the_store_before_its_delivery_is_acknowledged() -> None:
    settled: list[int] = []

    class Slow(Flaky):
        async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
            for _ in range(100):
                await checkpoint()
            settled.append(len(stage.settled))
            return await super().end(endings)

    stage = stage_of(Slow())

    async def handle(_number: int, _ctx: Context) -> None:
        pass

    emit(stage, 1, "event-1")
    assert await stage.run(dedup_plan(handle)) == 0
    assert settled == [0]
    assert stage.kinds() == ["Acked"]


async def test_effects_that_ended_while_the_store_was_away_are_told_apart_from_new_ones_and_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hexa_worker.actors.dedup_stage.ENDINGS_AT_ONCE", 20)
    calls: list[int] = []

    class Counting(Flaky):
        async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
            calls.append(len(endings))
            return await super().end(endings)

    flaky = Counting()
    stage = stage_of(flaky)

    async def handle(_number: int, _ctx: Context) -> None:
        pass

    def done() -> int:
        return sum(one.phase.value == "done" for one in flaky.inner.entries.values())

    async with stage.running(dedup_plan(handle, concurrency=1, mailbox=10)) as stop:
        flaky.away = True
        for number in range(100):
            emit(stage, number, f"event-{number}")
        while len(stage.settled) < 100:
            await anyio.sleep(0.01)
        flaky.away = False
        while done() < 100:
            await anyio.sleep(0.01)
        stop.ask()
    assert max(calls) <= 20


async def test_without_an_effect_key_a_subscription_handles_every_copy(claims: ClaimStore) -> None:
    stage, seen = stage_of(claims), list[int]()

    async def handle(number: int, ctx: Context) -> None:
        assert ctx.fence is None
        seen.append(number)

    for _ in range(2):
        emit(stage, 1, "event-1")
    assert await stage.run(plan_of(handle, retry=RetryPolicy(maximum_retries=0))) == 0
    assert seen == [1, 1]
