"""What a subscription's retries owe to the group that it had before: a renamed group, with the same retry channel.

Retry channels keep what was retried for days. A group that has read none of it would run all of it again. Groups of
this runtime are known by their notes, which say of which topic they are; what others committed is not believed.
"""

import logging
from collections.abc import Mapping

import msgspec
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka.progress import Book, read_progress
from hexa_worker.drivers.kafka.reader import OffsetReader
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.errors import DriverRejected

log = logging.getLogger("hexa_worker.kafka")

LOOKED_AT = 200
"""So many groups of a cluster are looked at."""


class Inheritance(msgspec.Struct, frozen=True):
    """What other groups of the same subscription have finished of its retries.

    Attributes:
        groups: whose it is.
        progress: what to go on from.
    """

    groups: tuple[str, ...] = ()
    progress: Mapping[TopicPartition, OffsetAndMetadata] = {}


async def inheritance(topics: TopicAdmin, reader: OffsetReader, books: TopicIds, spec: SubscriptionSpec) -> Inheritance:
    """What a group without progress in its retry channels can go on from; empty for one that has some.

    Raises:
        DriverUnavailable: the broker is away.
    """
    retries = set(spec.retry_channels)
    try:
        if not retries or any(place.topic in retries for place in await topics.group_offsets(spec.group)):
            return Inheritance()
        if not await _written(topics, reader, retries):
            return Inheritance()
        present = await topics.books(books, retries)
        groups = [one for one in await topics.groups() if one != spec.group][:LOOKED_AT]
    except DriverRejected as error:
        log.warning("%s: whether other groups have read its retries cannot be told: %s", spec.action, error)
        return Inheritance()
    found = {group: await _believed_of(topics, group, present) for group in groups}
    furthest: dict[TopicPartition, OffsetAndMetadata] = {}
    for progress in found.values():
        for place, committed in progress.items():
            if place not in furthest or furthest[place].offset < committed.offset:
                furthest[place] = committed
    return Inheritance(tuple(group for group, progress in found.items() if progress), furthest)


async def _written(topics: TopicAdmin, reader: OffsetReader, retries: set[str]) -> bool:
    """Whether the retry channels have ever held anything."""
    known = await topics.partitions()
    places = [TopicPartition(name, number) for name in retries for number in range(known.get(name, 0))]
    return any((await reader.ends(places)).values())


async def _believed_of(
    topics: TopicAdmin, group: str, present: Mapping[str, Book]
) -> Mapping[TopicPartition, OffsetAndMetadata]:
    """What a group of ours has committed in these topics; nothing of one that may not be looked at."""
    try:
        offsets = await topics.group_offsets(group)
    except DriverRejected:
        return {}
    return {
        place: committed
        for place, committed in offsets.items()
        if place.topic in present and _believed(committed, present[place.topic])
    }


def _believed(committed: OffsetAndMetadata, book: Book) -> bool:
    found = read_progress((committed.offset, committed.metadata or ""), book)
    noted = bool(book.topic_id) and (committed.metadata or "").startswith("hw2:")
    return noted and committed.offset > 0 and found.offset is not None and not found.doubt
