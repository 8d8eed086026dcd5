"""Several types on one channel: each has its own handler, policy and name, and a key keeps its order across them."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from msgspec.structs import replace

from hexa_worker import Context, Retries, subscribe
from hexa_worker.actors.typed_source import Sources
from hexa_worker.config.model import ChannelConfig, Config, File, Memory, Subscription, WorkerConfig
from hexa_worker.core import lineage, settlement
from hexa_worker.core.message import Delivery, Message, header
from hexa_worker.core.settlement import Acked, Failure, Postponed, Released, Settlement
from hexa_worker.drivers.base import Revoked, Source, SubscriptionSpec, Unsettled, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore
from hexa_worker.errors import DriverRejected, DriverUnavailable, LeaseLost
from hexa_worker.subscriptions.loader import plans_in
from hexa_worker.subscriptions.plan import Plan
from tests.actors.conftest import module_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio


def plans_of(*handlers: Any, settings: dict[str, Subscription] | None = None, **channel: Any) -> tuple[Plan, ...]:
    file = File(
        worker=WorkerConfig(name="shop", handlers=()),
        broker=Memory(),
        subscriptions=settings or {},
        channels={"orders": ChannelConfig(**{"type": "header:event_type", **channel})},
    )
    return plans_in([module_of(*handlers)], Config(path=Path("worker.toml").absolute(), file=file)).plans


def emit(stage: WorkerFixture, type_: str | None, payload: Any, key: bytes | None = None) -> None:
    headers = () if type_ is None else (("event_type", type_.encode()),)
    stage.store.append(Message(channel="orders", payload=msgspec.json.encode(payload), key=key, headers=headers))
    stage.store.wake()


async def test_each_type_goes_to_its_handler_with_its_model_and_its_action() -> None:
    stage, seen = WorkerFixture(), list[tuple[str, Any]]()

    class Created(msgspec.Struct):
        id: int

    @subscribe("orders", type="created")
    async def do_created(order: Created, ctx: Context) -> None:
        seen.append((ctx.action, order.id))

    @subscribe("orders", type="deleted", action="forget")
    def do_deleted(order: dict[str, int], ctx: Context) -> None:
        seen.append((ctx.action, order))

    plans = plans_of(do_created, do_deleted)
    emit(stage, "created", {"id": 1})
    emit(stage, "deleted", {"id": 2})
    await stage.run(*plans)
    assert sorted(seen, key=str) == [("do-created", 1), ("forget", {"id": 2})]
    assert {plan.group for plan in plans} == {"shop.orders"}


async def test_retries_come_back_to_the_handler_of_their_type_by_its_own_policy() -> None:
    stage, seen = WorkerFixture(), defaultdict[str, list[int]](list)

    @subscribe("orders", type="a", retry=Retries(maximum=3, initial_s=0))
    async def do_a(_order: Any, ctx: Context) -> None:
        seen["a"].append(ctx.attempt)
        raise ValueError("a")

    @subscribe("orders", type="b", retry=Retries(maximum=1, initial_s=0), dead_letter_on=(KeyError,))
    async def do_b(order: Any, ctx: Context) -> None:
        seen["b"].append(ctx.attempt)
        raise KeyError(order) if order else ValueError(order)

    for type_, order in (("a", 0), ("b", 0), ("b", 1)):
        emit(stage, type_, order)
    await stage.run(*plans_of(do_a, do_b))
    assert (seen["a"], sorted(seen["b"])) == ([0, 1, 2, 3], [0, 0, 1])
    letters = await stage.dead("shop.orders")
    actions = [header(letter.headers, lineage.ACTION) for letter in letters]
    assert sorted(action or b"" for action in actions) == [b"do-a", b"do-b", b"do-b"]


@pytest.mark.parametrize(("unknown", "kind"), [("dead_letter", "DeadLettered"), ("drop", "Acked")])
async def test_what_no_handler_is_for_is_dead_lettered_or_dropped(unknown: str, kind: str) -> None:
    stage, seen = WorkerFixture(), list[int]()

    @subscribe("orders", type="a")
    async def do_a(order: int) -> None:
        seen.append(order)

    for type_, order in (("a", 1), ("b", 2), (None, 3)):
        emit(stage, type_, order)
    await stage.run(*plans_of(do_a, unknown=unknown))
    assert (seen, sorted(stage.kinds())) == ([1], sorted(["Acked", kind, kind]))
    reasons = [header(letter.headers, settlement.ERROR_MESSAGE) for letter in await stage.dead("shop.orders")]
    said = [b"its type cannot be read (header:event_type)", b"no handler is for type 'b' (header:event_type)"]
    assert sorted(reason or b"" for reason in reasons) == (said if unknown == "dead_letter" else [])


async def test_a_handler_of_any_other_type_gets_what_no_other_is_for() -> None:
    stage, seen = WorkerFixture(), list[tuple[str, int]]()

    @subscribe("orders", type="a")
    async def do_a(order: int) -> None:
        seen.append(("a", order))

    @subscribe("orders", type="*")
    async def do_any(order: int) -> None:
        seen.append(("*", order))

    for type_, order in (("a", 1), ("b", 2), (None, 3)):
        emit(stage, type_, order)
    await stage.run(*plans_of(do_a, do_any))
    assert sorted(seen) == [("*", 2), ("*", 3), ("a", 1)]


@pytest.mark.parametrize("retry_order", ["free", "key"])
async def test_a_key_keeps_its_order_across_types_while_one_is_slow(retry_order: Any) -> None:
    stage, seen = WorkerFixture(), defaultdict[str, list[int]](list)
    failed = set[int]()
    retry = Retries(maximum=2, initial_s=0.01, order=retry_order)

    @subscribe("orders", type="slow", order_by="key", retry=retry, concurrency=4)
    async def do_slow(number: int, ctx: Context) -> None:
        await anyio.sleep(0.001)
        if retry_order == "key" and number % 7 == 0 and number not in failed:
            failed.add(number)
            raise ConnectionError(number)
        seen[ctx.key or ""].append(number)

    @subscribe("orders", type="fast", order_by="key", retry=retry, concurrency=4)
    async def do_fast(number: int, ctx: Context) -> None:
        seen[ctx.key or ""].append(number)

    for number in range(120):
        emit(stage, "slow" if number % 3 else "fast", number, key=b"k%d" % (number % 5))
    await stage.run(*plans_of(do_slow, do_fast))
    assert sum(map(len, seen.values())) == 120
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_a_type_whose_worker_ends_alone_gives_back_what_it_had_and_what_was_behind_it() -> None:
    stage = WorkerFixture()

    @subscribe("orders", type="a", order_by="key")
    async def do_a(number: int) -> None: ...

    @subscribe("orders", type="b", order_by="key")
    async def do_b(number: int) -> None: ...

    plans = {plan.action: plan for plan in plans_of(do_a, do_b)}
    with anyio.fail_after(10):
        driver = MemoryDriver(stage.store)
        async with Sources(driver) as sources:
            first = await sources.subscribe(plans["do-a"], nothing_revoked)
            other = await sources.subscribe(plans["do-b"], nothing_revoked)
            for number, type_ in enumerate("aab"):
                emit(stage, type_, number, key=b"k")
            emit(stage, "b", 3, key=b"other")
            assert [one.payload for one in await first.receive(1, 1000)] == [b"0"]
            (apart,) = await other.receive(10, 1000)
            assert apart.payload == b"3"
            await other.settle([Acked(apart)])
            await first.close()
            again = await sources.subscribe(plans["do-a"], nothing_revoked)
            batch: list[Delivery] = []
            while len(batch) < 2:
                batch += await again.receive(10, 1000)
            assert [one.payload for one in batch] == [b"0", b"1"]
            await again.settle([Acked(one) for one in batch])
            (last,) = await other.receive(10, 1000)
            assert last.payload == b"2"
            await other.settle([Acked(last)])
            assert (await other.backlog()).idle
            await again.close()
            await other.close()


async def test_what_breaks_the_one_source_is_raised_to_every_worker_of_its_types() -> None:
    stage = WorkerFixture()

    @subscribe("orders", type="a")
    async def do_a(number: int) -> None: ...

    @subscribe("orders", type="b")
    async def do_b(number: int) -> None: ...

    plans = {plan.action: plan for plan in plans_of(do_a, do_b)}

    class Breaking(MemorySource):
        async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
            raise DriverRejected(f"no rights to receive {max_count} of {max_bytes} bytes")

    class BreakingDriver(MemoryDriver):
        async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
            del revoked
            return Breaking(self.store, spec)

    with anyio.fail_after(10):
        async with Sources(BreakingDriver(stage.store)) as sources:
            opened = [await sources.subscribe(plans[action], nothing_revoked) for action in ("do-a", "do-b")]
            for source in opened:
                with pytest.raises(DriverRejected):
                    await source.receive(1, 1000)
            for source in opened:
                await source.close()


class Moody(MemorySource):
    """A source whose broker is away while it settles, as often as it is told, or that has lost every lease."""

    def __init__(self, store: MemoryStore, spec: SubscriptionSpec) -> None:
        super().__init__(store, spec)
        self.away = 0
        self.loses = False
        self.closed = 0

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        await anyio.lowlevel.checkpoint()
        if self.away and settlements:
            self.away -= 1
            raise DriverUnavailable("the broker is away")
        if self.loses:
            return [Unsettled(one, LeaseLost("somebody else has it")) for one in settlements]
        return await super().settle(settlements)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


class MoodyDriver(MemoryDriver):
    """Gives such sources."""

    def __init__(self, stage: WorkerFixture) -> None:
        super().__init__(stage.store)
        self.sources: list[Moody] = []

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        del revoked
        self.sources.append(Moody(self.store, spec))
        return self.sources[-1]


@subscribe("orders", type="a", order_by="key")
async def take_a(number: int) -> None: ...


@subscribe("orders", type="b", order_by="key")
async def take_b(number: int) -> None: ...


@asynccontextmanager
async def two_types(stage: WorkerFixture) -> AsyncIterator[tuple[MoodyDriver, Callable[[str], Awaitable[Source]]]]:
    plans = {plan.action: plan for plan in plans_of(take_a, take_b)}
    driver = MoodyDriver(stage)
    with anyio.fail_after(10):
        async with Sources(driver) as sources:
            yield driver, lambda action: sources.subscribe(plans[action], nothing_revoked)


async def test_of_two_workers_that_end_together_the_last_closes_the_source() -> None:
    async with two_types(WorkerFixture()) as (driver, subscribed):
        first, other = await subscribed("take-a"), await subscribed("take-b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.close)
            tasks.start_soon(other.close)
        assert driver.sources[0].closed == 1


async def test_what_cannot_be_given_back_ends_the_source_for_all_and_comes_again_by_the_next() -> None:
    stage = WorkerFixture()
    async with two_types(stage) as (driver, subscribed):
        first, other = await subscribed("take-a"), await subscribed("take-b")
        emit(stage, "a", 0, key=b"k")
        emit(stage, "b", 1, key=b"k")
        assert [one.payload for one in await first.receive(1, 1000)] == [b"0"]
        driver.sources[0].away = 1
        await first.close()
        with pytest.raises(DriverRejected, match="could not be given back"):
            await other.receive(1, 1000)
        await other.close()
        assert driver.sources[0].closed == 1
        again, second = await subscribed("take-a"), await subscribed("take-b")
        for source, payload in ((again, b"0"), (second, b"1")):
            (delivery,) = await source.receive(1, 1000)
            assert delivery.payload == payload
            await source.settle([Acked(delivery)])
        await again.close()
        await second.close()


async def test_a_release_that_failed_is_not_forgotten_before_it_took_effect() -> None:
    stage = WorkerFixture()
    async with two_types(stage) as (driver, subscribed):
        first, other = await subscribed("take-a"), await subscribed("take-b")
        emit(stage, "a", 0, key=b"k")
        (delivery,) = await first.receive(1, 1000)
        driver.sources[0].away = 1
        with pytest.raises(DriverUnavailable):
            await first.settle([Released(delivery)])
        await first.close()
        again = await subscribed("take-a")
        (delivery,) = await again.receive(1, 1000)
        assert delivery.payload == b"0"
        await again.settle([Acked(delivery)])
        await again.close()
        await other.close()


async def test_a_postponed_retry_whose_lease_is_lost_holds_its_key_no_more() -> None:
    stage = WorkerFixture()
    async with two_types(stage) as (driver, subscribed):
        first, other = await subscribed("take-a"), await subscribed("take-b")
        emit(stage, "a", 0, key=b"k")
        emit(stage, "b", 1, key=b"k")
        (delivery,) = await first.receive(1, 1000)
        driver.sources[0].loses = True
        failure = Failure(error="ValueError", message="", reason="failed")
        await first.settle([Postponed(delivery, again=replace(delivery, attempt=1), failure=failure, delay_s=1.0)])
        driver.sources[0].loses = False
        (behind,) = await other.receive(1, 1000)
        assert behind.payload == b"1"
        await first.close()
        await other.close()
