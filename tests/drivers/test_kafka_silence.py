"""What fails half way on Kafka neither loses events nor leaves a healthy member that reads nothing."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from hexa_worker.drivers.kafka import unreadable
from hexa_worker.drivers.kafka.membership import Membership
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.brokers.base import Broker
from tests.drivers.consuming import ack, publish, subscribed, take
from tests.drivers.kafka_tools import make_topic, opened, raw_producer, spec, with_checksum

pytestmark = [pytest.mark.kafka, pytest.mark.anyio, pytest.mark.timeout(120)]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_record_that_cannot_be_parsed_takes_nothing_of_other_partitions_along(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "_lenient_until", float("-inf"))
    one = spec(unique_name())
    channel = one.channels[0]
    await make_topic(kafka.address, channel, 4)
    async with raw_producer(kafka.address) as producer:
        for partition in (0, 2):
            for number in range(5):
                await producer.send_and_wait(channel, b"%d" % (10 * partition + number), partition=partition)
        for partition in (1, 3):
            batch = producer.create_batch()
            batch.append(key=None, value=b"%d" % (10 * partition), timestamp=None, headers=[("name", b"x")])
            batch.close()
            batch._buffer = with_checksum(bytes(batch._build()).replace(b"name", b"na\xffe"))
            await (await producer.send_batch(batch, channel, partition=partition))
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        taken = await take(source, 12)
        assert sorted(int(got.payload) for got in taken) == [0, 1, 2, 3, 4, 10, 20, 21, 22, 23, 24, 30]
        await ack(source, taken)


async def test_a_subscription_that_failed_leaves_no_member_that_reads_nothing(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, push = asyncio.Event(), GroupCoordinator._push_error_to_user

    async def pushing(coordinator: GroupCoordinator, error: Exception) -> None:
        refused.set()
        await push(coordinator, error)

    monkeypatch.setattr(GroupCoordinator, "_push_error_to_user", pushing)
    one = spec(unique_name())
    channel = one.channels[0]
    await make_topic(kafka.address, channel, 4)
    async with opened(kafka.address) as driver:
        stranger = AIOKafkaConsumer(
            channel,
            bootstrap_servers=kafka.address,
            group_id=one.group,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        await stranger.start()
        try:
            subscribing = asyncio.ensure_future(driver.subscribe(one))
            await asyncio.wait_for(refused.wait(), 20)
        finally:
            await stranger.stop()
        with pytest.raises(DriverRejected, match="another way"):
            await subscribing
        async with subscribed(driver, one) as source, raw_producer(kafka.address) as producer:
            for partition in range(4):
                await producer.send_and_wait(channel, b"%d" % partition, partition=partition)
            taken = await take(source, 4, within_s=15)
            assert {got.payload for got in taken} == {b"0", b"1", b"2", b"3"}
            await ack(source, taken)


async def test_progress_that_cannot_be_read_at_the_assignment_is_not_given_up(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(unique_name(), start="latest")
    async with opened(kafka.address) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], b"1", b"2")
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 2))

        async def committed(*_: Any) -> Mapping[TopicPartition, Any]:
            raise DriverUnavailable("no answer")

        monkeypatch.setattr(Membership, "committed", committed)
        async with subscribed(driver, one) as source:
            await publish(driver, one.channels[0], b"3")
            assert [got.payload for got in await take(source, 1)] == [b"3"]
