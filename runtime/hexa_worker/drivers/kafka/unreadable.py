"""Records that aiokafka's parser refuses: header names that are not UTF-8, damaged batches.

Its `getmany` then throws away the good records that it had read before in the same call, of other partitions too, and
moves its positions past them. Here they go back to what was really received. A header name that is not UTF-8 is no
reason to keep a record back: for a while this consumer reads batches with a parser that shows such bytes as escapes. A
batch whose checksum is wrong is never skipped: its partition waits, and says so, until somebody repairs or deletes it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.record.memory_records import MemoryRecords

from hexa_worker.drivers.kafka.client_internals import LenientRecords, parse_with, refused
from hexa_worker.drivers.kafka.partition import Partition

log = logging.getLogger("hexa_worker.kafka")
LENIENT_S = 10.0
"""How long batches are read leniently after a refused one: some ten times slower."""


def be_lenient(consumer: AIOKafkaConsumer) -> None:
    """Read header names that are not UTF-8, for a while."""
    until = time.monotonic() + LENIENT_S

    def parser(data: bytes) -> Any:
        return LenientRecords(data) if time.monotonic() < until else MemoryRecords(data)

    parse_with(consumer, parser)


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
    place = refused(consumer)
    partition = None if place is None else partitions.get(place)
    if partition is None:
        return False
    readable = isinstance(error, UnicodeDecodeError)
    if readable:
        be_lenient(consumer)
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
