"""What a group still has to do, from the brokers' point of view; for our own partitions from ours."""

import re
from collections.abc import Iterable, Mapping

import msgspec
from aiokafka import TopicPartition

from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.progress import Finished, read_note
from hexa_worker.drivers.kafka.reader import Reader
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.topics import Topics

INTERNAL = (".dlq.removed", "__consumer_offsets", "__transaction_state", "__share_group_state")
"""Ends of names of topics that are nobody's channels."""


class Left(msgspec.Struct, frozen=True):
    """Records that no process of ours has fetched: deliverable as far as known, and in retry topics."""

    ready: int
    delayed: int


def channels_of(spec: SubscriptionSpec, known: Iterable[str]) -> tuple[str, ...]:
    """The channels that a subscription reads, without its retry channels."""
    if spec.pattern is None:
        return spec.channels
    pattern = re.compile(spec.pattern)
    own = {*spec.retry_channels, spec.dead_letter_channel}
    return tuple(name for name in known if name not in own and not name.endswith(INTERNAL) and pattern.fullmatch(name))


class Lag:
    """Measures what is left.

    Args:
        registry: which topics there are.
        topics: what groups have committed.
        reader: where partitions end.
    """

    def __init__(self, registry: Registry, topics: Topics, reader: Reader) -> None:
        self._registry = registry
        self._topics = topics
        self._reader = reader

    async def measure(
        self,
        spec: SubscriptionSpec,
        origins: Mapping[TopicPartition, int],
        own: Mapping[TopicPartition, Partition],
    ) -> Left:
        """Count what is beyond what `own` partitions have fetched and what other partitions have committed."""
        known = await self._registry.refresh()
        retries = set(spec.retry_channels)
        names = {*channels_of(spec, known), *retries}
        places = [TopicPartition(name, number) for name in names for number in range(known.get(name, 0))]
        ends = await self._reader.ends(places)
        positions = await self._positions(spec.group, places, origins, own)
        ready = delayed = 0
        for place in places:
            offset, finished = positions[place]
            left = max(ends[place] - offset - finished, 0)
            if place.topic in retries and place not in own:
                delayed += left
            else:
                ready += left
        return Left(ready, delayed)

    async def _positions(
        self,
        group: str,
        places: Iterable[TopicPartition],
        origins: Mapping[TopicPartition, int],
        own: Mapping[TopicPartition, Partition],
    ) -> dict[TopicPartition, tuple[int, int]]:
        """For each partition the first offset that is not counted elsewhere, and how many beyond it are done."""
        committed = await self._topics.group_offsets(group)
        positions: dict[TopicPartition, tuple[int, int]] = {}
        unknown: list[TopicPartition] = []
        for place in places:
            partition = own.get(place)
            if partition is not None and partition.watermark is not None:
                positions[place] = (partition.watermark.end, partition.noted)
            elif place in committed:
                offset, note = committed[place]
                positions[place] = (offset, Finished(read_note(offset, note)).count)
            elif place in origins:
                positions[place] = (origins[place], 0)
            else:
                unknown.append(place)
        for place, offset in (await self._reader.starts(unknown)).items():
            positions[place] = (offset, 0)
        return positions
