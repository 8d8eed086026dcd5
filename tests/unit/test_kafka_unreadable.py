"""A consumer that was given a header name that is not UTF-8 reads it, and no other consumer reads otherwise."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.progress import Progress
from hexa_worker.drivers.kafka.unreadable import recover
from tests.drivers.kafka_tools import with_checksum
from tests.unit.unconnected_kafka import unconnected

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
PLACE = TopicPartition("orders", 0)


def unreadable() -> bytes:
    builder = BatchBuilder(1024, 0)
    builder.append(timestamp=1, key=None, value=b"x", headers=[("name", b"1")])
    return bytes(with_checksum(bytes(builder._build()).replace(b"name", b"na\xffe")))


async def read(consumer: AIOKafkaConsumer) -> list[Any]:
    """What comes when a broker answers one fetch with a batch that aiokafka cannot read."""

    async def send(*_: Any) -> Any:
        return SimpleNamespace(API_VERSION=4, topics=[(PLACE.topic, [(PLACE.partition, 0, 1, 1, [], unreadable())])])

    consumer._client.send = send
    request = SimpleNamespace(topics=[(PLACE.topic, [(PLACE.partition, 0, 1)])])
    await consumer._fetcher._proc_fetch_request(consumer._subscription.subscription.assignment, 0, request)
    found: list[Any] = (await consumer._fetcher.fetched_records([], max_records=10))[PLACE]
    return found


async def test_only_the_consumer_that_was_refused_a_record_reads_it_with_escapes() -> None:
    async with unconnected() as refused, unconnected() as other:
        for consumer in (refused, other):
            consumer._subscription.assign_from_user([PLACE])
            consumer.seek(PLACE, 0)
        with pytest.raises(UnicodeDecodeError) as raised:
            await read(refused)
        partitions = {PLACE: Partition(PLACE.topic, PLACE.partition, 0, Progress())}
        assert await recover(refused, partitions, {PLACE: 0}, raised.value)
        assert [record.headers for record in await read(refused)] == [(("na\\xffe", b"1"),)]
        with pytest.raises(UnicodeDecodeError):
            await read(other)
