"""A consumer in its group, while the client library changes what it is subscribed to."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from hexa_worker.config.kafka import Kafka, KafkaSubscription
from hexa_worker.drivers.base import SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.kafka.connection import KafkaConnection
from hexa_worker.drivers.kafka.consumer import GroupConsumer
from hexa_worker.drivers.kafka.progress import Book
from hexa_worker.drivers.kafka.topic_ids import TopicIds

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SPEC = SubscriptionSpec(
    action="check", group="check", channels=(), pattern="orders.*", retry_base="check", retry_count=0
)
PLACE = TopicPartition("orders", 0)


async def test_a_topic_may_turn_out_to_be_another_one_while_the_topics_of_a_pattern_change() -> None:
    """The client has no assignment then, and has not said so yet."""
    found = {"orders": Book("second", "cluster")}

    async def look(_books: TopicIds, _topics: Iterable[str], _seconds: float) -> Mapping[str, Book]:
        return found

    connection = KafkaConnection(Kafka(servers=("localhost:1",)), Path())
    group = GroupConsumer(connection, SPEC, KafkaSubscription(), TopicIds(), {}, nothing_revoked, lambda: None)
    subscription = group.consumer._subscription
    group.consumer._fetcher = SimpleNamespace(seek_to=subscription.seek)
    member: Any = SimpleNamespace(books=look, doubtful=True)
    group._membership = member
    group._assignment.begin([PLACE], {}, {"orders": Book("first", "cluster")})
    group.reassigning = False
    subscription.subscribe_pattern(re.compile("orders.*"), listener=group)
    subscription.subscribe_from_pattern({"orders", "orders.new"})
    await group.look(1.0)
    assert group.partitions[PLACE].book == found["orders"]

    subscription.assign_from_subscribed({PLACE})
    found["orders"] = Book("third", "cluster")
    member.doubtful = True
    await group.look(1.0)
    assert subscription.subscription.assignment.state_value(PLACE).position == 0
    group.consumer._closed = True
