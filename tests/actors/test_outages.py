"""When a subscription says that its broker is away, and when that it is back."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Backlog, Revoked, Unsettled, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore
from hexa_worker.errors import DriverRejected, DriverUnavailable
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.testing.virtual import Backend, VirtualTime
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

READY_WITHIN_S = 2.0


async def succeed(_payload: Any, _ctx: Context) -> None: ...


class Scene:
    """A running subscription in virtual time, and its state."""

    def __init__(self, backend: Backend) -> None:
        self.time = VirtualTime()
        self.stage = WorkerFixture(store=MemoryStore(self.time))
        self._backend = backend

    @property
    def state(self) -> WorkerState:
        return self.stage.reports[-1].subscriptions[0].state if self.stage.reports else WorkerState.STARTING

    async def within(self, seconds: float, state: WorkerState) -> None:
        with anyio.fail_after(seconds):
            while self.state is not state:
                await anyio.sleep(0.01)

    def play(self, act: Callable[[], Any], plan: Plan, driver: MemoryDriver | None = None) -> None:
        async def run() -> None:
            async with self.stage.running(plan, driver=driver, clock=self.time):
                await self.within(READY_WITHIN_S, WorkerState.RUNNING)
                await act()

        self.time.run(run, backend=self._backend)


def test_an_idle_subscription_runs_again_two_seconds_after_its_broker_is_back(backend: Backend) -> None:
    scene = Scene(backend)

    async def act() -> None:
        for seconds in (0.5, 8.0):
            scene.stage.store.away = True
            await scene.within(1.1, WorkerState.WAITING)
            await anyio.sleep(seconds)
            assert scene.state is WorkerState.WAITING
            scene.stage.store.away = False
            await scene.within(READY_WITHIN_S, WorkerState.RUNNING)

    scene.play(act, plan_of(succeed))


def test_a_short_outage_after_a_long_one_is_over_as_soon_as_any(backend: Backend) -> None:
    scene = Scene(backend)

    async def act() -> None:
        for seconds in (8.0, 0.1):
            scene.stage.store.away = True
            await scene.within(1.1, WorkerState.WAITING)
            await anyio.sleep(seconds)
            scene.stage.store.away = False
            if seconds > 1:  # nothing comes that would show that it is back
                await scene.within(READY_WITHIN_S, WorkerState.RUNNING)
        scene.stage.emit(1)
        await anyio.sleep(0.4)
        assert scene.stage.kinds() == ["Acked"]

    scene.play(act, plan_of(succeed))


def test_a_broker_that_is_away_when_a_worker_starts_is_found_in_two_seconds(backend: Backend) -> None:
    scene = Scene(backend)
    scene.stage.store.away = True

    async def run() -> None:
        async with scene.stage.running(plan_of(succeed), clock=scene.time):
            await anyio.sleep(15)
            scene.stage.store.away = False
            await scene.within(READY_WITHIN_S, WorkerState.RUNNING)

    scene.time.run(run, backend=backend)


def test_a_subscription_without_room_notices_that_it_cannot_settle(backend: Backend) -> None:
    scene = Scene(backend)

    async def slow(_payload: Any, _ctx: Context) -> None:
        await anyio.sleep(0.5)

    async def act() -> None:
        scene.stage.emit(1)
        await anyio.sleep(0.1)
        scene.stage.store.away = True
        await scene.within(1.1, WorkerState.WAITING)
        await anyio.sleep(10)
        assert scene.state is WorkerState.WAITING
        scene.stage.store.away = False
        await scene.within(READY_WITHIN_S, WorkerState.RUNNING)

    scene.play(act, plan_of(slow, concurrency=1, mailbox=1))


def test_what_cannot_be_settled_is_told_until_it_is(backend: Backend) -> None:
    scene = Scene(backend)
    refusing = [True]

    class Source(MemorySource):
        async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
            if refusing[0]:
                return [Unsettled(one, DriverUnavailable("its partition has no leader")) for one in settlements]
            return await super().settle(settlements)

    class Driver(MemoryDriver):
        async def subscribe(self, spec: Any, revoked: Revoked = nothing_revoked) -> MemorySource:
            return Source(self.store, spec)

    async def act() -> None:
        scene.stage.emit(1)
        await scene.within(1, WorkerState.WAITING)
        assert scene.stage.reports[-1].subscriptions[0].error == "its partition has no leader"
        refusing[0] = False
        await scene.within(READY_WITHIN_S, WorkerState.RUNNING)

    scene.play(act, plan_of(succeed), Driver(scene.stage.store))


@pytest.mark.parametrize("error", [DriverUnavailable, DriverRejected])
def test_a_broker_that_answers_nothing_is_not_back_because_receive_waits(
    backend: Backend, error: type[Exception]
) -> None:
    scene = Scene(backend)
    silent = [True]

    class Source(MemorySource):
        async def backlog(self) -> Backlog:
            if silent[0]:
                raise error("no answer")
            return await super().backlog()

    class Driver(MemoryDriver):
        async def subscribe(self, spec: Any, revoked: Revoked = nothing_revoked) -> MemorySource:
            return Source(self.store, spec)

    async def act() -> None:
        scene.stage.store.away = True
        await scene.within(1.1, WorkerState.WAITING)
        scene.stage.store.away = False
        await anyio.sleep(10)
        assert scene.state is WorkerState.WAITING
        silent[0] = False
        await scene.within(READY_WITHIN_S, WorkerState.RUNNING)

    scene.play(act, plan_of(succeed), Driver(scene.stage.store))


class RefusingDriver(MemoryDriver):
    """Its sources are refused for as long as somebody says so."""

    refuses = False

    async def subscribe(self, spec: Any, revoked: Revoked = nothing_revoked) -> MemorySource:
        if self.refuses:
            raise DriverRejected("no such channel")

        driver = self

        class Source(MemorySource):
            async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
                while not driver.refuses:
                    with anyio.move_on_after(0.5):
                        return await super().receive(max_count, max_bytes)
                raise DriverRejected("no such channel")

        return Source(self.store, spec)


def test_what_a_broker_took_before_and_refuses_for_a_while_is_waited_for(backend: Backend) -> None:
    scene = Scene(backend)
    driver = RefusingDriver(scene.stage.store)

    async def act() -> None:
        await anyio.sleep(6)
        driver.refuses = True
        await scene.within(1, WorkerState.WAITING)
        assert scene.stage.reports[-1].subscriptions[0].error == "no such channel"
        await anyio.sleep(2.5)
        assert scene.state in (WorkerState.WAITING, WorkerState.STARTING)
        driver.refuses = False
        await scene.within(6, WorkerState.RUNNING)
        assert scene.stage.reports[-1].subscriptions[0].counters.restarts == 0

    scene.play(act, plan_of(succeed), driver)


def test_what_a_broker_refuses_soon_after_the_start_is_given_up(backend: Backend) -> None:
    scene = Scene(backend)
    driver = RefusingDriver(scene.stage.store)

    async def act() -> None:
        driver.refuses = True
        await scene.within(18, WorkerState.FAILED)

    scene.play(act, plan_of(succeed), driver)
