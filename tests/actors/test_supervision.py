"""Isolation, restarts, drain and cancellation; brokers that go away; suspects that run alone."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Delivery
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Released, Settlement
from hexa_worker.drivers.base import Revoked, SubscriptionSpec, Unsettled, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore
from hexa_worker.errors import DriverRejected, DriverUnavailable
from hexa_worker.stop import CANCEL
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio


async def succeed(_payload: Any, _ctx: Context) -> None: ...


class BrokenSource(MemorySource):
    """A real source that misbehaves on purpose."""

    def __init__(self, store: MemoryStore, spec: Any, faults: list[BaseException]) -> None:
        super().__init__(store, spec)
        self.faults = faults

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        if self.faults:
            raise self.faults.pop(0)
        return await super().receive(max_count, max_bytes)


class BrokenDriver(MemoryDriver):
    """Breaks the sources of one action."""

    def __init__(self, store: MemoryStore, action: str, faults: list[BaseException]) -> None:
        super().__init__(store)
        self.action, self.faults = action, faults

    async def subscribe(self, spec: Any, revoked: Revoked = nothing_revoked) -> MemorySource:
        if spec.action != self.action:
            return await super().subscribe(spec, revoked)
        source = BrokenSource(self.store, spec, self.faults)
        self._sources.append(source)
        return source


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, BaseException])
async def test_a_source_that_raises_is_restarted_and_never_disturbs_a_sibling(error: type[BaseException]) -> None:
    stage = WorkerFixture()
    for number in range(10):
        stage.emit(number)
    driver = BrokenDriver(stage.store, "bad", [error("one"), error("two")])
    assert await stage.run(plan_of(succeed, "good"), plan_of(succeed, "bad"), driver=driver) == 0
    assert stage.kinds() == ["Acked"] * 20


async def test_a_subscription_that_keeps_breaking_is_failed_while_its_sibling_runs_on() -> None:
    stage = WorkerFixture()
    for number in range(10):
        stage.emit(number)
    driver = BrokenDriver(stage.store, "bad", [ValueError(str(number)) for number in range(99)])
    assert await stage.run(plan_of(succeed, "good"), plan_of(succeed, "bad"), driver=driver) == 1
    last = {one.action: one for one in stage.reports[-1].subscriptions}
    assert last["bad"].state is WorkerState.FAILED
    assert "ValueError" in last["bad"].error
    assert last["good"].counters.acked == 10


async def test_a_broker_that_is_away_is_no_failure_however_often() -> None:
    stage = WorkerFixture()
    stage.emit(1)
    driver = BrokenDriver(stage.store, "act", [DriverUnavailable("away") for _ in range(4)])
    assert await stage.run(plan_of(succeed), driver=driver) == 0
    assert stage.kinds() == ["Acked"]


async def test_a_settlement_is_tried_until_the_broker_takes_it() -> None:
    stage, failures = WorkerFixture(), [3]

    class Flaky(MemorySource):
        async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
            if failures[0]:
                failures[0] -= 1
                raise DriverUnavailable("away")
            return await super().settle(settlements)

    class Driver(MemoryDriver):
        async def subscribe(self, spec: Any, revoked: Revoked = nothing_revoked) -> MemorySource:
            return Flaky(self.store, spec)

    stage.emit(1)
    await stage.run(plan_of(succeed), driver=Driver(stage.store))
    assert stage.kinds() == ["Acked"]
    assert failures == [0]


async def test_a_refused_dead_letter_keeps_its_original_unacknowledged() -> None:
    stage = WorkerFixture()

    class Refusing(MemoryStore):
        def append(self, message: Any) -> str:
            if message.channel.endswith(".dlq"):
                raise DriverRejected("no rights")
            return super().append(message)

    stage.store = Refusing()

    async def fail(_payload: Any, ctx: Context) -> None:
        if ctx.delivery.offset == 0:
            raise ValueError

    stage.emit(0)
    stage.emit(1)
    async with stage.running(plan_of(fail, retry=plan_of(succeed).retry.__class__(maximum_retries=0))):
        while not any(one.counters.parked for report in stage.reports for one in report.subscriptions):
            await anyio.sleep(0.01)
    assert stage.kinds() == ["Acked", "Released"]
    assert stage.store.groups["act"].leased == 0
    assert sum(map(len, stage.store.groups["act"].stripes.values())) == 1, "handed back, not lost"


async def test_a_revocation_before_anything_was_received_is_no_failure() -> None:
    stage = WorkerFixture()

    class Hasty(MemoryDriver):
        async def subscribe(self, spec: Any, revoked: Revoked = nothing_revoked) -> MemorySource:
            await revoked(frozenset({"events"}))
            return await super().subscribe(spec, revoked)

    stage.emit(1)
    await stage.run(plan_of(succeed), driver=Hasty(stage.store))
    assert stage.kinds() == ["Acked"]
    assert stage.reports[-1].subscriptions[0].counters.restarts == 0


async def test_a_drain_finishes_what_runs_and_releases_what_waits() -> None:
    stage = WorkerFixture()
    started, go_on = anyio.Event(), anyio.Event()

    async def handle(_payload: Any, _ctx: Context) -> None:
        started.set()
        await go_on.wait()

    for number in range(10):
        stage.emit(number)
    async with stage.running(plan_of(handle, concurrency=2)) as stop:
        await started.wait()
        stop.ask()
        await anyio.lowlevel.checkpoint()
        go_on.set()
    assert stage.kinds().count("Acked") == 2
    assert stage.kinds().count("Released") == 8
    assert stage.store.groups["act"].leased == 0


async def test_a_second_stop_cancels_and_releases_without_consuming_an_attempt() -> None:
    stage = WorkerFixture()
    started = anyio.Event()

    async def handle(_payload: Any, _ctx: Context) -> None:
        started.set()
        await anyio.sleep_forever()

    stage.emit(1)
    async with stage.running(plan_of(handle)) as stop:
        await started.wait()
        asked = anyio.current_time()
        stop.ask(CANCEL)
    assert anyio.current_time() - asked < stage.grace_s
    [settled] = stage.settled
    assert isinstance(settled, Released)
    assert settled.delivery.attempt == 0


async def test_handlers_that_outlast_the_grace_are_released() -> None:
    stage = WorkerFixture(grace_s=0.05)
    started = anyio.Event()

    async def handle(_payload: Any, _ctx: Context) -> None:
        started.set()
        await anyio.sleep_forever()

    stage.emit(1)
    async with stage.running(plan_of(handle)) as stop:
        await started.wait()
        stop.ask()
    assert stage.kinds() == ["Released"]


async def test_a_stop_before_anything_started_ends_at_once() -> None:
    stage = WorkerFixture()
    async with stage.running(plan_of(succeed)) as stop:
        stop.ask()
    assert stage.kinds() == []


class Known:
    """Suspects as a test wants them."""

    def __init__(self, counts: dict[int, int]) -> None:
        self.counts = counts

    def any(self) -> bool:
        return True

    def crashes(self, _action: str, _source: str, offset: int) -> int:
        return self.counts.get(offset, 0)

    def why(self, _action: str, _source: str, _offset: int) -> str:
        return "out of memory"


async def test_a_delivery_over_the_crash_limit_is_dead_lettered_without_running() -> None:
    stage, ran = WorkerFixture(suspects=Known({1: 3})), list[int]()

    async def handle(number: int, _ctx: Context) -> None:
        ran.append(number)

    for number in range(3):
        stage.emit(number)
    await stage.run(plan_of(handle))
    assert sorted(ran) == [0, 2]
    [letter] = await stage.dead()
    assert letter.payload == b"1"


async def test_a_suspect_on_its_last_chance_runs_alone_in_its_process() -> None:
    stage = WorkerFixture(suspects=Known({3: 2, 4: 2, 5: 1}))
    running, beside = set[tuple[str, int]](), dict[int, int]()

    async def handle(number: int, ctx: Context) -> None:
        running.add((ctx.action, number))
        for _ in range(5):
            await anyio.sleep(0.001)
            beside[number] = max(beside.get(number, 0), len(running))
        running.discard((ctx.action, number))

    for number in range(12):
        stage.emit(number)
    await stage.run(plan_of(handle, "one"), plan_of(handle, "two"))
    assert stage.kinds() == ["Acked"] * 24
    assert beside[3] == beside[4] == 1
    assert max(beside.values()) > 1


async def test_a_suspect_runs_only_when_those_before_it_are_settled() -> None:
    stage, settled = WorkerFixture(suspects=Known({0: 3, 1: 1, 2: 2})), list[int]()
    before = dict[int, list[int]]()

    class SlowToSettle(MemoryDriver):
        async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
            source = await super().subscribe(spec, revoked)
            settle = source.settle

            async def slowly(settlements: Any) -> Any:
                await anyio.sleep(0.05)
                unsettled = await settle(settlements)
                settled.extend(one.delivery.offset for one in settlements)
                return unsettled

            source.settle = slowly  # type: ignore[method-assign]
            return source

    async def handle(number: int, _ctx: Context) -> None:
        before[number] = sorted(settled)

    for number in range(3):
        stage.emit(number)
    await stage.run(plan_of(handle), driver=SlowToSettle(stage.store))
    assert before in ({1: [0], 2: [0, 1]}, {2: [0], 1: [0, 2]})


async def test_suspects_of_a_batch_handler_come_alone() -> None:
    stage, batches = WorkerFixture(suspects=Known({2: 1})), list[list[int]]()

    async def handle(numbers: list[int], _ctx: Any) -> None:
        batches.append(numbers)

    for number in range(5):
        stage.emit(number)
    await stage.run(plan_of(handle, batch=10, concurrency=1))
    assert [2] in batches
    assert sorted(number for batch in batches for number in batch) == list(range(5))


@pytest.mark.parametrize("batch", [{}, {"batch": 2}])
async def test_a_suspect_on_its_last_chance_sees_the_end_of_a_handler_that_is_late(batch: dict[str, int]) -> None:
    stage = WorkerFixture(suspects=Known({1: 2}))

    async def late(_payload: object, _ctx: object) -> None:
        stage.emit("suspect", "others")
        await anyio.sleep_forever()

    stage.emit("first", "others")
    stage.emit("late", "late")
    no_retry = RetryPolicy(maximum_retries=0)
    plan = plan_of(late, "late", channels=("late",), timeout_s=0.2, retry=no_retry, concurrency=1, **batch)
    await stage.run(plan, plan_of(succeed, "others", channels=("others",)))
    assert sorted(stage.kinds()) == ["Acked", "Acked", "DeadLettered"]
