"""What a source concludes when its client does not see a topic."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from aiokafka import TopicPartition

from hexa_worker.config.kafka import Kafka
from hexa_worker.drivers.kafka.presence import Presence
from hexa_worker.drivers.kafka.registry import Registry
from tests.drivers.consuming import spec

CHANNEL = TopicPartition("orders.in", 0)


class Cluster:
    """The admin side of a cluster and a consumer's client, as far as they are asked.

    Args:
        listed: the channel is listed.
        exists: the channel exists, listed or not.
    """

    brokers = 1
    untold: frozenset[str] = frozenset()

    def __init__(self, *, listed: bool, exists: bool) -> None:
        self._listed = listed
        self._exists = exists
        self.cluster = self

    def topics(self, exclude_internal_topics: bool = True) -> set[str]:
        """The client knows of none."""
        del exclude_internal_topics
        return set()

    def force_metadata_update(self) -> None:
        """It is told to look again."""

    async def partitions(self) -> dict[str, int]:
        """What is listed."""
        return {"orders.in": 1} if self._listed else {}

    async def settings(self, names: object) -> dict[str, Any]:
        """Nothing of interest."""
        del names
        return {}

    async def create(self, topics: Sequence[Any]) -> frozenset[str]:
        """Make what does not exist."""
        self._listed = True
        return frozenset(topic.name for topic in topics) - ({"orders.in"} if self._exists else set())


@pytest.mark.parametrize(
    ("listed", "exists", "kept"),
    [
        pytest.param(True, True, True, id="only its own client does not see it"),
        pytest.param(False, True, True, id="it has no leader for a moment"),
        pytest.param(False, False, False, id="it was deleted and is made again"),
    ],
)
def test_where_a_partition_begins_is_forgotten_only_when_its_topic_is_made_again(
    *, listed: bool, exists: bool, kept: bool
) -> None:
    cluster: Any = Cluster(listed=listed, exists=exists)
    origins = {CHANNEL: 42}
    registry = Registry(cluster, Kafka(servers=("nowhere:1",), create_channels=True))
    presence = Presence(registry, spec("orders", retry_count=0), origins)
    anyio.run(presence.look, cluster)
    assert (CHANNEL in origins) is kept
