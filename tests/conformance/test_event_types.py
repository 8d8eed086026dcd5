"""Workers on every driver: types of one channel share its group, and a key keeps its order across them."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context, Retries, subscribe
from hexa_worker.config.model import ChannelConfig, Config, File, Memory, WorkerConfig
from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import specs
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.loader import plans_in
from hexa_worker.subscriptions.plan import Loaded
from hexa_worker.testing import DriverUnderTest
from tests.actors.conftest import module_of
from tests.actors.worker_fixture import WorkerFixture
from tests.conformance.test_drivers import BACKENDS
from tests.deadlines import until

DEADLINE_S = 60.0
COUNT = 40


class TypedHandlers:
    """Handlers of two types, and what they saw."""

    def __init__(self) -> None:
        name = f"t{uuid.uuid4().hex[:8]}"
        self.channel = f"{name}.in"
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.attempts: list[int] = []
        retry = Retries(maximum=2, initial_s=0.01)
        made, paid = self._made, self._paid

        @subscribe(self.channel, type="made", action=f"{name}-made", order_by="key", retry=Retries(maximum=0))
        async def on_made(number: int, ctx: Context) -> None:
            await made(number, ctx)

        @subscribe(self.channel, type="paid", action=f"{name}-paid", order_by="key", retry=retry)
        async def on_paid(number: int, ctx: Context) -> None:
            await paid(number, ctx)

        channels = {self.channel: ChannelConfig(type="header:event_type")}
        file = File(worker=WorkerConfig(name=name, handlers=()), broker=Memory(), channels=channels)
        config = Config(path=Path("worker.toml").absolute(), file=file)
        self.loaded: Loaded = plans_in([module_of(on_made, on_paid)], config)

    async def _made(self, number: int, ctx: Context) -> None:
        await anyio.sleep(0.002)
        self.seen[ctx.key or ""].append(number)

    async def _paid(self, number: int, ctx: Context) -> None:
        if number < 0:
            self.attempts.append(ctx.attempt)
            raise ConnectionError("not now")
        self.seen[ctx.key or ""].append(number)

    @property
    def count(self) -> int:
        """How many numbers were handled."""
        return len({number for numbers in self.seen.values() for number in numbers})

    async def publish(self, driver: Driver, numbers: Iterable[int]) -> None:
        messages = [self.message(number, "made" if number % 3 else "paid", b"k%d" % (number % 4)) for number in numbers]
        assert all(isinstance(answer, str) for answer in await driver.publish(messages))

    def message(self, number: int, type_: str, key: bytes) -> Message:
        headers = (("event_type", type_.encode()),)
        return Message(channel=self.channel, payload=msgspec.json.encode(number), key=key, headers=headers)


@pytest.mark.parametrize("backend", BACKENDS)
def test_types_of_one_channel_keep_the_order_of_a_key_and_retry_by_their_own_policy(
    under_test: DriverUnderTest[Any], backend: str
) -> None:
    async def scene() -> None:
        async with under_test.broker() as broker:
            with anyio.fail_after(DEADLINE_S):
                driver: Driver = under_test.driver(broker)
                await driver.open()
                handlers = TypedHandlers()
                (spec,) = specs(handlers.loaded)
                await driver.declare([spec])
                await handlers.publish(driver, range(COUNT))
                messages = [handlers.message(-1, "paid", b"x"), handlers.message(0, "lost", b"x")]
                assert all(isinstance(answer, str) for answer in await driver.publish(messages))
                await WorkerFixture().run(*handlers.loaded.plans, driver=under_test.driver(broker))
                assert handlers.seen == {f"k{key}": list(range(key, COUNT, 4)) for key in range(4)}
                assert handlers.attempts == [0, 1, 2]
                letters = await driver.browse(spec.dead_letter_channel, -1, 10)
                assert sorted(letter.payload for letter in letters) == [b"-1", b"0"]
                while not (await driver.backlog(spec)).idle:
                    await anyio.sleep(0.02)  # acknowledgements may take it a moment
                await driver.close()

    name, options = BACKENDS[backend]
    anyio.run(scene, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_key_keeps_its_order_across_types_while_processes_come_and_go(
    under_test: DriverUnderTest[Any], backend: str
) -> None:
    async def scene() -> None:
        async with under_test.broker() as broker:
            with anyio.fail_after(DEADLINE_S):
                driver: Driver = under_test.driver(broker)
                await driver.open()
                handlers, stops = TypedHandlers(), [StopSignals(), StopSignals()]
                await driver.declare(specs(handlers.loaded))
                await handlers.publish(driver, range(200))
                async with anyio.create_task_group() as tasks:

                    async def serve(stop: StopSignals) -> None:
                        mine: Driver = under_test.driver(broker)
                        await WorkerFixture().serve(handlers.loaded.plans, stop, driver=mine)

                    tasks.start_soon(serve, stops[0])
                    await until(lambda: handlers.count >= 30)
                    tasks.start_soon(serve, stops[1])
                    await handlers.publish(driver, range(200, 300))
                    await until(lambda: handlers.count >= 200)
                    stops[0].ask()
                    await until(lambda: handlers.count == 300)
                    stops[1].ask()
                await driver.close()
                first_runs = [list(dict.fromkeys(numbers)) for numbers in handlers.seen.values()]
                assert all(numbers == sorted(numbers) for numbers in first_runs)

    name, options = BACKENDS[backend]
    anyio.run(scene, backend=name, backend_options=options)
