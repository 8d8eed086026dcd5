"""Events for later on Kafka, where a channel hands out its records in the order of their writing."""

import time
from collections.abc import Callable

import pytest

from hexa_worker.core.message import Message
from tests.deadlines import in_time
from tests.drivers.consuming import PLENTY, confirmed, subscribed
from tests.drivers.kafka_tools import opened, spec
from tests.lab.base import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
HELD = 5_000
"""What one process holds of a subscription's retries by default; see `max_held`."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_near_event_stands_behind_none_of_very_many_that_are_far(
    kafka: Broker, unique_name: Callable[..., str]
) -> None:
    one = spec(unique_name())
    (channel,) = one.channels
    now_ms = round(time.time() * 1000)
    # Of every level, and more than a process holds; the times are mixed.
    far = [
        Message(
            channel=channel, payload=b"far", timestamp_ms=now_ms, due_ms=now_ms + 60_000 * (10 + number * 7 % 9_000)
        )
        for number in range(HELD + 1_000)
    ]
    async with opened(kafka.address, timeout_s=20.0) as driver, subscribed(driver, one) as source:
        await confirmed(driver, far)
        with in_time():  # far less than any of those waits
            for number in range(3):  # the first one may wait for the topics to be found
                due_ms = round(time.time() * 1000) + 300
                await confirmed(driver, [Message(channel=channel, payload=b"%d" % number, due_ms=due_ms)])
                (come,) = await source.receive(10, PLENTY)
                assert come.payload == b"%d" % number
                assert time.time() * 1000 >= due_ms
            backlog = await driver.backlog(one)
    assert backlog.delayed >= len(far)
