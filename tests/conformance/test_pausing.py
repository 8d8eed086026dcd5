"""Workers on every driver, changed while they run: a paused one keeps its place, and none loses anything."""

import uuid
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.core.controls import AS_CONFIGURED
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import spec_of
from hexa_worker.stop import StopSignals
from hexa_worker.testing import DriverUnderTest
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.conformance.test_drivers import BACKENDS
from tests.deadlines import until

DEADLINE_S = 60.0


class Operated:
    """One worker, what it handled, and the operator's end of it."""

    def __init__(self, under_test: DriverUnderTest[Any]) -> None:
        self.name = f"p{uuid.uuid4().hex[:8]}"
        self.plan = plan_of(self._handle, self.name, channels=(f"{self.name}.in",))
        self.paused = AS_CONFIGURED.with_pause(self.name, None)
        self.seen: list[int] = []
        self.ready = anyio.Event()
        self.supervisor: Supervisor
        self.quiet_s = under_test.quiet_s

    async def _handle(self, number: int, _ctx: Context) -> None:
        self.seen.append(number)

    async def beside(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        while supervisor.subscriptions[0].state is not WorkerState.RUNNING:
            await supervisor.wait_changed()
        self.ready.set()

    async def publish(self, driver: Driver, *numbers: int) -> None:
        messages = [Message(channel=f"{self.name}.in", payload=msgspec.json.encode(number)) for number in numbers]
        assert all(isinstance(answer, str) for answer in await driver.publish(messages))

    async def wait_backlog(self, driver: Driver, count: int) -> None:
        """Wait until the broker says that so many are left; acknowledgements may take it a moment."""
        spec = spec_of(self.plan)
        while (backlog := await driver.backlog(spec)).ready + backlog.leased != count:
            await anyio.sleep(0.02)

    async def expect(self, *numbers: int) -> None:
        """Wait until all of these are handled; nothing else is, and nothing follows."""
        await until(lambda: len(self.seen) >= len(numbers))
        await anyio.sleep(self.quiet_s)
        assert sorted(self.seen) == sorted(numbers)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subscription_is_paused_resumed_and_given_another_concurrency_without_a_loss(
    under_test: DriverUnderTest[Any], backend: str
) -> None:
    async def scene() -> None:
        async with under_test.broker() as broker:
            with anyio.fail_after(DEADLINE_S):
                driver: Driver = under_test.driver(broker)
                await driver.open()
                worker, stop = Operated(under_test), StopSignals()
                await driver.declare([spec_of(worker.plan)])
                await worker.publish(driver, 1, 2)
                async with anyio.create_task_group() as tasks:

                    async def serve() -> None:
                        mine: Driver = under_test.driver(broker)
                        await WorkerFixture().serve(
                            [worker.plan], stop, driver=mine, controls=worker.paused, beside=worker.beside
                        )

                    tasks.start_soon(serve)
                    await worker.ready.wait()
                    await worker.expect()
                    worker.supervisor.control(AS_CONFIGURED)
                    await worker.expect(1, 2)
                    worker.supervisor.control(worker.paused)
                    await worker.publish(driver, 3, 4, 5)
                    await worker.expect(1, 2)
                    await worker.wait_backlog(driver, 3)
                    worker.supervisor.control(AS_CONFIGURED)
                    await worker.expect(1, 2, 3, 4, 5)
                    worker.supervisor.control(AS_CONFIGURED.with_concurrency(worker.name, 2))
                    await worker.publish(driver, 6, 7)
                    await worker.expect(1, 2, 3, 4, 5, 6, 7)
                    stop.ask()
                await driver.close()

    name, options = BACKENDS[backend]
    anyio.run(scene, backend=name, backend_options=options)
