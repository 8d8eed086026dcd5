"""Handlers that are given several events at once."""

from typing import Any

import anyio
import pytest

from hexa_worker import DeadLetter
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.core import settlement
from hexa_worker.core.message import header
from hexa_worker.core.retry import RetryPolicy
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio


async def test_a_batch_handler_answers_for_each_item() -> None:
    stage, sizes = WorkerFixture(), list[int]()

    async def handle(numbers: list[int], _ctx: Any) -> list[Any]:
        sizes.append(len(numbers))
        return [DeadLetter("odd") if number % 2 else None for number in numbers]

    for number in range(10):
        stage.emit(number)
    await stage.run(plan_of(handle, batch=5, concurrency=1))
    assert sizes == [5, 5]
    assert sorted(letter.payload for letter in await stage.dead()) == [b"1", b"3", b"5", b"7", b"9"]
    assert stage.kinds().count("Acked") == 5


async def test_a_batch_that_raises_fails_each_of_its_items() -> None:
    stage = WorkerFixture()

    async def handle(_numbers: list[int], _ctx: Any) -> None:
        raise ValueError("all of them")

    for number in range(3):
        stage.emit(number)
    await stage.run(plan_of(handle, batch=10, concurrency=1, retry=RetryPolicy(maximum_retries=0)))
    assert len(await stage.dead()) == 3


async def test_a_batch_handler_that_answers_for_too_few_items_fails_the_batch() -> None:
    stage = WorkerFixture()

    async def handle(_numbers: list[int], _ctx: Any) -> list[None]:
        return [None]

    stage.emit(1)
    stage.emit(2)
    await stage.run(plan_of(handle, batch=10, concurrency=1, retry=RetryPolicy(maximum_retries=0)))
    letters = await stage.dead()
    assert len(letters) == 2
    assert header(letters[0].headers, settlement.ERROR_MESSAGE) == b"the batch handler returned 1 results for 2 items"


async def test_a_batch_does_not_wait_longer_than_it_may() -> None:
    stage, sizes = WorkerFixture(), list[int]()

    async def handle(numbers: list[int], _ctx: Any) -> None:
        sizes.append(len(numbers))

    stage.emit(1)
    with anyio.fail_after(3):
        await stage.run(plan_of(handle, batch=100, batch_wait_s=0.02, concurrency=1))
    assert sizes == [1]


async def test_lanes_that_wait_for_their_batches_to_fill_do_not_keep_each_other_awake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, waits = WorkerFixture(), list[int]()
    wait_work = Mailbox.wait_work

    async def counted(self: Mailbox, lane: int, *args: Any) -> bool:
        waits.append(lane)
        return await wait_work(self, lane, *args)

    async def handle(_batch: list[Any], _ctx: Any) -> None: ...

    monkeypatch.setattr(Mailbox, "wait_work", counted)
    async with stage.running(plan_of(handle, batch=10, batch_wait_s=0.3, concurrency=3)):
        for number in range(4):
            stage.emit(number)
            await anyio.sleep(0.05)
        while len(stage.settled) < 4:
            await anyio.sleep(0.01)
    assert len(waits) < 50
