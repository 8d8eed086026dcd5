"""What used up its retries holds its subscription: nothing is lost, nothing overtakes it, and it goes on when told."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from hexa_worker import BatchContext, BatchResult, Context, DeadLetter, Decision
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.config.dedup import Dedup
from hexa_worker.core.classification import ErrorAnswer
from hexa_worker.core.controls import AS_CONFIGURED
from hexa_worker.core.idempotency import by_event
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.stop import StopSignals
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.deadlines import until

pytestmark = pytest.mark.anyio
ONE_RETRY = RetryPolicy(initial_interval_s=0.0, maximum_retries=1)
IN_PLACE = RetryPolicy(initial_interval_s=0.01, maximum_retries=1, order="key")
NO_RETRY = RetryPolicy(maximum_retries=0)


class Held:
    """A worker whose handler cannot do some numbers until they are mended."""

    def __init__(self, *broken: int) -> None:
        self.stage = WorkerFixture()
        self.broken = set(broken)
        self.seen: list[int] = []
        self.done: list[int] = []
        self.supervisor: Supervisor | None = None
        self.stop = StopSignals()

    async def handle(self, number: int, _ctx: Context) -> None:
        self.seen.append(number)
        await checkpoint()
        if number in self.broken:
            raise ConnectionError(f"{number} cannot be done yet")
        self.done.append(number)

    @property
    def subscription(self) -> Any:
        assert self.supervisor is not None
        return self.supervisor.subscriptions[0]

    async def until_held(self, count: int = 1) -> None:
        await until(lambda: self.subscription.stats.on_hold == count and not self.subscription.worker.in_flight)

    @asynccontextmanager
    async def running(self, handler: Callable[..., Any] | None = None, **settings: Any) -> AsyncIterator[None]:
        plan = plan_of(handler or self.handle, on_exhausted="hold", **{"retry": ONE_RETRY, **settings})
        async with anyio.create_task_group() as tasks:

            async def beside(supervisor: Supervisor) -> None:
                self.supervisor = supervisor

            async def serve() -> None:
                await self.stage.serve([plan], self.stop, beside=beside)

            tasks.start_soon(serve)
            await until(lambda: self.supervisor is not None and self.subscription.source is not None)
            yield
            self.stop.ask()


async def test_an_event_without_retries_left_stays_and_its_subscription_starts_nothing_more() -> None:
    held = Held(1)
    held.stage.emit(1)
    async with held.running():
        await held.until_held()
        assert held.seen == [1, 1]
        for number in range(2, 300):
            held.stage.emit(number)
        await anyio.sleep(0.05)
        assert held.seen == [1, 1]
        assert held.subscription.report().counters.on_hold == 1
        held.broken.clear()
        assert held.subscription.resume() == 1
        await until(lambda: len(held.done) == 299)
        assert held.seen[2] == 1
        assert held.subscription.stats.on_hold == 0
    assert not await held.stage.dead()


async def test_an_outcome_hook_is_told_that_it_is_held() -> None:
    held, told = Held(1), list[Decision]()

    async def handle(number: int, ctx: Context) -> None:
        await held.handle(number, ctx)

    held.stage.emit(1)
    plan = plan_of(handle, on_exhausted="hold", retry=NO_RETRY)
    await held.stage.run(plan, outcome_hooks=(told.append,))
    assert [one.what for one in told] == ["held"]
    assert isinstance(told[0].error, ConnectionError)


async def test_it_is_held_again_when_it_fails_again() -> None:
    held = Held(1)
    held.stage.emit(1)
    async with held.running():
        for times in (2, 3, 4):
            await held.until_held()
            assert held.seen == [1] * times
            assert held.subscription.resume() == 1
    assert held.stage.kinds()[-1] == "Released"


@pytest.mark.parametrize("retry", [IN_PLACE, NO_RETRY])
async def test_nothing_of_its_key_overtakes_it(retry: RetryPolicy) -> None:
    held = Held(3)
    for number in range(40):
        held.stage.emit(number, key=b"k%d" % (number % 2))
    async with held.running(order_by=OrderBy.KEY, retry=retry):
        await held.until_held()
        assert [one for one in held.done if one % 2] == [1]
        held.broken.clear()
        held.subscription.resume()
        await until(lambda: len(held.done) == 40)
    assert [one for one in held.done if one % 2] == list(range(1, 40, 2))
    assert [one for one in held.done if not one % 2] == list(range(0, 40, 2))


async def test_a_stop_releases_it_and_the_next_worker_tries_it_again_in_its_order() -> None:
    held = Held(2)
    for number in range(6):
        held.stage.emit(number, key=b"k")
    async with held.running(order_by=OrderBy.KEY, retry=NO_RETRY):
        await held.until_held()
    assert held.stage.kinds().count("Acked") == 2
    again = Held()
    again.stage.store = held.stage.store
    async with again.running(order_by=OrderBy.KEY, retry=NO_RETRY):
        await until(lambda: len(again.done) == 4)
    assert again.done == [2, 3, 4, 5]


async def test_a_worker_that_runs_until_idle_does_not_wait_for_what_is_held() -> None:
    held = Held(1)
    held.stage.emit(1)
    assert await held.stage.run(plan_of(held.handle, on_exhausted="hold", retry=NO_RETRY)) == 0
    assert held.stage.kinds() == ["Released"]


async def test_items_of_a_batch_are_held_one_by_one_and_come_back_in_their_order() -> None:
    held, batches = Held(), list[list[int]]()

    async def handle(numbers: list[int], _ctx: BatchContext) -> BatchResult:
        batches.append(numbers)
        return [ValueError("odd") if number % 2 and len(batches) == 1 else None for number in numbers]

    for number in range(6):
        held.stage.emit(number)
    async with held.running(handle, batch=4, concurrency=1, retry=NO_RETRY):
        await held.until_held(2)
        held.subscription.resume()
        await until(lambda: len(held.stage.settled) == 6)
    assert batches == [[0, 1, 2, 3], [1, 3, 4, 5]]


async def test_what_no_retry_can_help_is_dead_lettered_all_the_same() -> None:
    held, raised = Held(), (DeadLetter("hopeless"), KeyError("k"))

    async def handle(number: int, _ctx: Context) -> None:
        raise raised[number]

    for number in range(len(raised)):
        held.stage.emit(number)
    async with held.running(handle, rules={KeyError: ErrorAnswer.DEAD_LETTER}):
        await until(lambda: len(held.stage.settled) == 2)
    assert held.stage.kinds() == ["DeadLettered"] * 2


async def test_the_command_that_resumes_a_subscription_resumes_what_is_held() -> None:
    held = Held(1)
    held.stage.emit(1)
    async with held.running():
        await held.until_held()
        held.broken.clear()
        assert held.supervisor is not None
        held.supervisor.control(AS_CONFIGURED.without_pause("act", None))
        await until(lambda: held.done == [1])


async def test_the_claim_of_a_held_event_is_kept() -> None:
    held = Held(1)
    held.stage.dedup = Dedup(store="embedded", lease_s=30.0)
    held.stage.claims = MemoryClaims(lease_s=30.0)
    held.stage.emit(1)
    async with held.running(effect_key=by_event):
        await held.until_held()
        held.broken.clear()
        held.subscription.resume()
        await until(lambda: held.done == [1])
    assert held.stage.kinds().count("Acked") == 1
