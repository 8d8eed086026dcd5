"""Reading any channel without consuming it, and removing single dead letters.

Kafka cannot delete one record out of the middle of a partition. What is removed is noted in a compacted topic
beside the dead letters, ``{channel}.removed``, one keyed record for each; a removal counts once its notes are
confirmed, and repeating it changes nothing. Whatever is removed at the front of a partition is then really
deleted, and its notes are blanked, which lets compaction drop them. Each step may be cut short by a crash: the
next removal completes it.

Offsets: `Driver.browse` needs one number per record of a channel. Partition 0 has its own offsets, records of the
others are numbered ``partition * 2**48 + offset``. Dead-letter topics that the driver makes have one partition.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition

from hexa_worker.core.message import Delivery, Message
from hexa_worker.drivers.kafka.publisher import KafkaPublisher
from hexa_worker.drivers.kafka.reader import OffsetReader
from hexa_worker.drivers.kafka.records import delivery_of
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.errors import DriverError, DriverUnavailable

REMOVED = ".removed"
_PARTITION_BITS = 48
_LOW = (1 << _PARTITION_BITS) - 1
_BLANK = b""
_NOTE = b"1"


def number_of(partition: int, offset: int) -> int:
    """What `Driver.browse` calls the offset of a record."""
    return (partition << _PARTITION_BITS) | offset


class Browsed(Delivery, frozen=True, gc=False, kw_only=True):
    """A record whose `offset` is that of `Driver.browse`; its id is what Kafka calls it all the same."""

    @property
    def message_id(self) -> str:
        """See `hexa_worker.core.message.Delivery.message_id`."""
        return f"{self.source}-{self.offset & _LOW}"


class KafkaBrowser:
    """Reads and removes for one driver.

    Args:
        registry: which topics there are.
        topics: makes the note topics, deletes records.
        reader: reads.
        publisher: writes notes.
        attempts: the retry topics that are known to be such, with their numbers.
    """

    def __init__(
        self,
        registry: Registry,
        topics: TopicAdmin,
        reader: OffsetReader,
        publisher: KafkaPublisher,
        attempts: Mapping[str, int],
    ) -> None:
        self._registry = registry
        self._topics = topics
        self._reader = reader
        self._publisher = publisher
        self._attempts = attempts
        self._read_up_to: dict[str, int] = {}
        self._removed: dict[str, set[int]] = {}

    async def browse(self, channel: str, after: int, limit: int, since_ms: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
        places = await self._places(channel)
        removed = await self._notes(channel)
        found: list[Delivery] = []
        ends = await self._reader.ends(places)
        starts = await (self._reader.at_time(places, since_ms) if since_ms else self._reader.starts(places))
        for place in places:
            first = max(starts[place], after - number_of(place.partition, 0) + 1)
            while len(found) < limit and first < ends[place]:
                records = await self._reader.records(place, first, ends[place], limit - len(found))
                if not records:
                    break
                first = records[-1].offset + 1
                found += [
                    self._delivery(record, place)
                    for record in records
                    if number_of(place.partition, record.offset) not in removed
                ]
        return found

    def _delivery(self, record: Any, place: TopicPartition) -> Delivery:
        attempt = self._attempts.get(place.topic, -1)  # never 0: browsed records show their due time, as retries do
        one = delivery_of(record, place.topic, f"{place.topic}-{place.partition}", attempt, None)
        return Browsed(
            channel=one.channel,
            payload=one.payload,
            key=one.key,
            headers=one.headers,
            timestamp_ms=one.timestamp_ms,
            due_ms=one.due_ms,
            source=one.source,
            offset=number_of(place.partition, one.offset),
            attempt=max(one.attempt, 0),
        )

    async def _places(self, channel: str) -> list[TopicPartition]:
        found, _ = await self._topics.look([channel])  # by name: a cluster may have very many topics
        return [TopicPartition(channel, number) for number in range(len(found[channel]["partitions"]))]

    async def _notes(self, channel: str) -> set[int]:
        """The numbers of the removed records of a channel; what was read before is not read again."""
        notes = channel + REMOVED
        removed = self._removed.setdefault(channel, set())
        for place in await self._places(notes):
            ends, starts = await self._reader.ends([place]), await self._reader.starts([place])
            first = max(self._read_up_to.get(notes, 0), starts[place])
            while first < ends[place]:
                records = await self._reader.records(place, first, ends[place], 10_000)
                for record in records:
                    number = int(record.key)
                    (removed.add if record.value else removed.discard)(number)
                first = records[-1].offset + 1 if records else ends[place]
            self._read_up_to[notes] = ends[place]
        return removed

    async def count(self, channel: str) -> int:
        """How many records a channel has that were not removed."""
        places = await self._places(channel)
        removed = await self._notes(channel)
        ends, starts = await self._reader.ends(places), await self._reader.starts(places)
        gone = sum(self._exists(channel, number, starts, ends) for number in removed)
        return sum(ends[place] - starts[place] for place in places) - gone

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """See `hexa_worker.drivers.base.Driver.remove`."""
        places = await self._places(channel)
        if not places or not offsets:
            return 0
        removed = await self._notes(channel)
        ends, starts = await self._reader.ends(places), await self._reader.starts(places)
        there = [
            number
            for number in sorted(set(offsets))
            if number not in removed and self._exists(channel, number, starts, ends)
        ]
        if there:
            await self._note(channel, dict.fromkeys(there, _NOTE))
        await self._delete_front(channel, starts, ends)
        return len(there)

    def _exists(
        self, channel: str, number: int, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> bool:
        place, offset = TopicPartition(channel, number >> _PARTITION_BITS), number & _LOW
        return number >= 0 and place in starts and starts[place] <= offset < ends[place]

    async def _note(self, channel: str, values: Mapping[int, bytes]) -> None:
        notes = channel + REMOVED
        if notes not in await self._registry.refresh():
            await self._topics.create([self._registry.compacted(notes)])
            await self._registry.refresh()
        messages = [Message(channel=notes, key=b"%d" % number, payload=value) for number, value in values.items()]
        for answer in await self._publisher.publish(messages):
            if isinstance(answer, DriverError):
                raise answer
        removed = self._removed.setdefault(channel, set())
        for number, value in values.items():
            (removed.add if value else removed.discard)(number)

    async def _delete_front(
        self, channel: str, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> None:
        """Really delete what is removed at the front of each partition, then forget its notes."""
        removed = self._removed.get(channel, set())
        before: dict[TopicPartition, int] = {}
        for place, start in starts.items():
            front = start
            while front < ends[place] and number_of(place.partition, front) in removed:
                front += 1
            if front > start:
                before[place] = front
        if not before:
            return
        try:
            await self._topics.delete_records(before)
        except DriverUnavailable:
            raise
        except DriverError:
            return  # no right to delete: the notes do it alone
        gone = [
            number
            for number in removed
            if (number & _LOW) < before.get(TopicPartition(channel, number >> _PARTITION_BITS), 0)
        ]
        await self._note(channel, dict.fromkeys(gone, _BLANK))
