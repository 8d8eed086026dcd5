"""Workers on every driver: what used up its retries is kept, in its order, over a resume and over a restart."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import spec_of
from hexa_worker.stop import StopSignals
from hexa_worker.testing import DriverUnderTest
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.conformance.test_drivers import BACKENDS
from tests.deadlines import until

DEADLINE_S = 60.0
NUMBERS = list(range(1, 7))


class HeldWorkers:
    """Workers of one subscription, one after the other, whose handler cannot do 3 until it is mended."""

    def __init__(self, under_test: DriverUnderTest[Any], broker: Any) -> None:
        name = f"h{uuid.uuid4().hex[:8]}"
        self.channel = f"{name}.in"
        self.plan = plan_of(
            self._handle,
            name,
            channels=(self.channel,),
            order_by=OrderBy.KEY,
            on_exhausted="hold",
            retry=RetryPolicy(initial_interval_s=0.01, maximum_retries=1, order="key"),
        )
        self.broken = True
        self.tried = 0
        self.done: list[int] = []
        self._under_test = under_test
        self._broker = broker

    async def _handle(self, number: int, _ctx: Context) -> None:
        if number == NUMBERS[2] and self.broken:
            self.tried += 1
            raise ConnectionError("it cannot be done yet")
        self.done.append(number)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        """One worker with a connection of its own, drained at the end."""
        subscriptions: list[Any] = []
        stop = StopSignals()

        async def beside(supervisor: Supervisor) -> None:
            subscriptions.extend(supervisor.subscriptions)

        async with anyio.create_task_group() as tasks:

            async def serve() -> None:
                mine: Driver = self._under_test.driver(self._broker)
                await WorkerFixture().serve([self.plan], stop, driver=mine, beside=beside)

            tasks.start_soon(serve)
            await until(lambda: bool(subscriptions))
            yield subscriptions[0]
            stop.ask()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_held_keeps_its_order_when_it_is_resumed_and_when_its_worker_is_restarted(
    under_test: DriverUnderTest[Any], backend: str
) -> None:
    async def scene() -> None:
        async with under_test.broker() as broker:
            with anyio.fail_after(DEADLINE_S):
                driver: Driver = under_test.driver(broker)
                await driver.open()
                workers = HeldWorkers(under_test, broker)
                await driver.declare([spec_of(workers.plan)])
                messages = [
                    Message(channel=workers.channel, payload=msgspec.json.encode(number), key=b"k")
                    for number in NUMBERS
                ]
                assert all(isinstance(answer, str) for answer in await driver.publish(messages))
                async with workers.running() as first:
                    await until(lambda: first.stats.on_hold == 1)
                    assert (workers.done, workers.tried) == (NUMBERS[:2], 2)
                    assert first.resume() == 1
                    await until(lambda: workers.tried == 3 and first.stats.on_hold == 1)
                async with workers.running() as second:
                    await until(lambda: second.stats.on_hold == 1)
                    workers.broken = False
                    assert workers.done == NUMBERS[:2]
                    assert second.resume() == 1
                    await until(lambda: len(workers.done) == len(NUMBERS))
                assert workers.done == NUMBERS
                assert not await driver.browse(f"{workers.plan.action}.dlq", -1, 10)
                await driver.close()

    name, options = BACKENDS[backend]
    anyio.run(scene, backend=name, backend_options=options)
