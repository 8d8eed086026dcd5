"""Publishing: confirmed, in order per topic and key, everything of all callers gathered into batches.

One thread builds and sends, because that is work under Python's lock; what is asked for meanwhile goes out together.
The client library calls back for each message; the last one of a call wakes its caller. Its ``flush_async`` must not be
used: it waits for the producer's lock while it has Python's, and whoever has the producer's may be waiting for Python's
to call back.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import ceil
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import anyio
import pulsar

from hexa_worker.clock import Clock
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.channels import parse
from hexa_worker.core.message import Message
from hexa_worker.drivers.base import confirmed
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.pulsar.client_internals import raw_producer
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.errors import name_of, translate
from hexa_worker.drivers.pulsar.names import place
from hexa_worker.drivers.pulsar.unread import LOOK_S, Unread
from hexa_worker.drivers.pulsar.wire import build
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

BATCH_MESSAGES = 1_000
BATCH_BYTES = 1024 * 1024
PENDING = 200_000
GATHER = 5_000
"""How many messages are gathered at most before they are sent off."""
_FATAL = frozenset({"AlreadyClosed", "ProducerFenced", "ProducerBusy", "ProducerNotInitialized", "TopicTerminated"})
"""Results after which a producer is of no use any more."""
Answer = str | DriverError
log = logging.getLogger("hexa_worker.drivers.pulsar")
_OK = pulsar.Result.Ok


class PublishCall:
    """One call of `PulsarPublisher.publish`, seen by all threads.

    Args:
        messages: what to store.
        loop: where the caller waits.
        patience_s: how long to wait for all answers.
    """

    def __init__(self, messages: Sequence[Message], loop: LoopHandle, patience_s: float) -> None:
        self.patience_s = patience_s
        self.messages = messages
        self.answers: list[Answer | None] = [None] * len(messages)
        self.ended = anyio.Event()
        self._loop = loop
        self._open = list(range(len(messages)))

    def answer(self, number: int, answer: Answer) -> None:
        """What became of one message, told once for each. From any thread: each step is one of Python's own."""
        self.answers[number] = answer
        self._open.pop()
        if not self._open:
            self._loop.post(self.ended.set)


class _Line:
    """A producer, and how messages of its topic are called.

    Args:
        producer: the client library's.
        source: the topic's name in message ids.
        heard: told of each confirmation.
        batching: whether it gathers messages before it sends them.
    """

    def __init__(self, producer: Any, source: str, heard: Callable[[], None], *, batching: bool) -> None:
        self.batching = batching
        self.dead = False
        self._raw = raw_producer(producer)
        self._heard = heard
        self._source = source

    def send(self, message: Any, call: PublishCall, number: int) -> None:
        self._raw.send_async(message, partial(self._confirmed, call, number))

    def flush(self) -> None:
        """Send what has gathered, at once; returns when it is confirmed, or its time is over."""
        if self.batching:
            with suppress(Exception):  # each message tells by itself what became of it, and the thread must go on
                self._raw.flush()

    def close(self) -> None:
        """End it; what is under way is answered first."""
        with suppress(Exception):
            self._raw.close()

    def _confirmed(self, call: PublishCall, number: int, result: Any, message_id: Any) -> None:
        """On a thread of the client library, where an exception would end the process."""
        answer: Answer
        try:
            answer = self._name(message_id) if result == _OK else self._failure(result)
            if result == _OK:
                self._heard()
        except BaseException:  # noqa: BLE001 - see above
            answer = DriverUnavailable("pulsar: the confirmation could not be read")
        call.answer(number, answer)

    def _failure(self, result: Any) -> DriverError:
        if name_of(result) in _FATAL:
            self.dead = True
        return translate(result, f"publish to {self._source}")

    def _name(self, message_id: Any) -> str:
        addition, offset = place(message_id.ledger_id(), message_id.entry_id(), message_id.batch_index())
        partition = message_id.partition()
        source = f"{self._source}-partition-{partition}" if partition >= 0 else self._source
        return f"{source}{addition}-{offset}"


class PulsarPublisher:
    """Publishes for all of a process.

    Args:
        connection: the client.
        options: the broker's table.
        clock: tells what is due already.
        unread: sees to channels that nobody has subscribed to.
    """

    def __init__(self, connection: PulsarConnection, options: Pulsar, clock: Clock, unread: Unread) -> None:
        self._connection = connection
        self._options = options
        self._clock = clock
        self._unread = unread
        self._look_at = monotonic() + LOOK_S
        self._looking: threading.Thread | None = None
        self._calls: SimpleQueue[PublishCall | None] = SimpleQueue()
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._generation = 0
        self._loop: LoopHandle | None = None
        self._thread: threading.Thread | None = None

    def open(self, loop: LoopHandle) -> None:
        """Start. Idempotent."""
        self._loop = loop
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hexa-pulsar-publish", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; blocks until what it was sending is sent. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            thread.join(self._options.timeout_s)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Answer]:
        """Store messages; for each its id, or why it is not confirmed.

        Raises:
            DriverUnavailable: none is confirmed.

        Cancellation: what was sent may be stored.
        """
        if not messages:
            return []
        call = self.begin(messages)
        with anyio.move_on_after(call.patience_s):
            await call.ended.wait()
        late = DriverUnavailable("pulsar: publish: not confirmed in time")
        return confirmed([late if answer is None else answer for answer in call.answers])

    def begin(self, messages: Sequence[Message]) -> PublishCall:
        """Send messages off; what becomes of them is told later.

        Raises:
            DriverUnavailable: nothing is sent.
        """
        self._connection.require()
        if self._thread is None or self._loop is None:
            raise DriverUnavailable("pulsar: the driver is not open")
        call = PublishCall(messages, self._loop, self._options.timeout_s * 1.5)
        self._calls.put(call)
        return call

    # -- the thread

    def _run(self) -> None:
        ending = False
        while not ending:
            calls: list[PublishCall | None] = []
            count = 0
            try:
                calls.append(self._calls.get(timeout=LOOK_S))
                while count < GATHER:
                    calls.append(self._calls.get_nowait())
                    count += len(calls[-1].messages) if calls[-1] is not None else 0
            except Empty:
                pass
            ending = None in calls
            self._send([call for call in calls if call is not None])
            self._look_again()
        self._drop_all()

    def _look_again(self) -> None:
        """See to the topics again now and then: one that was removed and made anew has lost its subscriptions.

        In a thread of its own: an admin API that lets everybody wait holds up nothing that is published.
        """
        looking = self._looking is not None and self._looking.is_alive()
        if looking or monotonic() < self._look_at:
            return
        self._look_at = monotonic() + LOOK_S
        self._looking = threading.Thread(
            target=self._see_to, args=(dict(self._lines),), name="hexa-pulsar-look", daemon=True
        )
        with suppress(RuntimeError):  # this process may have no more threads: later, then
            self._looking.start()

    def _see_to(self, lines: Mapping[str, _Line]) -> None:
        for channel, line in lines.items():
            if self._thread is None:
                return  # closed
            try:
                self._unread.see_to(self._connection.topics.topic(channel))
            except DriverError:
                line.dead = True  # the next message to it is told
            except Exception:
                log.exception("pulsar: looking who has subscribed to %s failed", channel)

    def _send(self, calls: Sequence[PublishCall]) -> None:
        if self._generation != self._connection.generation:
            self._drop_all()
            self._generation = self._connection.generation
        touched: dict[str, _Line] = {}
        failed: dict[str, DriverError] = {}
        now_ms, tick_ms = self._clock.now_ms(), round(self._options.delay_tick_s * 1000)
        for call in calls:
            for number, message in enumerate(call.messages):
                channel = message.channel
                try:
                    line = touched.get(channel)
                    if line is None:
                        if channel in failed:
                            call.answer(number, failed[channel])
                            continue
                        line = touched[channel] = self._line(channel)
                    self._check(message)
                    line.send(build(message, tick_ms, now_ms), call, number)
                except DriverError as error:
                    if channel not in touched:
                        failed[channel] = error
                    call.answer(number, error)
                except Exception as error:  # noqa: BLE001 - the client library's, or bad text in a message
                    call.answer(number, _refusal(error, channel))
        for line in touched.values():
            line.flush()

    def _check(self, message: Message) -> None:
        if len(message.payload) > self._options.max_payload:
            raise RecordTooLarge(
                f"payload of {len(message.payload)} bytes is over the limit of {self._options.max_payload}"
            )

    def _line(self, channel: str) -> _Line:
        line = self._lines.get(channel)
        if line is not None and not line.dead:
            self._lines.move_to_end(channel)
            return line
        topic = self._connection.topics.topic(channel)
        if line is not None:
            self._lines.pop(channel).close()
        self._unread.see_to(topic)
        alone = _keeps_each_alone(topic)
        batching = self._options.batching != "none" and not alone
        # Who settles waits for the answer, however long it takes; sent again, a record would be there twice.
        producer = self._producer(topic, batching=batching, patience_s=0.0 if alone else self._options.timeout_s)
        made = _Line(producer, self._connection.topics.source(topic), self._connection.heard, batching=batching)
        self._lines[channel] = made
        while len(self._lines) > self._options.producers:
            self._lines.popitem(last=False)[1].close()
        return made

    def _producer(self, topic: str, *, batching: bool, patience_s: float) -> Any:
        """A producer; a send that is not confirmed within `patience_s` has failed (0: never)."""
        options = self._options
        try:
            return self._connection.client.create_producer(
                topic,
                batching_enabled=batching,
                batching_type=_BATCHING[options.batching],
                batching_max_messages=BATCH_MESSAGES,
                batching_max_allowed_size_in_bytes=BATCH_BYTES,
                batching_max_publish_delay_ms=10,
                max_pending_messages=PENDING,
                max_pending_messages_across_partitions=PENDING * 10,
                send_timeout_millis=ceil(patience_s * 1000),
                compression_type=_COMPRESSION[options.compression],
            )
        except pulsar.PulsarException as error:
            raise translate(error, f"publish to {self._connection.topics.channel(topic)}") from error

    def _drop_all(self) -> None:
        while self._lines:
            self._lines.popitem()[1].close()


_BATCHING = {
    "key": pulsar.BatchingType.KeyBased,
    "mixed": pulsar.BatchingType.Default,
    "none": pulsar.BatchingType.Default,
}
_COMPRESSION = {
    "none": pulsar.CompressionType.NONE,
    "lz4": pulsar.CompressionType.LZ4,
    "zlib": pulsar.CompressionType.ZLib,
    "zstd": pulsar.CompressionType.ZSTD,
    "snappy": pulsar.CompressionType.SNAPPY,
}


def _keeps_each_alone(topic: str) -> bool:
    """Retries are due, dead letters removed one by one: a batch would hold back what is done with its neighbours."""
    return parse(topic) is not None


def _refusal(error: Exception, channel: str) -> DriverError:
    if isinstance(error, pulsar.PulsarException):
        return translate(error, f"publish to {channel}")
    return DriverRejected(f"pulsar: publish to {channel}: not a valid message ({type(error).__name__})")
