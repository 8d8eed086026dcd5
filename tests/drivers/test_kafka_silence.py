"""What fails half way on Kafka neither loses events nor leaves a healthy member that reads nothing."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from hexa_worker.drivers.kafka.consumer import GroupConsumer
from hexa_worker.drivers.kafka.membership import Membership
from hexa_worker.errors import DriverUnavailable
from tests.drivers.consuming import PLENTY, ack, publish, subscribed, take
from tests.drivers.kafka_tools import make_topic, opened, raw_producer, spec, with_checksum
from tests.lab.base import Broker
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.anyio, pytest.mark.timeout(120)]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_record_that_cannot_be_parsed_takes_nothing_of_other_partitions_along(
    kafka: Broker, unique_name: Name
) -> None:
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
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )
        await stranger.start()
        try:
            subscribing = asyncio.ensure_future(driver.subscribe(one))
            await asyncio.wait_for(refused.wait(), 20)
        finally:
            await stranger.stop()
        with pytest.raises(DriverUnavailable, match="neither roundrobin nor range"):
            await subscribing
        async with subscribed(driver, one) as source, raw_producer(kafka.address) as producer:
            for partition in range(4):
                await producer.send_and_wait(channel, b"%d" % partition, partition=partition)
            taken = await take(source, 4, within_s=15)
            assert {got.payload for got in taken} == {b"0", b"1", b"2", b"3"}
            await ack(source, taken)


async def test_nothing_is_read_before_it_is_known_where_the_group_was(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = spec(unique_name(), start="latest"), unique_name()
    channel = one.channels[0]
    await make_topic(kafka.address, channel)
    await make_topic(kafka.address, other)
    # A group with a member takes no commits from outside: where it begins is known to the driver only.
    member = AIOKafkaConsumer(
        other, bootstrap_servers=kafka.address, group_id=one.group, heartbeat_interval_ms=100, session_timeout_ms=20_000
    )
    await member.start()
    async with opened(kafka.address) as driver:
        await publish(driver, channel, b"old")
        asked = Membership.committed
        first: set[Any] = set()

        async def committed(membership: Membership, *question: Any) -> Mapping[TopicPartition, Any]:
            first.update([] if first else [membership.identity])
            if membership.identity in first:  # at whatever is asked before it joins again
                raise DriverUnavailable("no answer")
            return await asked(membership, *question)

        monkeypatch.setattr(Membership, "committed", committed)
        try:
            async with subscribed(driver, one) as source:
                await publish(driver, channel, b"new")
                assert [got.payload for got in await take(source, 1)] == [b"new"]
        finally:
            await member.stop()
    assert "its progress cannot be read, joining again: no answer" in caplog.text


async def test_a_start_that_the_group_lets_nobody_write_down_does_not_move_when_it_is_declared_again(
    kafka: Broker, unique_name: Name
) -> None:
    one, other = spec(unique_name(), start="latest"), unique_name()
    await make_topic(kafka.address, one.channels[0])
    await make_topic(kafka.address, other)
    member = AIOKafkaConsumer(
        other, bootstrap_servers=kafka.address, group_id=one.group, heartbeat_interval_ms=100, session_timeout_ms=20_000
    )
    await member.start()
    try:
        async with opened(kafka.address) as driver:
            await publish(driver, one.channels[0], b"old")
            await driver.declare([one])
            await publish(driver, one.channels[0], b"new")
            async with subscribed(driver, one) as source:  # declares it again
                taken = await take(source, 1)
                assert [got.payload for got in taken] == [b"new"]
                await ack(source, taken)
    finally:
        await member.stop()


async def test_a_source_that_is_closed_while_it_joins_leaves_no_member_behind(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(unique_name())
    await make_topic(kafka.address, one.channels[0], 4)
    starting, closed, start = asyncio.Event(), asyncio.Event(), GroupConsumer.start

    async def slow(group: GroupConsumer) -> None:
        starting.set()
        await closed.wait()
        await start(group)

    async with opened(kafka.address) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(GroupConsumer, "start", slow)
            subscribing = asyncio.ensure_future(driver.subscribe(one))
            await asyncio.wait_for(starting.wait(), 20)
            await driver.inner._sources[-1].close()
            closed.set()
            with pytest.raises(DriverUnavailable):
                await subscribing
        async with subscribed(driver, one) as source, raw_producer(kafka.address) as producer:
            for partition in range(4):
                await producer.send_and_wait(one.channels[0], b"%d" % partition, partition=partition)
            assert {got.payload for got in await take(source, 4)} == {b"0", b"1", b"2", b"3"}


async def test_commits_do_not_end_unnoticed(kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    one = spec(unique_name())

    async def commit(*_: Any) -> None:
        raise KeyError("a mistake of ours")

    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1")
        taken = await take(source, 1)
        with monkeypatch.context() as patch:
            patch.setattr(GroupConsumer, "commit", commit)
            await ack(source, taken)
            with pytest.raises(KeyError, match="mistake"), anyio.fail_after(10):
                await source.receive(1, PLENTY)


async def test_while_no_broker_answers_publishes_do_not_queue_up_to_ask(
    kafka: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy]
) -> None:
    name, proxy = unique_name(), open_proxy(kafka)
    async with opened(kafka.proxied_address, timeout_s=1.0) as driver:
        proxy.black_hole()
        try:
            with anyio.fail_after(20):
                asked = [publish(driver, f"{name}.{number}", b"x") for number in range(6)]
                failures = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            proxy.heal()
    assert [type(failure) for failure in failures] == [DriverUnavailable] * 6
