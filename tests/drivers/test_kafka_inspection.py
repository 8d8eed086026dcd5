"""What is told before a Kafka worker starts, and who may be in its group."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Finding, SubscriptionSpec
from hexa_worker.drivers.kafka import KafkaDriver
from hexa_worker.errors import DriverUnavailable
from tests.drivers.consuming import confirmed, subscribed, take
from tests.drivers.kafka_tools import make_topic, opened, spec, topic_settings
from tests.lab.base import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _found(driver: KafkaDriver, one: SubscriptionSpec) -> dict[str, Finding]:
    return {finding.name: finding for finding in await driver.preflight(one)}


# -- topics of failures


async def test_what_topics_of_failures_would_lose_is_told(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), retry_delays_ms=(5_000, 7_200_000))
    await make_topic(kafka.address, one.channels[0], max_message_bytes="3000000")
    first, second = one.retry_channels
    await make_topic(kafka.address, first, cleanup_policy="compact")
    await make_topic(kafka.address, second, retention_ms="3600000", message_timestamp_type="LogAppendTime")
    await make_topic(kafka.address, one.dead_letter_channel, retention_bytes="1000000")
    async with opened(kafka.address) as driver:
        with anyio.fail_after(10):  # a node knows new topics a moment later
            found = await _found(driver, one)
            while not all(finding.exists for finding in found.values() if finding.kind != "group"):
                found = await _found(driver, one)
    assert "cleanup.policy=compact" in found[first].problem
    assert found[first].problem.endswith(f"--entity-name {first} --add-config cleanup.policy=delete")
    assert "retention.ms=3600000: retries are gone before their time" in found[second].warning
    assert found[second].note == "1 partition, stamped by the brokers' clock"
    assert "retention.bytes=1000000" in found[one.dead_letter_channel].warning
    for name in (first, second, one.dead_letter_channel):
        assert "records of 1048588 bytes, and there may be some of 3000000" in found[name].warning
        assert f"--entity-name {name} --add-config max.message.bytes=3524288" in found[name].warning
    assert not found[one.channels[0]].warning + found[one.channels[0]].problem


async def test_topics_of_failures_that_the_driver_makes_take_what_can_be_read(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), retry_delays_ms=(5_000, 7_200_000))
    await make_topic(kafka.address, one.channels[0], max_message_bytes="3000000")
    payload = b"x" * 2_900_000
    async with opened(kafka.address) as driver:
        await driver.declare([one])
        assert not [finding for finding in (await _found(driver, one)).values() if finding.warning or finding.problem]
        await confirmed(driver, [Message(channel=name, payload=payload) for name in one.retry_channels])
    made = await topic_settings(kafka.address, [*one.retry_channels, one.dead_letter_channel])
    assert {topic["max.message.bytes"] for topic in made.values()} == {"3524288"}
    assert {topic["cleanup.policy"] for topic in made.values()} == {"delete"}


# -- others in the group


@asynccontextmanager
async def _other_member(
    address: str, one: SubscriptionSpec, assignor: type[AbstractPartitionAssignor]
) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        *one.channels,
        bootstrap_servers=address,
        group_id=one.group,
        partition_assignment_strategy=(assignor,),
        heartbeat_interval_ms=200,
        session_timeout_ms=2_000,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        with anyio.fail_after(10):
            while not consumer.assignment():
                await anyio.sleep(0.05)
        yield consumer
    finally:
        await consumer.stop()


@pytest.mark.parametrize("leads", [True, False])
async def test_a_group_whose_other_members_assign_by_range_takes_a_worker(
    kafka: Broker, unique_name: Name, *, leads: bool
) -> None:
    """Whoever comes first assigns for all."""
    one = spec(unique_name())
    async with opened(kafka.address, partitions=4) as driver, AsyncExitStack() as stack:
        await driver.declare([one])
        if leads:
            source = await stack.enter_async_context(subscribed(driver, one))
        other = await stack.enter_async_context(_other_member(kafka.address, one, RangePartitionAssignor))
        assert not (await _found(driver, one))[one.group].problem
        if not leads:
            source = await stack.enter_async_context(subscribed(driver, one))
        with anyio.fail_after(20):
            while len(other.assignment()) != 2:
                await anyio.sleep(0.05)
        sent = [Message(channel=one.channels[0], payload=b"%d" % n, key=b"%d" % n) for n in range(40)]
        ids = await confirmed(driver, sent)
        theirs = {f"{place.topic}-{place.partition}" for place in other.assignment()}
        ours = [name for name in ids if name.rpartition("-")[0] not in theirs]
        assert 0 < len(ours) < 40
        assert sorted(got.message_id for got in await take(source, len(ours))) == sorted(ours)


async def test_a_group_that_assigns_in_another_way_is_told_and_waited_for(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as driver:
        await driver.declare([one])
        async with _other_member(kafka.address, one, StickyPartitionAssignor):
            problem = (await _found(driver, one))[one.group].problem
            assert "sticky" in problem
            assert "roundrobin or range" in problem
            with pytest.raises(DriverUnavailable, match="roundrobin nor range"):
                await driver.subscribe(one)
        async with subscribed(driver, one) as source:
            await confirmed(driver, [Message(channel=one.channels[0], payload=b"x")])
            assert [got.payload for got in await take(source, 1)] == [b"x"]
