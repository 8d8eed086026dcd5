"""A subscription gets another concurrency while it runs: nothing is lost, nothing is overtaken."""

from collections import defaultdict
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from hexa_worker import Context
from hexa_worker.core.controls import AS_CONFIGURED
from hexa_worker.core.ordering import OrderBy
from tests.actors.test_pausing import Operated
from tests.deadlines import until

pytestmark = pytest.mark.anyio


async def test_what_runs_ends_and_then_so_many_run_at_once() -> None:
    worker, go = Operated(), anyio.Event()
    running = set[int]()

    async def handle(number: int, _ctx: Context) -> None:
        running.add(number)
        await go.wait()
        running.discard(number)
        worker.seen.append(number)

    for number in range(10):
        worker.stage.emit(number)
    async with worker.running(handler=handle, concurrency=1):
        await until(lambda: len(running) == 1)
        worker.control(AS_CONFIGURED.with_concurrency("act", 4))
        go.set()
        await until(lambda: len(worker.seen) == 10)
        go = anyio.Event()
        for number in range(10, 20):
            worker.stage.emit(number)
        await until(lambda: len(running) == 4)
        assert worker.subscription.report().concurrency == 4
        worker.control(AS_CONFIGURED)
        go.set()
        await until(lambda: len(worker.seen) == 20)
        await until(lambda: worker.subscription.source is not None)
        go = anyio.Event()
        worker.stage.emit(20)
        worker.stage.emit(21)
        await until(lambda: len(running) == 1)
        go.set()
        await until(lambda: len(worker.seen) == 22)
    assert sorted(worker.seen) == list(range(22))


async def test_each_key_keeps_its_order_however_often_the_concurrency_changes() -> None:
    worker = Operated()

    async def handle(payload: Any, _ctx: Context) -> None:
        await anyio.lowlevel.checkpoint()
        worker.seen.append(payload)

    async with worker.running(handler=handle, concurrency=1, order_by=OrderBy.KEY):
        for step in range(10):
            for number in range(step * 20, step * 20 + 20):
                worker.stage.emit([number % 5, number], key=b"%d" % (number % 5))
            worker.control(AS_CONFIGURED.with_concurrency("act", 1 + step % 4))
            await until(lambda step=step: len(worker.seen) >= step * 10)  # type: ignore[misc]  # bound now
        await until(lambda: len(worker.seen) == 200)
    by_key = defaultdict(list)
    for key, number in worker.seen:
        by_key[key].append(number)
    assert all(numbers == sorted(set(numbers)) for numbers in by_key.values())
    assert sum(map(len, by_key.values())) == 200


async def test_a_stop_while_it_changes_ends_it() -> None:
    worker = Operated()
    async with worker.running(concurrency=1):
        worker.control(AS_CONFIGURED.with_concurrency("act", 2))
        worker.stop.ask()
