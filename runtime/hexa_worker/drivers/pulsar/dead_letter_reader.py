"""Dead letters that were not removed: read through a subscription of their own, removed by acknowledging.

A subscription that nobody else uses keeps each letter until it is acknowledged there. One process at a time reads it,
from the oldest on; the end is where a marker comes that was written for that. Reading goes on from page to page for as
long as pages are asked for; afterwards everything is given back. Blocking; for one thread at a time.
"""

import threading
import uuid
from collections import deque
from collections.abc import Collection
from itertools import islice
from time import monotonic
from typing import Any

import pulsar

from hexa_worker.core.message import Delivery
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.errors import translate
from hexa_worker.drivers.pulsar.names import DEAD_LETTER_SUBSCRIPTION
from hexa_worker.drivers.pulsar.wire import MARKER, PulsarOrigin, read_one
from hexa_worker.errors import DriverUnavailable

BUSY_RETRY_S = 0.1
READ_MS = 200
LETTERS = 64
"""So many are fetched ahead, and each may be as large as messages get."""


def keep(client: Any, topic: str, subscription: str = DEAD_LETTER_SUBSCRIPTION) -> Any:
    """A consumer of the letters; from its first time on they are kept. Raises the client library's exceptions."""
    return client.subscribe(
        topic,
        subscription,
        consumer_type=pulsar.ConsumerType.Exclusive,
        initial_position=pulsar.InitialPosition.Earliest,
        batch_index_ack_enabled=True,
        receiver_queue_size=LETTERS,
        crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME,  # see `readers.open_reader`
    )


class DeadLetterReader:
    """The letters of one topic (or partition), from the oldest on.

    Args:
        connection: the client.
        topic: where they are.
        origin: what they have in common.
        patience_s: how long to wait for the broker, or for another command to be done.
    """

    def __init__(self, connection: PulsarConnection, topic: str, origin: PulsarOrigin, patience_s: float) -> None:
        self._connection = connection
        self._topic = topic
        self._origin = origin
        self._patience_s = patience_s
        self._pending: deque[Delivery] = deque()
        self._passed: dict[int, Any] = {}  # not acknowledged either, but before the present page
        self._floor = -1
        self._last = -1
        self._consumer = self._open()
        self._producer: Any = None
        self._markers: dict[str, Any] = {}  # written and not come back yet, with their ids

    def _open(self) -> Any:
        deadline = monotonic() + self._patience_s
        while True:
            try:
                return keep(self._connection.client, self._topic)
            except pulsar.ConsumerBusy as error:
                if monotonic() >= deadline:
                    raise DriverUnavailable(
                        f"pulsar: another process is reading the dead letters of {self._origin.channel}"
                    ) from error
                threading.Event().wait(BUSY_RETRY_S)
            except pulsar.PulsarException as error:
                raise translate(error, f"read the dead letters of {self._origin.channel}") from error

    def covers(self, after: int) -> bool:
        """Whether a page after that offset can still be had."""
        return after >= self._floor

    def page(self, after: int, limit: int) -> list[Delivery]:
        """The first `limit` letters with offsets above `after`."""

        def enough() -> bool:
            self._pass(after)
            return len(self._pending) >= limit

        self._read_until(enough)
        self._pass(after)
        return list(islice(self._pending, limit))

    def _pass(self, after: int) -> None:
        """Put aside the letters that come before the page."""
        while self._pending and self._pending[0].offset <= after:
            passed = self._pending.popleft()
            self._passed[passed.offset] = passed.token
            self._floor = passed.offset

    def remove(self, offsets: Collection[int]) -> int:
        """Acknowledge letters; how many were there."""
        wanted = set(offsets)
        highest = max(wanted, default=-1)
        self._read_until(lambda: self._last >= highest)
        gone: list[Any] = [self._passed.pop(offset) for offset in wanted & self._passed.keys()]
        gone += [one.token for one in self._pending if one.offset in wanted]
        self._pending = deque(one for one in self._pending if one.offset not in wanted)
        try:
            for token in gone:
                self._consumer.acknowledge(token)
        except pulsar.PulsarException as error:
            raise translate(error, f"remove dead letters of {self._origin.channel}") from error
        return len(gone)

    def _read_until(self, enough: Any) -> None:
        """Read until `enough()`, or the end."""
        marker: str | None = None
        deadline = monotonic() + self._patience_s
        try:
            while not enough():
                if marker is None:
                    marker = self._write_marker()
                try:
                    message = self._consumer.receive(READ_MS)
                except pulsar.Timeout:
                    if monotonic() > deadline:
                        raise
                    continue
                deadline = monotonic() + self._patience_s
                found = message.properties().get(MARKER)
                if found is None and message.encryption_context() is not None:
                    continue  # no letter of ours: it stays for whoever has its key
                if found is None:
                    self._take(read_one(message, self._origin))
                    continue
                self._consumer.acknowledge(message)  # whoever wrote it
                self._markers.pop(found, None)
                if found == marker:
                    return
        except pulsar.PulsarException as error:
            raise translate(error, f"read the dead letters of {self._origin.channel}") from error

    def _take(self, letter: Delivery) -> None:
        if letter.offset > self._last:  # after a lost connection everything comes again
            self._last = letter.offset
            self._pending.append(letter)

    def _write_marker(self) -> str:
        if self._producer is None:
            self._producer = self._connection.client.create_producer(
                self._topic, batching_enabled=False, send_timeout_millis=max(round(self._patience_s * 1000), 1)
            )
        marker = uuid.uuid4().hex
        self._markers[marker] = self._producer.send(b"", properties={MARKER: marker})
        return marker

    def close(self) -> None:
        """Give back what was not removed; removals are sent off, and so is a marker that was not reached."""
        for marker in self._markers.values():
            try:
                self._consumer.acknowledge(marker)
            except pulsar.PulsarException:
                continue
        for one in (self._producer, self._consumer):
            try:
                if one is not None:
                    one.close()
            except pulsar.PulsarException:
                continue
