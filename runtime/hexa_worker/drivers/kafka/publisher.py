"""Publishing: one queue per partition, each with at most one batch on its way, confirmed by all in-sync replicas.

While a batch is on its way the next one gathers from all callers, so many small calls cost as little as one
large one, the order within a partition is that of the calls, and a partition without a leader holds up nobody
else. No future and no task per message.
"""

import asyncio
from collections.abc import Sequence

from aiokafka import TopicPartition

from hexa_worker.clock import Clock
from hexa_worker.core.message import Message
from hexa_worker.drivers.kafka.connection import STOP_S, KafkaConnection
from hexa_worker.drivers.kafka.partitioner import PARTITIONERS
from hexa_worker.drivers.kafka.producer import Producer
from hexa_worker.drivers.kafka.records import OVERHEAD, size_of
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.send_queue import SendCall, SendQueue
from hexa_worker.errors import DriverError, RecordTooLarge

KEYLESS_RUN = 500
"""So many messages without a key go to one partition before the next one has its turn."""


class KafkaPublisher:
    """The producing side of one driver; connects when it first publishes.

    Args:
        connection: settings.
        registry: knows, and where allowed makes, topics.
        clock: what time it is.
    """

    def __init__(self, connection: KafkaConnection, registry: Registry, clock: Clock) -> None:
        self._clock = clock
        self._connection = connection
        self._registry = registry
        self._producer = Producer(connection)
        self._queues: dict[TopicPartition, SendQueue] = {}
        self._turn: dict[str, int] = {}
        self._hash = PARTITIONERS[connection.options.partitioner]

    async def publish(self, messages: Sequence[Message]) -> list[str | DriverError]:
        """Store messages; for each its id, or why it is not confirmed: DriverRejected or DriverUnavailable.

        What could not be confirmed in time may be stored all the same. Publishing an equal message soon after stores no
        second one: it asks what became of the first.

        Cancellation: what is on its way stays on its way.
        """
        if not messages:
            return []
        call = SendCall(len(messages))
        counts = await self._counts(messages)
        limit = self._connection.options.max_payload
        keyless = 0
        for place, message in enumerate(messages):
            count = counts[message.channel]
            if isinstance(count, DriverError):
                call.answer(place, count)
                continue
            size = len(message.payload)
            too_large = size > limit or (message.headers and size_of(message) > limit + OVERHEAD)
            if too_large and not self._registry.keeps_failures(message.channel):
                call.answer(place, _too_large(message, limit))
                continue
            if message.key is None:
                partition = (self._turn.get(message.channel, 0) + keyless // KEYLESS_RUN) % count
                keyless += 1
            else:
                partition = self._hash(message.key, count)
            self._queue(TopicPartition(message.channel, partition)).add(call, place, message)
        if keyless:
            self._next_turn(messages)
        if call.open:
            await call.done
        return call.answers

    async def _counts(self, messages: Sequence[Message]) -> dict[str, int | DriverError]:
        """The number of partitions of each channel, or why it cannot be published to."""
        counts: dict[str, int | DriverError] = {}
        for channel in {message.channel for message in messages}:
            try:
                counts[channel] = await self._registry.partitions_of(channel)
            except DriverError as error:
                counts[channel] = error
        return counts

    def _next_turn(self, messages: Sequence[Message]) -> None:
        for channel in {message.channel for message in messages}:
            self._turn[channel] = self._turn.get(channel, 0) + 1

    def _queue(self, place: TopicPartition) -> SendQueue:
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = SendQueue(
                place, self._producer, self._registry, self._connection, self._clock
            )
        return queue

    async def close(self) -> None:
        """Let what is on its way end, within `STOP_S`; the rest, and whatever comes now, is refused. Idempotent."""
        under_way = [queue.task for queue in self._queues.values() if queue.task is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=STOP_S)
            for task in under_way:
                task.cancel()
        await self._producer.close()


def _too_large(message: Message, limit: int) -> RecordTooLarge:
    return RecordTooLarge(
        f"kafka: a message of {len(message.payload)} bytes for {message.channel} is over max_payload ({limit})"
    )
