"""The simplest write and read on each broker, with the client library its driver uses.

The libraries are imported where they are used, so that one which is missing stops its own tests only.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

Write = Callable[[str, str, Sequence[bytes]], None]
"""Write records to a channel, made if missing, each confirmed; arguments: address, channel, records."""

Read = Callable[[str, str, int], list[bytes]]
"""Read that many records of a channel from its beginning; arguments: address, channel, count."""


def _kafka_write(address: str, channel: str, records: Sequence[bytes]) -> None:
    asyncio.run(_kafka_write_async(address, channel, records))


async def _kafka_write_async(address: str, channel: str, records: Sequence[bytes]) -> None:
    from aiokafka import AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(channel, 1, 1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
        for record in records:
            await producer.send_and_wait(channel, record)


def _kafka_read(address: str, channel: str, count: int) -> list[bytes]:
    return asyncio.run(_kafka_read_async(address, channel, count))


async def _kafka_read_async(address: str, channel: str, count: int) -> list[bytes]:
    from aiokafka import AIOKafkaConsumer

    async with AIOKafkaConsumer(channel, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        return [(await asyncio.wait_for(consumer.getone(), 10)).value for _ in range(count)]


def _nats_write(address: str, channel: str, records: Sequence[bytes]) -> None:
    async def write(stream: Any) -> None:
        await stream.add_stream(name=channel, subjects=[channel])
        for record in records:
            await stream.publish(channel, record)

    asyncio.run(_with_jetstream(address, write))


def _nats_read(address: str, channel: str, count: int) -> list[bytes]:
    async def read(stream: Any) -> list[bytes]:
        return [(await stream.get_msg(channel, seq=number)).data for number in range(1, count + 1)]

    return asyncio.run(_with_jetstream(address, read))


async def _with_jetstream(address: str, use: Callable[[Any], Any]) -> Any:
    import nats

    client = await nats.connect(address)
    try:
        return await use(client.jetstream(timeout=10))
    finally:
        await client.close()


def _pulsar_write(address: str, channel: str, records: Sequence[bytes]) -> None:
    import pulsar

    client = pulsar.Client(address, logger=pulsar_silence())
    try:
        producer = client.create_producer(channel)
        for record in records:
            producer.send(record)
    finally:
        client.close()


def _pulsar_read(address: str, channel: str, count: int) -> list[bytes]:
    import pulsar

    client = pulsar.Client(address, logger=pulsar_silence())
    try:
        reader = client.create_reader(channel, pulsar.MessageId.earliest)
        return [reader.read_next(10_000).data() for _ in range(count)]
    finally:
        client.close()


def pulsar_silence() -> Any:
    """A logger for pulsar-client, never one of Python's.

    The library keeps the first logger it is given for the whole process; one of Python's makes its threads wait for
    the interpreter, also while a client that is shut down waits for them.
    """
    import pulsar

    return pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull)


def _redis_write(address: str, channel: str, records: Sequence[bytes]) -> None:
    import redis

    with redis.Redis.from_url(address) as client:
        for record in records:
            client.rpush(channel, record)


def _redis_read(address: str, channel: str, count: int) -> list[bytes]:
    import redis

    with redis.Redis.from_url(address) as client:
        found: Any = client.lrange(channel, 0, count - 1)
        return list(found)


def _postgres_write(address: str, channel: str, records: Sequence[bytes]) -> None:
    import psycopg

    with psycopg.connect(address) as connection:
        connection.execute("create table if not exists log (id serial, channel text, record bytea)")
        for record in records:
            connection.execute("insert into log (channel, record) values (%s, %s)", (channel, record))


def _postgres_read(address: str, channel: str, count: int) -> list[bytes]:
    import psycopg

    with psycopg.connect(address) as connection:
        rows = connection.execute("select record from log where channel = %s order by id limit %s", (channel, count))
        return [bytes(row[0]) for row in rows]


_BY_FAMILY: dict[str, tuple[Write, Read]] = {
    "kafka": (_kafka_write, _kafka_read),
    "nats": (_nats_write, _nats_read),
    "pulsar": (_pulsar_write, _pulsar_read),
    "redis": (_redis_write, _redis_read),
    "postgres": (_postgres_write, _postgres_read),
}


def round_trip(broker: str) -> tuple[Write, Read]:
    """Write and read for the broker of that name."""
    return next(functions for family, functions in _BY_FAMILY.items() if broker.startswith(family))
