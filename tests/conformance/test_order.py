"""Workers on every driver: a key keeps its order across failures, whatever becomes of the process that has it."""

import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup

from hexa_worker import Context
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DeadLettered, Settlement
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import spec_of
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.testing import DriverUnderTest
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.deadlines import until

KEYS = 12
EACH = 5
ATTEMPTS = 2
DEADLINE_S = 60.0
End = Literal["drain", "kill"]


class Company:
    """Workers of one subscription that come and go, and what their handlers saw, in the order of time."""

    def __init__(self, under_test: DriverUnderTest[Any], broker: Any, tasks: TaskGroup) -> None:
        self.seen: list[tuple[str, str, int]] = []
        self.settled: list[Settlement] = []
        self._under_test = under_test
        self._broker = broker
        self._tasks = tasks
        name = f"o{uuid.uuid4().hex[:8]}"
        self.plan: Plan = plan_of(
            self._handle,
            name,
            channels=(f"{name}.in",),
            order_by=OrderBy.KEY,
            timeout_s=30.0,
            retry=RetryPolicy(initial_interval_s=0.5, backoff_coefficient=1, maximum_retries=ATTEMPTS, order="key"),
        )

    async def _handle(self, text: str, ctx: Context) -> None:
        """Event ``3-1`` is number 1 of key 3. Each key's second one fails once, its third one for ever."""
        number = int(text.partition("-")[2])
        self.seen.append(("start", text, ctx.attempt))
        await anyio.sleep(0.002)
        if (number == 1 and ctx.attempt == 0) or number == 2:
            self.seen.append(("error", text, ctx.attempt))
            raise ValueError("not yet")
        self.seen.append(("ok", text, ctx.attempt))

    async def emit(self) -> None:
        """All events, dealt onto the keys."""
        driver = self._under_test.driver(self._broker)
        await driver.open()
        await driver.declare([spec_of(self.plan)])
        texts = [f"{key}-{number}" for number in range(EACH) for key in range(KEYS)]
        messages = [
            Message(
                channel=self.plan.channels[0], payload=msgspec.json.encode(text), key=text.partition("-")[0].encode()
            )
            for text in texts
        ]
        assert all(isinstance(answer, str) for answer in await driver.publish(messages))
        await driver.close()

    def start(self) -> Callable[[End], Awaitable[None]]:
        """Start a worker in the background; returns what ends it."""
        stage, stop, scope = WorkerFixture(settled=self.settled), StopSignals(), anyio.CancelScope()
        driver: Driver = self._under_test.driver(self._broker)
        ended = anyio.Event()

        async def serve() -> None:
            with scope:
                await stage.serve([self.plan], stop, driver=driver)
            ended.set()

        async def end(how: End) -> None:
            if how == "kill":
                assert self._under_test.kill is not None
                await self._under_test.kill(self._broker, driver)
                scope.cancel()  # no handler of a dead process goes on
            stop.ask()
            await ended.wait()

        self._tasks.start_soon(serve)
        return end

    async def wait(self, condition: Callable[[], bool]) -> None:
        await until(condition)

    def finished(self, text: str) -> bool:
        """It was done, or given up."""
        return ("ok", text, 0) in self.seen or ("ok", text, 1) in self.seen or ("error", text, ATTEMPTS) in self.seen

    @property
    def done(self) -> bool:
        texts = [f"{key}-{number}" for number in range(EACH) for key in range(KEYS)]
        return all(self.finished(text) for text in texts)

    def check_order(self) -> None:
        """In each key an event was first begun after its forerunner was done or given up."""
        finished: dict[str, set[int]] = defaultdict(set)
        for what, text, attempt in self.seen:
            key, _, number = text.partition("-")
            if what == "start":
                assert finished[key] >= set(range(int(number))), f"{text} began too early: {self.story(key)}"
            elif what == "ok" or attempt == ATTEMPTS:
                finished[key].add(int(number))

    def story(self, key: str) -> list[tuple[str, str, int]]:
        return [one for one in self.seen if one[1].startswith(f"{key}-")]


@pytest.mark.parametrize("how", ["drain", "kill"])
def test_each_key_keeps_its_order_across_failures_and_the_end_of_a_process(
    under_test: DriverUnderTest[Any], how: End
) -> None:
    async def scene() -> None:
        async with under_test.broker() as broker:
            with anyio.fail_after(DEADLINE_S):
                async with anyio.create_task_group() as tasks:
                    company = Company(under_test, broker, tasks)
                    await company.emit()
                    end = company.start()
                    await company.wait(lambda: any(what == "error" for what, _, _ in company.seen))
                    await end(how)
                    assert not company.done
                    end = company.start()
                    await company.wait(lambda: company.done)
                    await end("drain")
            company.check_order()
            letters = {one.delivery.payload for one in company.settled if isinstance(one, DeadLettered)}
            assert len(letters) == KEYS

    anyio.run(scene)


def test_each_key_keeps_its_order_while_processes_come_and_go(under_test: DriverUnderTest[Any]) -> None:
    async def scene() -> None:
        async with under_test.broker() as broker:
            with anyio.fail_after(DEADLINE_S):
                async with anyio.create_task_group() as tasks:
                    company = Company(under_test, broker, tasks)
                    await company.emit()
                    first = company.start()
                    await company.wait(lambda: any(what == "error" for what, _, _ in company.seen))
                    second = company.start()
                    await company.wait(lambda: any(text.endswith("-2") for _, text, _ in company.seen))
                    await first("drain")
                    await company.wait(lambda: company.done)
                    await second("drain")
            company.check_order()

    anyio.run(scene)
