"""What the tests of the kafka driver share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from hexa_worker.config.kafka import Kafka, KafkaSubscription
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Revoked, Source, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.kafka import KafkaDriver
from hexa_worker.errors import DriverUnavailable

T = TypeVar("T")
PLENTY = 64 * 1024 * 1024


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
    """A subscription called `name` that reads the channel ``{name}.in``."""
    known: dict[str, Any] = {
        "action": name,
        "group": name,
        "channels": (f"{name}.in",),
        "retry_base": name,
        "retry_count": 2,
        "options": KafkaSubscription(fetch_max_wait_s=0.05),
    }
    return SubscriptionSpec(**{**known, **more})


@asynccontextmanager
async def opened(address: str, **more: Any) -> AsyncIterator[KafkaDriver]:
    """An open driver; closed at the end."""
    driver = KafkaDriver(options(address, **more))
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def subscribed(
    driver: KafkaDriver, one: SubscriptionSpec, revoked: Revoked = nothing_revoked
) -> AsyncIterator[Source]:
    """A source; closed at the end."""
    source = await driver.subscribe(one, revoked)
    try:
        yield source
    finally:
        await source.close()


async def take(source: Source, count: int, within_s: float = 20.0) -> list[Delivery]:
    """Receive until `count` deliveries came."""
    taken: list[Delivery] = []
    with anyio.fail_after(within_s):
        while len(taken) < count:
            try:
                taken += await source.receive(count - len(taken), PLENTY)
            except DriverUnavailable:
                await anyio.sleep(0.1)
    return taken


async def ack(source: Source, deliveries: Sequence[Delivery]) -> None:
    """Acknowledge all; each must take effect."""
    assert await source.settle([Acked(one) for one in deliveries]) == []


async def publish(driver: KafkaDriver, channel: str, *payloads: bytes, key: bytes | None = None) -> None:
    """Publish payloads; each must be confirmed."""
    answers = await driver.publish([Message(channel=channel, payload=payload, key=key) for payload in payloads])
    assert all(isinstance(answer, str) for answer in answers), answers


async def patiently(call: Callable[[], Awaitable[T]], within_s: float = 30.0) -> T:
    """The answer of `call`, asked again while the broker is away."""
    with anyio.fail_after(within_s):
        while True:
            try:
                return await call()
            except DriverUnavailable:
                await anyio.sleep(0.1)


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
