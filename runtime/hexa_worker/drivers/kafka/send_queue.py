"""One partition's outgoing messages: batches, one at a time, each numbered so that a broker stores it once.

A batch that was handed over and not answered in time is *open*: it may be stored, or be stored yet. Its callers are
told so, and it is kept, with its number. Who publishes one of its messages again gets the answer to the batch itself,
sent again under the same number, and nothing is stored twice. Nothing is sent before that is known, so an open batch
also goes when others follow it; after `OPEN_S` without anybody who asks that would surprise more than it helps.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import InvalidTimestampError, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from hexa_worker.clock import Clock
from hexa_worker.core.message import Message
from hexa_worker.drivers.kafka.client_internals import encoded
from hexa_worker.drivers.kafka.connection import KafkaConnection
from hexa_worker.drivers.kafka.errors import TOO_LARGE, Fate, InvalidRecord, driver_error, error_of, fate_of
from hexa_worker.drivers.kafka.producer import Answer, Producer
from hexa_worker.drivers.kafka.records import record_headers
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

OPEN_S = 60.0
PAUSE_S = 0.1
"""Between attempts."""
_OLD_MS = 60_000
"""What was written so long ago is not refused because of this machine's clock."""
_SEQUENCES = 2**31
_CODECS = {
    "none": 0,
    "gzip": DefaultRecordBatch.CODEC_GZIP,
    "snappy": DefaultRecordBatch.CODEC_SNAPPY,
    "lz4": DefaultRecordBatch.CODEC_LZ4,
    "zstd": DefaultRecordBatch.CODEC_ZSTD,
}


class SendCall:
    """One caller's messages and what is known of them."""

    __slots__ = ("answers", "done", "open")

    def __init__(self, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self.open = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, place: int, answer: str | DriverError) -> None:
        """What became of one message, told once for each."""
        self.answers[place] = answer
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


Waiting = tuple[SendCall | None, int, Message]
"""Whom to answer, which of its messages this is, and the message; None: nobody waits for it any more."""


class _Batch:
    """Messages that are stored together or not at all.

    Attributes:
        messages: in their order.
        builder: holds them, until they are encoded.
        data: as it is sent; None: it has to be encoded.
        open: it may be stored, or be stored yet.
        given_up_at: when its callers were told so, by the loop's clock.
        deadline: until when it is tried.
    """

    __slots__ = ("_unclaimed", "builder", "data", "deadline", "given_up_at", "messages", "open")

    def __init__(self, messages: list[Waiting], builder: BatchBuilder | None = None) -> None:
        self.messages = messages
        self.builder = builder
        self.data: bytes | None = None
        self.open = False
        self.given_up_at = self.deadline = 0.0
        self._unclaimed: dict[Message, list[int]] = {}

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for one of its messages."""
        return any(call is not None for call, _, _ in self.messages)

    def claim(self, call: SendCall, place: int, message: Message) -> bool:
        """Let a caller wait for one of these that nobody waits for, if `message` is one."""
        indexes = self._unclaimed.get(message)
        if not indexes:
            return False
        self.messages[indexes.pop()] = (call, place, message)
        return True

    def give_up(self, error: DriverError) -> None:
        """Tell everybody; nobody waits any more."""
        self.given_up_at = _now()
        self._unclaimed = {}
        for index, (call, place, message) in enumerate(self.messages):
            self._unclaimed.setdefault(message, []).append(index)
            if call is not None:
                call.answer(place, error)
                self.messages[index] = (None, 0, message)


class SendQueue:
    """The messages of one partition.

    Args:
        place: the partition.
        producer: sends.
        registry: asked, and making where that is allowed, when the topic is gone.
        connection: settings.
        clock: nothing was written later than now.

    Attributes:
        task: sends them, while there are any.
    """

    def __init__(
        self, place: TopicPartition, producer: Producer, registry: Registry, connection: KafkaConnection, clock: Clock
    ) -> None:
        self._now_ms = clock.now_ms
        self._place = place
        self._producer = producer
        self._registry = registry
        self._timeout_s = connection.timeout_s
        options = connection.options
        self._builder = (options.batch_bytes, _CODECS[options.compression])
        self._queue: deque[Waiting] = deque()
        self._parts: deque[list[Waiting]] = deque()  # of a refused batch; before the queue
        self._open: _Batch | None = None
        self._writer: int | None = None
        self._forgotten: int | None = None
        self._sequence = 0
        self.task: asyncio.Task[None] | None = None

    def add(self, call: SendCall, place: int, message: Message) -> None:
        """Send a message with the next batch; the task does so from the next loop iteration on."""
        if self._open is None or not self._open.claim(call, place, message):
            self._queue.append((call, place, message))
        if self.task is None:
            self.task = asyncio.ensure_future(self._empty())

    async def _empty(self) -> None:
        try:
            while self._queue or self._parts or (self._open is not None and self._open.wanted):
                batch = self._still_open()
                if self._writer is None:
                    self._writer = await self._producer.identified(not_as=self._forgotten)
                batch = batch or self._next()
                if batch.messages:
                    await self._send(batch)
        except DriverError as error:
            self._give_up(self._open, error)
        except BaseException:
            self._give_up(self._open, DriverUnavailable("kafka: publishing was given up"))
            raise
        finally:
            self.task = None

    def _still_open(self) -> _Batch | None:
        batch = self._open
        if batch is not None and not batch.wanted and _now() - batch.given_up_at > OPEN_S:
            self._close(batch)
            return None
        return batch

    def _next(self) -> _Batch:
        """As many messages as fit into one batch; those that none can hold are answered."""
        if self._parts:
            return _Batch(self._parts.popleft())
        builder = BatchBuilder(*self._builder)
        messages: list[Waiting] = []
        latest_ms = self._now_ms()
        while self._queue:
            call, place, message = self._queue[0]
            try:
                if not _append(builder, message, latest_ms):
                    break
            except (TypeError, ValueError, OverflowError) as error:
                self._queue.popleft()
                reason = f"kafka: a message for {message.channel} cannot be encoded: {type(error).__name__}: {error}"
                if call is not None:
                    call.answer(place, DriverRejected(reason))
            else:
                messages.append(self._queue.popleft())
        return _Batch(messages, builder)

    def _encoded(self, batch: _Batch, writer: int) -> bytes:
        builder, batch.builder = batch.builder, None
        if builder is None:
            builder = BatchBuilder(*self._builder)
            latest_ms = self._now_ms()
            for _, _, message in batch.messages:
                _append(builder, message, latest_ms)
        return encoded(builder, writer, self._sequence)

    # -- sending

    async def _send(self, batch: _Batch) -> None:
        """Send a batch until it is known what became of it, or its time is over."""
        batch.deadline = _now() + self._timeout_s
        moved = False
        while True:
            try:
                if moved:
                    await asyncio.sleep(PAUSE_S)
                answer = await self._attempt(batch, moved=moved)
                reason = None if answer is None else self._judge(batch, answer)
            except DriverUnavailable as unavailable:
                reason = unavailable
            except (DriverRejected, KafkaError) as error:  # of the client: a codec that is not installed
                self._give_up(batch, driver_error(error, f"publishing to {self._place.topic}"))
                return
            except BaseException:
                self._give_up(batch, DriverUnavailable("kafka: publishing was given up"))
                raise
            if reason is None:
                return
            if _now() + PAUSE_S >= batch.deadline:
                self._give_up(batch, reason)
                return
            moved = True

    async def _attempt(self, batch: _Batch, *, moved: bool) -> Answer | None:
        """Send a batch once; None: it has been answered.

        Raises:
            DriverUnavailable: it has no answer.
            DriverRejected: this login may not send it.
        """
        node = await self._producer.leader(self._place, max(batch.deadline - _now(), 1.0), moved=moved)
        if node is None:
            await self._look_for_topic(batch)
            return None
        if batch.data is None:
            if self._writer is None:
                self._writer = await self._producer.identified(not_as=self._forgotten)
            batch.data = self._encoded(batch, self._writer)
        sending = self._producer.submit(node, self._place, batch.data)
        answered = sending.answer.done
        try:
            while not answered():
                # What waits because we are slowed down has not waited in vain.
                batch.deadline = max(batch.deadline, self._producer.free_at(node) + self._timeout_s)
                left_s = batch.deadline - _now()
                if left_s <= 0:
                    break
                await asyncio.wait({sending.answer}, timeout=left_s)
        finally:
            if not answered():
                self._producer.withdraw(node, sending)
            batch.open |= sending.left and not answered()
        if not answered():
            raise DriverUnavailable(f"kafka: publishing to {self._place.topic}: no answer in {self._timeout_s:g} s")
        try:
            return sending.answer.result()
        except DriverError as error:
            batch.open |= sending.left
            raise DriverUnavailable(str(error)) from error

    async def _look_for_topic(self, batch: _Batch) -> None:
        """No broker knows the partition: its topic is gone, or others have made it again with fewer."""
        topic = self._place.topic
        self._registry.forget(topic)
        try:
            count = await self._registry.partitions_of(topic)
        except DriverRejected as error:
            self._close(batch)
            batch.give_up(error)
            return
        if count <= self._place.partition:
            self._give_up(batch, DriverUnavailable(f"kafka: topic {topic} has only {count} partitions by now"))
            return
        raise DriverUnavailable(f"kafka: no leader for {topic}-{self._place.partition}")

    # -- what became of it

    def _judge(self, batch: _Batch, answer: Answer) -> DriverError | None:
        """Do what an answer asks for; returns why the batch has to be sent again, None: it has not."""
        error = error_of(answer.code, answer.reason)
        fate = fate_of(error)
        if fate is Fate.STORED:
            self._stored(batch, answer.offset)
            return None
        if fate is Fate.REFUSED:
            self._refused(batch, answer, error)
            return None
        batch.open |= fate is Fate.OPEN
        if fate is Fate.FORGOTTEN:
            batch.data, batch.open = None, False
            self._renumber()
        return driver_error(error, f"publishing to {self._place.topic}")

    def _stored(self, batch: _Batch, offset: int) -> None:
        self._sequence = (self._sequence + len(batch.messages)) % _SEQUENCES
        self._open = None
        prefix = f"{self._place.topic}-{self._place.partition}-"
        for number, (call, index, _) in enumerate(batch.messages):
            if call is not None:
                call.answer(index, f"{prefix}{offset + number}")

    def _refused(self, batch: _Batch, answer: Answer, error: KafkaError) -> None:
        """Answer those that are at fault; the others go without them."""
        self._close(batch)
        messages = [one for one in batch.messages if one[0] is not None]
        if len(messages) < len(batch.messages):
            self._parts.appendleft(messages)  # without those that nobody waits for any more
        elif len(messages) == 1 or not _concerns_one(error):
            self._refuse(messages, error)
        elif answer.refused:
            at_fault = set(answer.refused)
            self._refuse([one for place, one in enumerate(messages) if place in at_fault], error)
            self._parts.appendleft([one for place, one in enumerate(messages) if place not in at_fault])
        else:
            half = len(messages) // 2
            self._parts.extendleft((messages[half:], messages[:half]))

    def _refuse(self, messages: Sequence[Waiting], error: KafkaError) -> None:
        refusal = driver_error(error, f"publishing to {self._place.topic}")
        for call, place, message in messages:
            if call is None:
                continue
            if isinstance(error, InvalidTimestampError) and 0 < message.timestamp_ms < self._now_ms() - _OLD_MS:
                call.answer(place, DriverRejected(str(refusal)))
            else:
                call.answer(place, refusal)

    def _give_up(self, batch: _Batch | None, reason: DriverError) -> None:
        """Its time is over: everybody is told, and so are those behind it, which would wait as vainly."""
        if batch is not None:
            batch.give_up(reason)
            self._open = batch if batch.open else None
        self._registry.forget(self._place.topic)
        for call, place, _ in [*(one for part in self._parts for one in part), *self._queue]:
            if call is not None:
                call.answer(place, reason)
        self._parts.clear()
        self._queue.clear()

    def _close(self, batch: _Batch) -> None:
        """It will not be sent again. Where it may be stored yet, its number is not used again either."""
        self._open = None
        if batch.open:
            self._renumber()

    def _renumber(self) -> None:
        """Nothing more is sent under the present producer id: its first numbers would be those of what is stored."""
        self._forgotten, self._writer, self._sequence = self._writer, None, 0


def _append(builder: BatchBuilder, message: Message, latest_ms: int) -> bool:
    """Add a message. None was written later than now: the clock was ahead when its time was taken."""
    stored = builder.append(
        timestamp=min(message.timestamp_ms, latest_ms) or None,
        key=message.key,
        value=message.payload,
        headers=record_headers(message),
    )
    return stored is not None


def _concerns_one(error: KafkaError) -> bool:
    """Whether a refusal may be about one record, and not about the topic or the login."""
    return isinstance(error, (*TOO_LARGE, InvalidRecord, InvalidTimestampError))


def _now() -> float:
    return asyncio.get_running_loop().time()
