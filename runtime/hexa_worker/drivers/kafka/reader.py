"""Reading without a group: offsets at the ends of partitions or at a time, and browsing records.

A client of its own, because a consumer's questions about offsets wait behind its long poll for records.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from hexa_worker.drivers.kafka.client_internals import client_of, subscription_of
from hexa_worker.drivers.kafka.connection import KafkaConnection, bounded, stop_client
from hexa_worker.drivers.kafka.unreadable import be_lenient
from hexa_worker.errors import DriverUnavailable

T = TypeVar("T")
_PAGE = 500


class OffsetReader:
    """The group-less consumer of one driver; connects when it is first asked.

    Args:
        connection: settings.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def _ask(
        self, doing: str, places: Iterable[TopicPartition], question: Callable[[AIOKafkaConsumer], Awaitable[T]]
    ) -> T:
        consumer = await self._started()

        async def ask() -> T:
            client = client_of(consumer)
            leader = client.cluster.leader_for_partition
            if any(leader(place) is None for place in places):
                await client.set_topics([])  # which means all; the client itself would ask for one by one
            return await question(consumer)

        try:
            return await bounded(ask(), self._connection.timeout_s, doing)
        except DriverUnavailable:
            if self._consumer is consumer:
                await self.close()
            raise

    async def _started(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    **self._connection.settings(),
                    group_id=None,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    isolation_level="read_uncommitted",
                    fetch_max_wait_ms=100,
                )
                try:
                    await self._connection.start(consumer.start, client_of(consumer))
                except BaseException:
                    await stop_client(consumer.stop, client_of(consumer))
                    raise
                self._consumer = consumer
            return self._consumer

    async def close(self) -> None:
        """Disconnect. Idempotent; never raises for a dead broker."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_client(consumer.stop, client_of(consumer))

    async def ends(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset after the last record of each partition."""
        wanted = list(places)
        if not wanted:
            return {}
        return await self._ask("reading offsets", wanted, lambda consumer: consumer.end_offsets(wanted))

    async def starts(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset of the first record of each partition."""
        wanted = list(places)
        if not wanted:
            return {}
        return await self._ask("reading offsets", wanted, lambda consumer: consumer.beginning_offsets(wanted))

    async def at_time(self, places: Iterable[TopicPartition], time_ms: int) -> Mapping[TopicPartition, int]:
        """The first offset at or after a time; the end where there is none."""
        wanted = dict.fromkeys(places, time_ms)
        if not wanted:
            return {}
        found = await self._ask("reading offsets", wanted, lambda consumer: consumer.offsets_for_times(wanted))
        ends = await self.ends(place for place in wanted if found.get(place) is None)
        return {place: ends[place] if at is None else at.offset for place, at in found.items()}

    async def records(self, place: TopicPartition, first: int, end: int, limit: int) -> Sequence[Any]:
        """Up to `limit` records of a partition from offset `first` on and below `end`, in order."""
        found = await self._read({place: (first, end)}, limit, None)
        return found[place]

    async def fronts(
        self, spans: Mapping[TopicPartition, tuple[int, int]], limit: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        """The first records of many partitions, as far as they can be read in half the time that a call may take.

        Args:
            spans: from which offset on, and below which.
            limit: of each partition.
        """
        return await self._read(spans, limit, self._connection.timeout_s / 2) if spans else {}

    async def _read(
        self, spans: Mapping[TopicPartition, tuple[int, int]], limit: int, seconds: float | None
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        doing = f"reading {', '.join(sorted({place.topic for place in spans}))}"
        async with self._reading:
            return await self._ask(doing, spans, lambda consumer: _read(consumer, spans, limit, seconds))


async def _read(
    consumer: AIOKafkaConsumer,
    spans: Mapping[TopicPartition, tuple[int, int]],
    limit: int,
    seconds: float | None,
) -> dict[TopicPartition, list[Any]]:
    subscription = subscription_of(consumer)
    subscription.assign_from_user(list(spans))  # the consumer's own call would ask about all topics each time
    for place, (first, _) in spans.items():
        consumer.seek(place, first)
    found: dict[TopicPartition, list[Any]] = {place: [] for place in spans}
    left = set(spans)
    now = asyncio.get_running_loop().time
    until = float("inf") if seconds is None else now() + seconds
    try:
        while left and now() < until:
            try:
                fetched = await consumer.getmany(*left, timeout_ms=200, max_records=_PAGE)
            except UnicodeDecodeError:
                be_lenient(consumer)
                for place in left:  # what was read in the same call is thrown away, and its position moved
                    consumer.seek(place, found[place][-1].offset + 1 if found[place] else spans[place][0])
                continue
            for place in list(left):
                end, records = spans[place][1], found[place]
                records += [record for record in fetched.get(place, ()) if record.offset < end]
                # The position also moves over transaction markers and compacted records, which never come.
                if len(records) >= limit or await consumer.position(place) >= end:
                    consumer.pause(place)
                    left.discard(place)
    finally:
        subscription.unsubscribe()  # or questions about offsets wait behind its long poll
    return {place: records[:limit] for place, records in found.items()}
