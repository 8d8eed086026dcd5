"""What one process has of its group's partitions, and whether their offsets still mean what they meant."""

import logging
from collections.abc import Iterable, Mapping, MutableMapping

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.progress import Book, CommitPoint, read_progress
from hexa_worker.drivers.kafka.topic_ids import TopicIds

log = logging.getLogger("hexa_worker.kafka")
Origins = MutableMapping[TopicPartition, int]
"""Where partitions without progress begin, if not at their first record."""
Found = Mapping[str, Book]
"""Topics as they are now; one that does not exist is left out."""


class Assignment:
    """See the module.

    Args:
        spec: the subscription.
        books: what topics were when they were last seen.
        origins: see `Origins`; forgotten for topics that were made again.

    Attributes:
        partitions: what is ours at this moment.
    """

    def __init__(self, spec: SubscriptionSpec, books: TopicIds, origins: Origins) -> None:
        self._spec = spec
        self._books = books
        self._origins = origins
        self._attempts = {name: number for number, name in enumerate(spec.retry_channels, start=1)}
        self._gone: frozenset[str] = frozenset()
        self.partitions: dict[TopicPartition, Partition] = {}

    def begin(
        self,
        places: Iterable[TopicPartition],
        committed: Mapping[TopicPartition, OffsetAndMetadata],
        found: Found,
    ) -> Mapping[TopicPartition, int]:
        """These are ours now.

        Args:
            places: what was assigned.
            committed: what the group has committed.
            found: the topics.

        Returns:
            Where to read from, where that is not what was committed, or the first record.
        """
        self._note(found)
        seek: dict[TopicPartition, int] = {}
        for place in places:
            at = committed.get(place)
            if at is None and place in self._origins:
                seek[place] = self._origins[place]
            point = None if at is None else (at.offset, at.metadata or "")
            self.partitions[place] = self._begun(place, point, found.get(place.topic, Book()))
        return {**seek, **self._follow(found)}

    def _begun(self, place: TopicPartition, point: CommitPoint | None, book: Book) -> Partition:
        progress = read_progress(point, book)
        if progress.doubt:
            log.warning("%s-%d: the note on finished work is ignored: %s", *place, progress.doubt)
        attempt = self._attempts.get(place.topic, 0)
        old = Book(progress.topic_id, book.cluster)
        return Partition(place.topic, place.partition, attempt, progress, point, old)

    def verify(self, found: Found) -> Mapping[TopicPartition, int]:
        """Look whether what is ours is still of the same topics; where it is not, its offsets begin anew.

        Returns:
            Where to read from instead.
        """
        self._note(found)
        self._gone = frozenset(place.topic for place in self.partitions if place.topic not in found)
        return self._follow(found)

    def _note(self, found: Found) -> None:
        for topic, book in found.items():
            if self._books.differs(topic, book):
                self._forget(topic)

    def _follow(self, found: Found) -> Mapping[TopicPartition, int]:
        """Begin anew with partitions of topics that are others by now; where to read them from."""
        seek: dict[TopicPartition, int] = {}
        for place, partition in list(self.partitions.items()):
            book = found.get(place.topic, partition.book)
            if book.topic_id and partition.book.topic_id not in ("", book.topic_id):
                self.partitions[place] = partition.anew(book, 0)
                seek[place] = 0
            elif book.topic_id:
                partition.book = book
        for topic in sorted({place.topic for place in seek}):
            self._forget(topic)
            log.warning(
                "group %s: channel %s was deleted and made again: it is read from its first record",
                self._spec.group,
                topic,
            )
        return seek

    def _forget(self, topic: str) -> None:
        for place in [place for place in self._origins if place.topic == topic]:
            del self._origins[place]

    def reach(self, place: TopicPartition, offset: int) -> Partition | None:
        """The partition whose next record is at `offset`; None: it is not ours.

        An offset that was handed out before means that the log was put back, or ends and begins anew.
        """
        partition = self.partitions.get(place)
        if partition is None or offset >= partition.end:
            return partition
        log.warning(
            "group %s: the log of %s was at offset %d and goes on at %d: what is there is read again",
            self._spec.group,
            partition.source,
            partition.end,
            offset,
        )
        anew = self.partitions[place] = partition.anew(partition.book, offset)
        return anew

    def commit_points(self) -> dict[TopicPartition, tuple[Partition, CommitPoint]]:
        """What should be committed, less what is of topics that do not exist any more."""
        points = {}
        for place, partition in self.partitions.items():
            point = None if place.topic in self._gone else partition.commit_point(self._books.note_limit)
            if point is not None:
                points[place] = (partition, point)
        return points

    def drop(self) -> None:
        """Nothing is ours any more.

        What was handed out belongs to others, except where there is nothing left to hand out again.
        """
        for place, partition in self.partitions.items():
            partition.lost = place.topic not in self._gone
        self.partitions = {}
        self._gone = frozenset()
