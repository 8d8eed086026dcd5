"""Records that aiokafka's parser refuses: header names that are not UTF-8, damaged batches.

Its `getmany` then throws away the good records that it had read before in the same call, of other partitions too, and
moves its positions past them. Here they go back to what was really received. A header name that is not UTF-8 is no
reason to keep a record back: for a while batches are read by a parser that shows such bytes as escapes. A batch whose
checksum is wrong is never skipped: its partition waits, and says so, until somebody repairs or deletes it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from hexa_worker.drivers.kafka.partition import Partition

log = logging.getLogger("hexa_worker.kafka")
LENIENT_S = 10.0
"""How long batches are read leniently after a refused one: some ten times slower."""

_FIRST_WITH_HEADERS = 2
_strict = aiokafka_fetcher.MemoryRecords
_lenient_until = float("-inf")


class _Escaping(bytearray):
    """Bytes whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Escaping(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return super().decode(encoding, "backslashreplace")


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka is not typed
    def _maybe_uncompress(self) -> None:
        if not self._decompressed:
            super()._maybe_uncompress()
            self._buffer: bytearray = _Escaping(self._buffer)


class _LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka is not typed
    def next_batch(self) -> Any:
        part = self._next_slice
        if part is None or len(part) < self.MIN_SLICE or part[self.MAGIC_OFFSET] < _FIRST_WITH_HEADERS:
            return super().next_batch()
        self._cache_next()
        return _LenientBatch(part)


def _parser(data: bytes) -> Any:
    return _LenientRecords(data) if time.monotonic() < _lenient_until else _strict(data)


def _be_lenient() -> None:
    global _lenient_until  # noqa: PLW0603 - the parser is one for all consumers of the process
    _lenient_until = time.monotonic() + LENIENT_S
    aiokafka_fetcher.MemoryRecords = _parser


async def recover(
    consumer: AIOKafkaConsumer,
    partitions: Mapping[TopicPartition, Partition],
    origins: Mapping[TopicPartition, int],
    error: Exception,
) -> bool:
    """After `getmany` raised `error`: go back to what was received.

    Args:
        consumer: what raised.
        partitions: what is assigned.
        origins: where partitions without progress begin, if not at their first record.
        error: what it raised.

    Returns:
        True when reading on will help; False when it will fail again, or the error was about something else.
    """
    place = _refused(consumer)
    partition = None if place is None else partitions.get(place)
    if partition is None:
        return False
    readable = isinstance(error, UnicodeDecodeError)
    if readable:
        _be_lenient()
        log.warning("%s holds a header name that is not UTF-8: it is shown with escapes", partition.source)
    await _go_back(consumer, partitions, origins)
    return readable


async def _go_back(
    consumer: AIOKafkaConsumer, partitions: Mapping[TopicPartition, Partition], origins: Mapping[TopicPartition, int]
) -> None:
    first: list[TopicPartition] = []
    for place, partition in partitions.items():
        begin = origins.get(place) if partition.watermark is None else partition.watermark.end
        if begin is None:
            first.append(place)  # nothing was committed, so it began there
        else:
            consumer.seek(place, begin)
    if first:
        await consumer.seek_to_beginning(*first)


def _refused(consumer: AIOKafkaConsumer) -> TopicPartition | None:
    """The partition whose parser has ended in an error."""
    results: dict[TopicPartition, Any] = consumer._fetcher._records
    for place, result in results.items():
        iterator = getattr(getattr(result, "_partition_records", None), "_records_iterator", None)
        if iterator is not None and iterator.gi_frame is None:
            return place
    return None
