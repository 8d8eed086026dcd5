"""Consumers of aiokafka as they are when they have started, without a broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from hexa_worker.drivers.kafka.client_internals import end_at_once

NOBODY = "localhost:1"


@asynccontextmanager
async def unconnected() -> AsyncIterator[AIOKafkaConsumer]:
    """One consumer; it is ended at the end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=NOBODY, group_id="g")
    client, subscription = consumer._client, consumer._subscription
    consumer._fetcher = Fetcher(client, subscription)
    consumer._coordinator = GroupCoordinator(client, subscription, group_id="g", assignors=(RangePartitionAssignor,))
    try:
        yield consumer
    finally:
        end_at_once(consumer)
