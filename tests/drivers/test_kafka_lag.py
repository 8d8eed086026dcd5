"""Measuring what many subscriptions have left: few questions, however many of them there are."""

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from aiokafka.client import AIOKafkaClient

from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Backlog, SubscriptionSpec
from tests.drivers.consuming import confirmed
from tests.drivers.kafka_tools import opened, spec
from tests.lab.base import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]
COUNT = 12
PARTITIONS = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_many_subscriptions_are_measured_without_listing_all_topics_for_each(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = unique_name()
    specs = [spec(f"{prefix}-{number}", retry_count=1) for number in range(COUNT)]
    due_ms = round(time.time() * 1000) + 3_600_000
    keys = [b"%d" % number for number in range(4 * PARTITIONS)]
    async with opened(kafka.address, partitions=PARTITIONS, timeout_s=20.0) as driver:
        await driver.declare(specs)
        waiting = [
            Message(channel=one.retry_channels[0], payload=b"x", key=key, due_ms=due_ms)
            for one in specs
            for key in keys
        ]
        await confirmed(driver, waiting)

    listings: list[object] = []
    update = AIOKafkaClient._metadata_update

    async def counted(client: AIOKafkaClient, cluster: Any, topics: Any) -> Any:
        listings.append(topics)
        return await update(client, cluster, topics)

    found: dict[str, Backlog] = {}
    async with opened(kafka.address, timeout_s=20.0, metadata_max_age_s=60.0) as looking:

        async def measure(one: SubscriptionSpec) -> None:
            found[one.action] = await looking.backlog(one)

        await measure(specs[0])  # a node opens new partitions one after the other, and is asked again until then
        for one in specs:
            await measure(one)
        found.clear()
        monkeypatch.setattr(AIOKafkaClient, "_metadata_update", counted)
        async with anyio.create_task_group() as tasks:
            for one in specs:
                tasks.start_soon(measure, one)
    assert [one.delayed for one in found.values()] == [len(keys)] * COUNT
    assert {one.next_due_ms for one in found.values()} == {due_ms}
    assert len(listings) <= 2
