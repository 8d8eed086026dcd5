"""Publishing: one queue per partition, each with at most one batch on its way, confirmed by all in-sync replicas.

While a batch is on its way the next one gathers from all callers, so many small calls cost as little as one
large one, the order within a partition is that of the calls, and a partition without a leader holds up nobody
else. No future and no task per message.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import RecordMetadata

from hexa_worker.core.message import Message
from hexa_worker.drivers.kafka.connection import STOP_S, Connection, bounded, cut, stop_client
from hexa_worker.drivers.kafka.errors import REBUILD_PRODUCER, TOO_LARGE
from hexa_worker.drivers.kafka.partitioner import PARTITIONERS
from hexa_worker.drivers.kafka.records import record_headers, size_of
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

log = logging.getLogger("hexa_worker.kafka")
KEYLESS_RUN = 500
"""So many messages without a key go to one partition before the next one has its turn."""
OVERHEAD = 256 * 1024
"""What a record may take beyond its payload: key, headers, and the failure that a dead letter carries."""


class _Call:
    """One caller's messages and what is known of them."""

    __slots__ = ("answers", "done", "open")

    def __init__(self, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self.open = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, place: int, answer: str | DriverError) -> None:
        self.answers[place] = answer
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


_Waiting = tuple[_Call, int, Message]


class Publisher:
    """The producing side of one driver; connects when it first publishes.

    Args:
        connection: settings.
        registry: knows, and where allowed makes, topics.
    """

    def __init__(self, connection: Connection, registry: Registry) -> None:
        self._connection = connection
        self._registry = registry
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._queues: dict[TopicPartition, deque[_Waiting]] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._turn: dict[str, int] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._hash = PARTITIONERS[connection.options.partitioner]
        self._closed = False

    async def publish(self, messages: Sequence[Message]) -> list[str | DriverError]:
        """Store messages; for each its id, or why it is not confirmed: DriverRejected or DriverUnavailable.

        Cancellation: what is on its way stays on its way.
        """
        if not messages:
            return []
        call = _Call(len(messages))
        counts = await self._counts(messages)
        limit = self._connection.options.max_payload
        keyless = 0
        for place, message in enumerate(messages):
            count = counts[message.channel]
            if isinstance(count, DriverError):
                call.answer(place, count)
                continue
            size = len(message.payload)
            if size > limit or (message.headers and size_of(message) > limit + OVERHEAD):
                call.answer(place, _too_large(message, limit))
                continue
            if message.key is None:
                partition = (self._turn.get(message.channel, 0) + keyless // KEYLESS_RUN) % count
                keyless += 1
            else:
                partition = self._hash(message.key, count)
            self._queue(TopicPartition(message.channel, partition)).append((call, place, message))
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

    def _queue(self, place: TopicPartition) -> deque[_Waiting]:
        """The queue of a partition, with somebody who empties it from the next loop iteration on."""
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = deque()
            sender = asyncio.ensure_future(self._send_queue(place, queue))
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return queue

    async def _send_queue(self, place: TopicPartition, queue: deque[_Waiting]) -> None:
        try:
            while queue:
                try:
                    producer = await self._started()
                except DriverError as error:
                    _answer_all(queue, error)
                    continue
                batch = _take_batch(producer.create_batch(), queue)
                if batch:
                    await self._send(place, batch)
        finally:
            _answer_all(queue, DriverUnavailable("kafka: publishing was given up"))
            del self._queues[place]

    async def _send(self, place: TopicPartition, batch: list[_Waiting]) -> None:
        """Send a batch and answer every message in it.

        After any failure the producer is replaced: an idempotent one has counted the lost batch, and refuses
        whatever follows.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self._connection.timeout_s
        while True:
            producer: AIOKafkaProducer | None = None
            try:
                producer = await self._started()
                stored = await bounded(
                    _transmit(producer, place, batch), deadline - now(), f"publishing to {place.topic}"
                )
            except DriverError as error:
                if producer is not None:
                    self._retire(producer)
                if isinstance(error.__cause__, REBUILD_PRODUCER) and now() < deadline:
                    continue
                if isinstance(error.__cause__, TOO_LARGE) and len(batch) > 1:
                    for one in batch:
                        await self._send(place, [one])
                    return
                self._registry.forget(place.topic)
                _answer_all(batch, error)
                return
            prefix = f"{place.topic}-{place.partition}-"
            for number, (call, index, _) in enumerate(batch):
                call.answer(index, f"{prefix}{stored.offset + number}")
            return

    async def _started(self) -> AIOKafkaProducer:
        """The present producer, started."""
        async with self._starting:
            if self._closed:
                raise DriverUnavailable("kafka: the driver is closed")
            if self._producer is None:
                options = self._connection.options
                producer = AIOKafkaProducer(
                    **self._connection.settings(),
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=0,
                    compression_type=None if options.compression == "none" else options.compression,
                    max_batch_size=options.batch_bytes,
                    max_request_size=options.max_payload + 2 * OVERHEAD,
                )
                try:
                    await self._connection.start(producer.start)
                except BaseException:
                    self._discard(producer)
                    raise
                self._producer = producer
            return self._producer

    def _retire(self, producer: AIOKafkaProducer) -> None:
        """Use another producer from now on; what this one has under way may still end."""
        if self._producer is producer:
            self._producer = None
            self._discard(producer)

    def _discard(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.ensure_future(_end(producer))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Refuse new messages, let those on their way end within their deadline. Idempotent."""
        self._closed = True
        if self._producer is not None:
            self._retire(self._producer)
        if self._retiring:
            await asyncio.wait(list(self._retiring))


async def _end(producer: AIOKafkaProducer) -> None:
    """Stop a producer: what is on its way may end within `STOP_S`, then nothing is tried any more.

    Its own `stop` waits for ever while the broker is away, and cancelled it leaves the sender behind, which sends
    what was given up as soon as the broker is back.
    """
    producer._closed = True
    sender = producer._sender.sender_task
    if sender is not None and not sender.done():
        flushing = asyncio.ensure_future(producer._message_accumulator.close())
        await asyncio.wait({flushing, sender}, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        if not flushing.done():
            cut(producer.client)
            flushing.cancel()
        sender.cancel()
        await asyncio.wait({flushing, sender}, timeout=STOP_S)
    await stop_client(producer.client.close, producer.client)


def _take_batch(builder: Any, queue: deque[_Waiting]) -> list[_Waiting]:
    """Take as many messages off the queue as fit into one batch; those that no batch can hold are answered."""
    batch: list[_Waiting] = []
    while queue:
        call, place, message = queue[0]
        try:
            if not _append(builder, message):
                break
        except (TypeError, ValueError, OverflowError) as error:
            queue.popleft()
            reason = f"kafka: a message for {message.channel} cannot be encoded: {type(error).__name__}: {error}"
            call.answer(place, DriverRejected(reason))
        else:
            batch.append(queue.popleft())
    return batch


def _append(builder: Any, message: Message) -> bool:
    stored = builder.append(
        timestamp=message.timestamp_ms or None,
        key=message.key,
        value=message.payload,
        headers=record_headers(message),
    )
    return stored is not None


async def _transmit(producer: AIOKafkaProducer, place: TopicPartition, batch: Sequence[_Waiting]) -> RecordMetadata:
    """Send messages as one batch; returns where the first of them was stored."""
    builder = producer.create_batch()
    for _, _, message in batch:
        _append(builder, message)
    builder.close()
    confirmation = await producer.send_batch(builder, place.topic, partition=place.partition)
    return await confirmation


def _answer_all(waiting: "deque[_Waiting] | list[_Waiting]", error: DriverError) -> None:
    for call, place, _ in waiting:
        call.answer(place, error)
    waiting.clear()


def _too_large(message: Message, limit: int) -> RecordTooLarge:
    return RecordTooLarge(
        f"kafka: a message of {len(message.payload)} bytes for {message.channel} is over max_payload ({limit})"
    )
