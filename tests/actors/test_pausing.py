"""What is paused waits and is not lost; what is not goes on; what is resumed comes in its order."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.config.dedup import Dedup
from hexa_worker.core.controls import AS_CONFIGURED, Controls
from hexa_worker.core.idempotency import by_event
from hexa_worker.core.ordering import OrderBy
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.plan import Plan
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.deadlines import until

pytestmark = pytest.mark.anyio
WHOLE = AS_CONFIGURED.with_pause("act", None)
ONE_KEY = AS_CONFIGURED.with_pause("act", b"a")


class Operated:
    """A worker, what it handled, and the operator's end of it."""

    def __init__(self) -> None:
        self.stage = WorkerFixture()
        self.seen: list[Any] = []
        self.supervisor: Supervisor | None = None
        self.stop = StopSignals()

    async def handle(self, payload: Any, _ctx: Context) -> None:
        self.seen.append(payload)

    def control(self, controls: Controls) -> None:
        assert self.supervisor is not None
        self.supervisor.control(controls)

    @property
    def subscription(self) -> Any:
        assert self.supervisor is not None
        return self.supervisor.subscriptions[0]

    async def until_kept(self, count: int) -> None:
        await until(lambda: self.subscription.worker is not None and self.subscription.worker.kept == count)

    @asynccontextmanager
    async def running(
        self, controls: Controls = AS_CONFIGURED, handler: Callable[..., Any] | None = None, **settings: Any
    ) -> AsyncIterator[None]:
        plan: Plan = plan_of(handler or self.handle, **settings)
        async with anyio.create_task_group() as tasks:

            async def beside(supervisor: Supervisor) -> None:
                self.supervisor = supervisor

            async def serve() -> None:
                await self.stage.serve([plan], self.stop, controls=controls, beside=beside)

            tasks.start_soon(serve)
            await until(lambda: self.supervisor is not None and self.subscription.source is not None)
            yield
            self.stop.ask()


async def test_a_subscription_that_is_paused_from_the_start_takes_nothing_until_it_is_resumed() -> None:
    worker = Operated()
    for number in range(10):
        worker.stage.emit(number)
    async with worker.running(WHOLE):
        await anyio.sleep(0.05)
        assert not worker.seen
        assert worker.subscription.held == 0
        assert worker.subscription.report().paused
        worker.control(AS_CONFIGURED)
        await until(lambda: len(worker.seen) == 10)
    assert worker.seen == list(range(10))


async def test_what_is_in_flight_when_it_is_paused_ends_and_what_comes_later_waits() -> None:
    worker, go = Operated(), anyio.Event()

    async def handle(number: int, _ctx: Context) -> None:
        await go.wait()
        worker.seen.append(number)

    async with worker.running(handler=handle, concurrency=2):
        for number in range(6):
            worker.stage.emit(number)
        await until(lambda: worker.subscription.held == 6)
        worker.control(WHOLE)
        go.set()
        await until(lambda: len(worker.seen) == 6)
        for number in range(6, 12):
            worker.stage.emit(number)  # a receive was under way and may take some of them
        await anyio.sleep(0.05)
        assert len(worker.seen) == 6
        worker.control(AS_CONFIGURED)
        await until(lambda: len(worker.seen) == 12)
    assert sorted(worker.seen) == list(range(12))


async def test_while_one_key_is_paused_all_others_go_on_and_it_comes_in_its_order() -> None:
    worker = Operated()
    async with worker.running(ONE_KEY, order_by=OrderBy.KEY):
        for number in range(20):
            worker.stage.emit(["a", number], key=b"a")
            worker.stage.emit(["b", number], key=b"b")
        await until(lambda: len(worker.seen) == 20)
        await worker.until_kept(20)
        report = worker.subscription.report()
        assert (report.paused, report.paused_keys, report.kept) == (False, 1, 20)
        worker.control(AS_CONFIGURED)
        for number in range(20, 30):
            worker.stage.emit(["a", number], key=b"a")
        await until(lambda: len(worker.seen) == 50)
    by_key = defaultdict(list)
    for key, number in worker.seen:
        by_key[key].append(number)
    assert by_key == {"a": list(range(30)), "b": list(range(20))}


async def test_a_paused_key_holds_back_its_channel_where_that_keeps_its_order() -> None:
    worker = Operated()
    async with worker.running(ONE_KEY, order_by=OrderBy.CHANNEL):
        worker.stage.emit(0, key=b"b")
        worker.stage.emit(1, key=b"a")
        worker.stage.emit(2, key=b"b")
        await worker.until_kept(2)
        worker.control(AS_CONFIGURED)
        await until(lambda: len(worker.seen) == 3)
    assert worker.seen == [0, 1, 2]


async def test_a_paused_key_that_fills_the_mailbox_says_so_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    worker = Operated()
    async with worker.running(ONE_KEY, mailbox=10):
        for number in range(30):
            worker.stage.emit(number, key=b"a")
        await worker.until_kept(10)
        assert not worker.seen
        assert sum("fills the mailbox" in record.message for record in caplog.records) == 1
        worker.control(AS_CONFIGURED)
        await until(lambda: len(worker.seen) == 30)
    assert worker.seen == list(range(30))


async def test_what_is_kept_at_a_stop_is_released_and_comes_again() -> None:
    worker = Operated()
    async with worker.running(ONE_KEY):
        for number in range(5):
            worker.stage.emit(number, key=b"a")
        await worker.until_kept(5)
    assert worker.stage.kinds() == ["Released"] * 5
    again = Operated()
    again.stage.store = worker.stage.store
    async with again.running():
        await until(lambda: len(again.seen) == 5)
    assert again.seen == list(range(5))


async def test_what_is_resumed_is_deduplicated_as_if_it_came_now() -> None:
    worker = Operated()
    worker.stage.dedup, worker.stage.claims = Dedup(store="memory"), MemoryClaims(lease_s=5.0)
    async with worker.running(ONE_KEY, order_by=OrderBy.KEY, effect_key=by_event):
        for number in range(10):
            worker.stage.emit(number, key=b"a")
        await worker.until_kept(10)
        worker.control(AS_CONFIGURED)
        for number in range(10, 20):
            worker.stage.emit(number, key=b"a")
        await until(lambda: len(worker.seen) == 20)
    assert worker.seen == list(range(20))


async def test_who_runs_until_idle_does_not_wait_for_what_is_paused() -> None:
    worker = Operated()
    worker.stage.emit(1)
    assert await worker.stage.run(plan_of(worker.handle), controls=WHOLE) == 0
    assert not worker.seen
