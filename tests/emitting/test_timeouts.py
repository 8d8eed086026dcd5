"""How long an emit waits, in virtual time: a timer fires only once nothing else is left to do."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from hexa_worker import BrokerUnavailable, Emitter, Event
from hexa_worker.testing import VirtualTime
from hexa_worker.testing.virtual import Backend
from tests.emitting.stage import Gated

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run(use: Callable[[Emitter, Gated], Awaitable[None]], backend: Backend, **limits: Any) -> Sequence[int]:
    """Use an emitter whose driver is shut; returns the payloads that were published."""

    async def main() -> Sequence[int]:
        driver = Gated()
        driver.shut()
        async with Emitter(driver, None, **limits) as emitter:
            await use(emitter, driver)
            driver.gate.set()
        return [int(message.payload) for batch in driver.batches for message in batch]

    return VirtualTime().run(main, backend=backend)


def test_an_emit_that_is_under_way_when_its_time_runs_out_may_have_been_stored(backend: Backend) -> None:
    async def use(emitter: Emitter, driver: Gated) -> None:
        with pytest.raises(BrokerUnavailable, match="not confirmed within 2 s; it may have been stored"):
            await emitter.emit("c", 1, timeout_s=2)
        driver.gate.set()
        assert await emitter.emit("c", 2, id="mine", timeout_s=2) == "mine"

    assert run(use, backend) == [1, 2]


def test_an_emit_that_still_waits_when_its_time_runs_out_is_never_sent(backend: Backend) -> None:
    async def use(emitter: Emitter, driver: Gated) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(emitter.emit, "c", 1)
            await driver.asked.wait()
            answers = await emitter.emit_many([Event("c", 2), Event("c", 3)], timeout_s=0.5)
            assert [str(answer) for answer in answers] == ["not sent within 0.5 s; it was not stored"] * 2
            driver.gate.set()
            await emitter.emit("c", 4)

    assert run(use, backend, max_pending=2) == [1, 4]


def test_what_was_confirmed_in_time_keeps_its_id_when_a_later_event_was_late(backend: Backend) -> None:
    async def use(emitter: Emitter, driver: Gated) -> None:
        driver.gate.set()
        driver.shut_after(1)
        first, second = await emitter.emit_many([Event("c", 1, id="first"), Event("c", 2)], timeout_s=1)
        assert first == "first"
        assert isinstance(second, BrokerUnavailable)

    assert run(use, backend, max_batch=1) == [1, 2]


def test_no_time_at_all_is_a_timeout_and_no_hang(backend: Backend) -> None:
    async def use(emitter: Emitter, driver: Gated) -> None:
        with pytest.raises(BrokerUnavailable):
            await emitter.emit("c", 1, timeout_s=0)

    run(use, backend)
