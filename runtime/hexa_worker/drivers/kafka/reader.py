"""Reading without a group: offsets at the ends of partitions or at a time, and browsing records.

A client of its own, because a consumer's questions about offsets wait behind its long poll for records.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from hexa_worker.drivers.kafka.connection import Connection, bounded, stop_client
from hexa_worker.errors import DriverUnavailable

T = TypeVar("T")
_PAGE = 500


class Reader:
    """The group-less consumer of one driver; connects when it is first asked.

    Args:
        connection: settings.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def _ask(self, doing: str, question: Callable[[AIOKafkaConsumer], Awaitable[T]]) -> T:
        consumer = await self._started()
        try:
            return await bounded(question(consumer), self._connection.timeout_s, doing)
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
                    await self._connection.start(consumer.start, consumer._client)
                except BaseException:
                    await stop_client(consumer.stop, consumer._client)
                    raise
                self._consumer = consumer
            return self._consumer

    async def close(self) -> None:
        """Disconnect. Idempotent; never raises for a dead broker."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_client(consumer.stop, consumer._client)

    async def ends(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset after the last record of each partition."""
        wanted = list(places)
        if not wanted:
            return {}
        return await self._ask("reading offsets", lambda consumer: consumer.end_offsets(wanted))

    async def starts(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset of the first record of each partition."""
        wanted = list(places)
        if not wanted:
            return {}
        return await self._ask("reading offsets", lambda consumer: consumer.beginning_offsets(wanted))

    async def at_time(self, places: Iterable[TopicPartition], time_ms: int) -> Mapping[TopicPartition, int]:
        """The first offset at or after a time; the end where there is none."""
        wanted = dict.fromkeys(places, time_ms)
        if not wanted:
            return {}
        found = await self._ask("reading offsets", lambda consumer: consumer.offsets_for_times(wanted))
        ends = await self.ends(place for place in wanted if found.get(place) is None)
        return {place: ends[place] if at is None else at.offset for place, at in found.items()}

    async def records(self, place: TopicPartition, first: int, end: int, limit: int) -> Sequence[Any]:
        """Up to `limit` records of a partition from offset `first` on and below `end`, in order."""
        async with self._reading:
            return await self._ask(f"reading {place.topic}", lambda consumer: _read(consumer, place, first, end, limit))


async def _read(consumer: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, limit: int) -> list[Any]:
    consumer.assign([place])
    consumer.seek(place, first)
    records: list[Any] = []
    try:
        while len(records) < limit:
            fetched = await consumer.getmany(place, timeout_ms=200, max_records=min(limit - len(records), _PAGE))
            records += [record for record in fetched.get(place, ()) if record.offset < end]
            # The position also moves over transaction markers and compacted records, which never come.
            if await consumer.position(place) >= end:
                break
    finally:
        consumer.unsubscribe()  # or questions about offsets wait behind its long poll
    return records
