"""What a process fetches ahead from Pulsar takes no more memory than its mailbox may."""

from collections.abc import Callable

import anyio
import pytest

from hexa_worker.core.message import Message
from hexa_worker.drivers.pulsar.flow import EXPECTED_BYTES, SEEN, Flow
from hexa_worker.drivers.pulsar.source import PulsarSource
from tests.drivers.consuming import ack, patiently, publish, spec, subscribed, take
from tests.drivers.pulsar_tools import opened, options
from tests.lab.base import Broker

pytestmark = pytest.mark.anyio
Name = Callable[..., str]
MB = 1_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_flow_fetches_what_fits_and_notices_that_messages_are_larger() -> None:
    flow = Flow(1_000, 64 * EXPECTED_BYTES)
    assert flow.queue == 64
    flow.saw(SEEN, SEEN * EXPECTED_BYTES)
    assert not flow.too_much
    flow.saw(100 * SEEN, 100 * SEEN * 10 * EXPECTED_BYTES)
    assert flow.too_much
    flow.adapt()
    assert (flow.queue, flow.too_much) == (6, False)
    flow.expect(100)
    assert flow.queue == 1_000
    flow.expect(1 << 30)
    assert flow.queue == 1


async def known_at_rest(source: PulsarSource) -> int:
    """How many messages have come when no more come; nobody takes them."""
    before = -1
    while before != len(source.known):
        before = len(source.known)
        await anyio.sleep(0.4)
    return before


@pytest.mark.pulsar
async def test_large_messages_are_fetched_ahead_within_the_mailboxs_bytes(pulsar: Broker, unique_name: Name) -> None:
    name = unique_name()
    one = spec(name, channels=(f"{name}.a", f"{name}.b"), mailbox_bytes=8 * MB)
    async with opened(options(pulsar, batching="none")) as driver:
        await driver.declare([one])
        for channel in one.channels:
            await publish(driver, channel, *[b"x" * MB] * 20)
        async with subscribed(driver, one) as source:
            assert await known_at_rest(source) <= 6
            assert source.consumers[0]._flow.queue <= 2
            await ack(source, await take(source, 40))


@pytest.mark.pulsar
async def test_a_consumer_is_made_anew_when_messages_are_larger_than_was_thought(
    pulsar: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), mailbox_bytes=16 * MB)
    async with opened(options(pulsar, batching="none")) as driver, subscribed(driver, one) as source:
        assert source.consumers[0]._flow.queue > 100
        await publish(driver, one.channels[0], *[b"x" * MB] * 30)
        for _ in range(30):
            await ack(source, await take(source, 1))
        with anyio.fail_after(20):
            while source.consumers[0]._flow.queue > 8:
                await anyio.sleep(0.05)
        await patiently(lambda: driver.publish([Message(channel=one.channels[0], payload=b"more")]))
        await ack(source, await take(source, 1))
        assert (await source.backlog()).idle
