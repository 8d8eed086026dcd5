"""What a group still has to do, from the brokers' point of view; for our own partitions from ours."""

from collections.abc import Mapping

import msgspec
from aiokafka import TopicPartition

from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka.channels import channels_of
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.progress import Book, read_progress
from hexa_worker.drivers.kafka.reader import OffsetReader
from hexa_worker.drivers.kafka.records import delivery_of
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.drivers.kit.offset_ranges import RangeSet

PEEK = 500
"""So many records at the front of a retry partition are looked at for their due time; the others count as delayed."""


class Left(msgspec.Struct, frozen=True):
    """Records that this process has not fetched: deliverable ones, retries that wait, when the next of these is due."""

    ready: int
    delayed: int
    next_due_ms: int | None


class Lag:
    """Measures what is left.

    Args:
        registry: which topics there are.
        topics: what groups have committed.
        reader: where partitions end.
        books: whether they are still what was committed.
    """

    def __init__(self, registry: Registry, topics: TopicAdmin, reader: OffsetReader, books: TopicIds) -> None:
        self._books = books
        self._registry = registry
        self._topics = topics
        self._reader = reader

    async def measure(
        self,
        spec: SubscriptionSpec,
        origins: Mapping[TopicPartition, int],
        own: Mapping[TopicPartition, Partition],
        now_ms: int,
    ) -> Left:
        """Count what is beyond what `own` partitions have fetched and what other partitions have committed."""
        known = await self._registry.recent()
        retries = set(spec.retry_channels)
        names = {*channels_of(spec, known), *retries}
        places = [TopicPartition(name, number) for name in names for number in range(known.get(name, 0))]
        ends = await self._reader.ends(places)
        positions = await self._positions(spec.group, ends, origins, own)
        left = {place: max(ends[place] - sum(positions[place]), 0) for place in places}
        waiting = {
            place: (positions[place][0], ends[place]) for place in places if left[place] and place.topic in retries
        }
        due, later = await self._due(waiting, now_ms)
        ready = sum(min(due.get(place, count), count) for place, count in left.items())
        return Left(ready, sum(left.values()) - ready, min(later, default=None))

    async def _due(
        self, spans: Mapping[TopicPartition, tuple[int, int]], now_ms: int
    ) -> tuple[dict[TopicPartition, int], list[int]]:
        """How many retries of each partition are due, and when the others are, as far as looked at."""
        due: dict[TopicPartition, int] = {}
        later: list[int] = []
        for place, records in (await self._reader.fronts(spans, PEEK)).items():
            dues = [delivery_of(record, place.topic, "", 1, None).due_ms for record in records]
            waiting = [due_ms for due_ms in dues if due_ms > now_ms]
            due[place] = len(dues) - len(waiting)
            later += waiting
        return due, later

    async def _positions(
        self,
        group: str,
        ends: Mapping[TopicPartition, int],
        origins: Mapping[TopicPartition, int],
        own: Mapping[TopicPartition, Partition],
    ) -> dict[TopicPartition, tuple[int, int]]:
        """For each partition the first offset that is not counted elsewhere, and how many beyond it are done."""
        committed = await self._topics.group_offsets(group)
        books = await self._topics.books(self._books, {place.topic for place in committed if place in ends})
        positions: dict[TopicPartition, tuple[int, int]] = {}
        unknown: list[TopicPartition] = []
        for place, end in ends.items():
            partition = own.get(place)
            if partition is not None and partition.watermark is not None:
                at, done = partition.end, partition.noted
            elif place in committed:
                progress = read_progress(committed[place], books.get(place.topic, Book()))
                at, done = progress.offset or 0, RangeSet(progress.runs).count
            elif place in origins:
                at, done = origins[place], 0
            else:
                at, done = -1, 0
            if 0 <= at <= end:
                positions[place] = (at, done)
            else:  # nothing is done yet, or what was done is not what is there now
                unknown.append(place)
        for place, offset in (await self._reader.starts(unknown)).items():
            positions[place] = (offset, 0)
        return positions
