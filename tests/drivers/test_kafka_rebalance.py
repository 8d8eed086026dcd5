"""Members of a group that come and go while work is in hand."""

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from tests.drivers.consuming import ack, publish, take
from tests.drivers.kafka_tools import committed, opened, spec
from tests.lab.base import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.anyio, pytest.mark.timeout(60)]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("worker", ["still gives up", "has just given up"])
async def test_what_ended_before_a_source_closes_in_the_middle_of_a_rebalance_is_committed(
    kafka: Broker, unique_name: Name, worker: str
) -> None:
    one = spec(unique_name())
    giving_up, given_up = anyio.Event(), anyio.Event()

    async def revoked(_: frozenset[str]) -> None:
        giving_up.set()
        await given_up.wait()

    async with opened(kafka.address) as driver, opened(kafka.address) as other:
        source = await driver.subscribe(one, revoked)
        await publish(driver, one.channels[0], b"x")
        taken = await take(source, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.subscribe, one)
            with anyio.fail_after(20):
                await giving_up.wait()
            await ack(source, taken)
            if worker == "has just given up":
                given_up.set()
                await anyio.lowlevel.checkpoint()
            await source.close()
        assert (await committed(kafka.address, one.group, one.channels[0]))[0] == 1
