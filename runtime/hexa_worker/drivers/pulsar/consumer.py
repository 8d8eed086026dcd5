"""One consumer and the thread that reads it: messages in, lists of deliveries out to the event loop.

While little comes, the thread waits for single messages and hands each over at once. When they come thick it takes
hundreds at a time, which costs a fraction, but may wait a moment for a batch to fill. It never leaves a call of the
client library behind: every wait is bounded, and it is the only one that receives.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import pulsar

from hexa_worker.core.message import Delivery
from hexa_worker.drivers.pulsar.batch_acks import BatchAcks, Place, Token
from hexa_worker.drivers.pulsar.client_internals import raw_consumer
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.errors import name_of, translate
from hexa_worker.drivers.pulsar.flow import Flow
from hexa_worker.drivers.pulsar.positions import Positions
from hexa_worker.drivers.pulsar.reading import Reading
from hexa_worker.drivers.pulsar.wire import PulsarOrigin
from hexa_worker.errors import DriverError, DriverUnavailable

WAIT_MS = 250
"""How long to wait for a single message; a stop is noticed sooner, by the closing of the consumer."""
FILL_MS = 3
"""How long a batch may take to fill."""
FEW = 8
"""A batch that is smaller shows that little comes."""
STREAK = (16, 1024)
"""So many messages one upon the other make it worth to try a batch; more after each try that was not."""
GAP_S = 0.006
SILENT_S = 1.0
"""A consumer that is not connected for this long counts as trouble,"""
REPLACE_S = 3.0
"""and is made anew after this long, if the broker is there otherwise."""
RETRY_S = 0.5
STANDBY_S = 0.3
log = logging.getLogger("hexa_worker.drivers.pulsar")

SETTLED_S = 0.1
"""What is not in hand any more is acknowledged after this long."""
DRAIN_S = 1.0
"""How long a consumer that fetches too much ahead waits to be made anew with nothing in hand,"""
REST_S = 10.0
"""and how long it reads before it tries again, twice as long each time: slow handlers must not stop the others."""
Subscribe = Callable[[Any, int], Any]
"""Makes a consumer with a client, and how much it may fetch ahead; raises the client library's exceptions."""


class ConsumerThread:
    """See the module.

    Args:
        connection: the client.
        subscribe: makes the consumer.
        what: what it reads, for errors.
        origin_of: what the messages of a topic have in common.
        only_topic: the one topic it reads, if it is not partitioned.
        known: places of what was handed out and is not settled; such messages are dropped when they come again.
        flow: how much to fetch ahead.
        positions: tell what comes again though it was settled.
        arrived: called with each list and its bytes, on this thread.
        full: whether nothing more should be read now.
        changed: called when `trouble` changes, on this thread.
        retries: whether it reads retry channels.
        standby: whether to wait quietly while another process has the subscription for itself.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: PulsarConnection,
        subscribe: Subscribe,
        what: str,
        *,
        origin_of: Callable[[str], PulsarOrigin],
        only_topic: str | None = None,
        known: dict[Place, Any],
        flow: Flow,
        positions: Positions,
        arrived: Callable[[list[Delivery], int], None],
        full: Callable[[], bool],
        changed: Callable[[], None],
        retries: bool = False,
        standby: bool = False,
    ) -> None:
        self.retries = retries
        self.trouble: DriverError | None = None
        self.room = threading.Event()
        """Set by whoever takes from what has arrived."""
        self._connection = connection
        self._subscribe = subscribe
        self.what = what
        self._acknowledgements = BatchAcks()
        self._reading = Reading(origin_of, known, self, self._acknowledgements, only_topic)
        self._known = known
        self._flow = flow
        self._positions = positions
        self._floors = positions.floors
        self._drain_at = self._rest_s = self._empty_since = 0.0
        self._arrived = arrived
        self._full = full
        self._changed = changed
        self._standby = standby
        self._consumer: Any = None
        self._dropping = threading.Lock()
        self._generation = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hexa-pulsar-read", daemon=True)
        self._busy = False
        self._streak = 0
        self._worth = STREAK[0]
        self._last = 0.0

    # -- from any thread

    def begin(self) -> None:
        """Subscribe and start to read; blocks.

        Raises:
            DriverError: the subscription cannot be had.
        """
        self._consumer = self._connect()
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether acknowledgements reach a broker, as far as can be known."""
        consumer = self._consumer
        return consumer is not None and self._connection.trouble is None and bool(consumer.is_connected())

    def acknowledge(self, settled: Sequence[tuple[Place, Token]]) -> None:
        """Acknowledge messages, soon."""
        self._send(self._acknowledgements.add(settled))

    def _send(self, message_ids: Sequence[Any]) -> None:
        consumer = self._consumer
        if consumer is None or not message_ids:
            return
        acknowledge = raw_consumer(consumer).acknowledge
        with suppress(pulsar.PulsarException):  # the consumer was closed just now: they come again, as after a crash
            for message_id in message_ids:
                acknowledge(message_id)

    def close(self) -> None:
        """Send acknowledgements off, give back the rest and end; blocks, but not for long. Idempotent."""
        self._ending.set()
        self.room.set()
        self._send(self._acknowledgements.overdue(everything=True))
        self._drop_consumer()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def abandon(self) -> None:
        """End without a word to the broker: for tests."""
        self._ending.set()
        self.room.set()
        self._consumer = None

    # -- the thread

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                if self._consumer is None:
                    self._consumer = self._connect()
                    self._set_trouble(None)
                if self._consumer is not None:
                    self._read_on(self._consumer)
                else:
                    self._ending.wait(STANDBY_S)
            except DriverError as error:  # it has worked: what is refused now is waited for, too
                self._set_trouble(DriverUnavailable(str(error)))
                self._drop_consumer()
                self._ending.wait(RETRY_S)
            except Exception as error:
                log.exception("pulsar: reading %s failed; it goes on", self.what)
                self._set_trouble(DriverUnavailable(f"pulsar: reading {self.what} failed: {type(error).__name__}"))
                self._drop_consumer()
                self._ending.wait(RETRY_S)
        self._drop_consumer()  # it may have been made while this was being closed

    def _connect(self) -> Any:
        """A new consumer; None while another process has the subscription for itself and that is in order."""
        self._connection.require()
        self._generation = self._connection.generation
        try:
            self._flow.adapt()
            self._drain_at = self._rest_s = 0.0
            consumer = self._subscribe(self._connection.client, self._flow.queue)
        except pulsar.PulsarException as error:
            if self._standby and name_of(error) == "ConsumerBusy":
                return None
            raise translate(error, f"subscribe to {self.what}") from error
        return consumer

    def _drop_consumer(self) -> None:
        """Close it, once: this thread and who closes the source may meet here, and the library bears no second time."""
        with self._dropping:
            consumer, self._consumer = self._consumer, None
        if consumer is not None:
            _close(consumer)

    def _set_trouble(self, trouble: DriverError | None) -> None:
        if trouble is not self.trouble:
            self.trouble = trouble
            self._changed()

    def _read_on(self, consumer: Any) -> None:
        """Read until the end, or until this consumer is of no use any more."""
        lost_since: float | None = None
        while not self._ending.is_set():
            replaced = self._consumer is not consumer or self._generation != self._connection.generation
            if replaced or self._drained():
                self._drop_consumer()
                return
            if self.connected:
                self._send(self._acknowledgements.overdue())
            if self._pauses():
                self.room.clear()
                if self._pauses():
                    self.room.wait(WAIT_MS / 1000)
                lost_since = self._look_after(consumer, lost_since)  # or what is in hand could never be settled
                continue
            try:
                messages = self._receive(raw_consumer(consumer))
            except pulsar.PulsarException as error:
                if self._ending.is_set():
                    return
                raise DriverUnavailable(str(translate(error, f"read {self.what}"))) from error
            if messages:
                self._hand_over(messages)
                if lost_since is None and self.trouble is None:
                    continue
            lost_since = self._look_after(consumer, lost_since)

    def _receive(self, consumer: Any) -> Sequence[Any]:
        if self._busy:
            messages: Sequence[Any] = consumer.batch_receive()
            if len(messages) < FEW:
                self._busy = False
                self._streak = 0
                self._worth = min(self._worth * 2, STREAK[1])
            else:
                self._worth = STREAK[0]
            return messages
        try:
            message = consumer.receive(WAIT_MS)
        except pulsar.Timeout:
            self._streak = 0
            self._worth = STREAK[0]
            return ()
        now = monotonic()
        self._streak = self._streak + 1 if now - self._last < GAP_S else 0
        self._last = now
        if self._streak >= self._worth:
            self._busy = True
        return (message,)

    def _hand_over(self, messages: Sequence[Any]) -> None:
        fresh = self._reading.read(messages)
        if fresh and fresh[0].offset <= self._floors.get(fresh[0].source, -1):
            try:
                fresh = self._without_settled(fresh)
            except BaseException:  # they come again, and must not be taken for what is in flight
                for one in fresh:
                    self._known.pop((one.source, one.offset), None)
                raise
        if fresh:
            size = sum([len(one.payload) for one in fresh])
            self._flow.saw(len(fresh), size)
            self._arrived(fresh, size)

    def _without_settled(self, fresh: list[Delivery]) -> list[Delivery]:
        """What has not been settled before, of what comes again; then with a consumer that has fetched none of it."""
        source, floor = fresh[0].source, self._floors[fresh[0].source]
        if not self._positions.were_settled(source):
            return fresh
        rest = [one for one in fresh if one.source != source or one.offset > floor]
        for one in fresh:
            if one.source == source and one.offset <= floor:
                self._known.pop((source, one.offset), None)
        self._drop_consumer()
        return rest

    def _pauses(self) -> bool:
        return self._full() or self._drains()

    def _drains(self) -> bool:
        """Whether nothing is read until nothing is in hand, because too much is fetched ahead."""
        if not self._flow.too_much:
            return False
        now = monotonic()
        if now >= self._drain_at + DRAIN_S:
            self._drain_at = now + self._rest_s
            self._rest_s = 2 * self._rest_s or REST_S
        return now >= self._drain_at

    def _drained(self) -> bool:
        """Whether this consumer can be made anew: what is in hand would go to other processes."""
        if not self._drains() or self in list(self._known.values()):
            self._empty_since = 0.0
            return False
        now = monotonic()
        self._empty_since = self._empty_since or now
        if now - self._empty_since < SETTLED_S:
            return False
        self._send(self._acknowledgements.overdue(everything=True))
        return True

    def _look_after(self, consumer: Any, lost_since: float | None) -> float | None:
        """Notice a lost connection, and that it is back.

        Raises:
            DriverUnavailable: the consumer has to be made anew.
        """
        trouble = self._connection.trouble
        if trouble is not None:
            self._set_trouble(trouble)
            return None  # a consumer that has not recovered when the broker has gets its time then
        if consumer.is_connected():
            self._set_trouble(None)
            return None
        now = monotonic()
        if lost_since is None:
            return now
        if now - lost_since >= REPLACE_S:
            raise DriverUnavailable(f"pulsar: {self.what}: connection lost")
        if now - lost_since >= SILENT_S and self.trouble is None:
            self._set_trouble(DriverUnavailable(f"pulsar: {self.what}: connection lost"))
        return lost_since


def _close(consumer: Any) -> None:
    try:
        consumer.close()
    except pulsar.PulsarException:
        return  # closed already, or its broker is gone
