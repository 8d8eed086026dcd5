"""What the tests of the kafka driver share."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import OffsetAndMetadata

from hexa_worker.config.kafka import Kafka, KafkaSubscription
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka import KafkaDriver
from tests.deadlines import in_time
from tests.drivers import consuming


def options(address: str, **more: Any) -> Kafka:
    """Options with short times."""
    known: dict[str, Any] = {
        "create_channels": True,
        "partitions": 1,
        "timeout_s": 5.0,
        "session_timeout_s": 2.0,
        "heartbeat_s": 0.2,
        "rebalance_timeout_s": 3.0,
        "commit_interval_s": 0.05,
        "metadata_max_age_s": 1.0,
    }
    return Kafka(servers=(address,), **{**known, **more})


def spec(name: str, **more: Any) -> SubscriptionSpec:
    """As `consuming.spec`; it does not let the broker wait for more."""
    return consuming.spec(name, **{"options": KafkaSubscription(fetch_max_wait_s=0.05), **more})


@asynccontextmanager
async def raw_producer(address: str, **more: Any) -> AsyncIterator[AIOKafkaProducer]:
    """aiokafka's producer."""
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", **more)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def make_topic(address: str, name: str, partitions: int = 1, **config: str) -> None:
    """Create a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    settings = {key.replace("_", "."): value for key, value in config.items()}
    await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
    await admin.close()


async def delete_topics(address: str, *names: str) -> None:
    """Delete topics; returns once they are gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.delete_topics(list(names))
        with in_time():
            while set(names) & set(await admin.list_topics()):
                await anyio.sleep(0.02)
    finally:
        await admin.close()


async def topic_settings(address: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The configuration of topics, and under ``partitions`` how many they have."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
        found = {one[3]: {each[0]: str(each[1]) for each in one[4]} for reply in answers for one in reply.resources}
        for topic in await admin.describe_topics(list(names)):
            found[topic["topic"]]["partitions"] = str(len(topic["partitions"]))
    finally:
        await admin.close()
    return found


def with_checksum(batch: bytes) -> bytearray:
    """A record batch with its checksum made right again."""
    return bytearray(batch[:17] + calc_crc32c(batch[21:]).to_bytes(4, "big") + batch[21:])


def opened(address: str, **more: Any) -> AbstractAsyncContextManager[KafkaDriver]:
    """An open driver; closed at the end."""
    return consuming.kept_open(KafkaDriver(options(address, **more)))


@asynccontextmanager
async def admin_of(address: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """aiokafka's admin client."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def make_topic_again(address: str, name: str, partitions: int = 1) -> None:
    """Delete a topic, and make it as soon as that is accepted."""
    async with admin_of(address) as admin:
        await admin.delete_topics([name])
        with anyio.fail_after(20):
            while (await admin.create_topics([NewTopic(name, partitions, 1)])).topic_errors[0][1]:
                await anyio.sleep(0.02)


async def committed(address: str, group: str, topic: str, partition: int = 0) -> tuple[int, str]:
    """Offset and metadata that a group has committed; offset -1: nothing."""
    place = TopicPartition(topic, partition)
    async with admin_of(address) as admin:
        found = (await admin.list_consumer_group_offsets(group)).get(place)
    return (-1, "") if found is None else (found.offset, found.metadata or "")


async def commit_as_anybody(address: str, group: str, topic: str, offset: int, metadata: str) -> None:
    """Commit for partition 0 of a topic in a group without members, as a tool does."""
    place = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=address, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([place])
    await consumer.commit({place: OffsetAndMetadata(offset, metadata)})
    await consumer.stop()
