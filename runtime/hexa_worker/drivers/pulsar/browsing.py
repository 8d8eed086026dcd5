"""Looking at channels without consuming them, and removing dead letters. Blocking; for threads."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import islice
from time import monotonic, sleep
from typing import Any

import pulsar

from hexa_worker.core.channels import is_dead_letter_channel, parse
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.client_internals import new_id
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.dead_letter_reader import DeadLetterReader
from hexa_worker.drivers.pulsar.errors import translate
from hexa_worker.drivers.pulsar.names import place_of, whole_topic
from hexa_worker.drivers.pulsar.readers import FETCHED, READ_MS, open_reader, unread
from hexa_worker.drivers.pulsar.wire import PulsarOrigin, read_one
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

IDLE_S = 0.5
"""Dead letters are released, for other commands, when nothing was asked for so long."""
LEAST_PATIENCE_S = 5.0
AGAIN_S = 0.1
"""Between two tries to read a topic."""


class PulsarBrowser:
    """Browses and removes.

    Args:
        connection: the client.
        admin: tells whether a topic exists.
        timeout_s: how long the broker may take.
    """

    def __init__(self, connection: PulsarConnection, admin: Admin, timeout_s: float) -> None:
        self._connection = connection
        self._admin = admin
        self._patience_s = max(timeout_s, LEAST_PATIENCE_S)
        self._letters: dict[str, DeadLetterReader] = {}
        self._generation = 0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def browse(self, channel: str, after: int, limit: int, since_ms: int) -> list[Delivery]:
        """Up to `limit` records of a channel with offsets above `after`; of dead letters the older ones, too.

        Raises:
            DriverError: the broker does not let.
        """
        topic = self._connection.topics.topic(channel)
        if limit <= 0 or not self._exists(topic):
            return []
        if not is_dead_letter_channel(channel):
            pages = [self._read(one, after, limit, since_ms) for one in self._partitions(topic)]
        else:
            with self._lock, self._closed_later():
                pages = [self._letters_of(one, after).page(after, limit) for one in self._partitions(topic)]
        return list(islice(merge(*pages, key=lambda one: one.offset), limit))

    def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """Remove dead letters; how many were there.

        Raises:
            DriverError: the broker does not let.
        """
        topic = self._connection.topics.topic(channel)
        if not is_dead_letter_channel(channel):
            raise_unless_missing = self._exists(topic)
            if raise_unless_missing:
                raise DriverRejected(f"pulsar: {channel!r} is no dead-letter channel: nothing can be removed from it")
            return 0
        if not offsets or not self._exists(topic):
            return 0
        with self._lock, self._closed_later():
            return sum(self._letters_of(one, -2).remove(offsets) for one in self._partitions(topic))

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._close_letters()

    def _exists(self, topic: str) -> bool:
        """Whether a topic is there; looking at it in any other way would make it."""
        try:
            return self._admin.topic_stats(topic) is not None or len(self._partitions(topic)) > 1
        except DriverError:
            self._connection.require()
            return True

    def _partitions(self, topic: str) -> Sequence[str]:
        try:
            found: Sequence[str] = self._connection.client.get_topic_partitions(topic)
        except pulsar.PulsarException as error:
            raise translate(error, f"look at {topic}") from error
        return found

    def _origin(self, topic: str) -> PulsarOrigin:
        topics = self._connection.topics
        channel = topics.channel(topic)
        rung = parse(channel)
        return PulsarOrigin(topics.source(topic), channel, 0 if rung is None else rung.number)

    # -- dead letters

    def _letters_of(self, topic: str, after: int) -> DeadLetterReader:
        """The open letters of a topic; begun anew unless a page after `after` can be had (-2: any will do)."""
        if self._generation != self._connection.generation:
            self._generation = self._connection.generation
            self._letters.clear()
        letters = self._letters.get(topic)
        if letters is not None and after > -2 and not letters.covers(after):  # noqa: PLR2004 - see above
            self._letters.pop(topic).close()
            letters = None
        if letters is None:
            letters = DeadLetterReader(self._connection, topic, self._origin(topic), self._patience_s)
            self._letters[topic] = letters
        return letters

    @contextmanager
    def _closed_later(self) -> Iterator[None]:
        """What is open afterwards is closed when nothing is asked for any more; also what cannot be read."""
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(IDLE_S, self._close_idle)
            self._timer.daemon = True
            self._timer.start()

    def _close_idle(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._close_letters()

    def _close_letters(self) -> None:
        while self._letters:
            self._letters.popitem()[1].close()

    # -- any other channel

    def _read(self, topic: str, after: int, limit: int, since_ms: int) -> list[Delivery]:
        """Records of one topic or partition, read without a subscription, again where that passes by itself."""
        until = monotonic() + READ_MS / 1000
        while True:
            try:
                return self._read_once(topic, after, limit, since_ms)
            except DriverUnavailable:
                if monotonic() + AGAIN_S > until:
                    raise
                sleep(AGAIN_S)  # a broker that loads a topic, or lets the cursor of another reader go, refuses at once

    def _read_once(self, topic: str, after: int, limit: int, since_ms: int) -> list[Delivery]:
        """What was read before a failure counts."""
        origin = self._origin(topic)
        found: list[Delivery] = []
        try:
            start = _start(topic, after)
            reader = open_reader(self._connection.client, topic, start, fetched=min(limit, FETCHED))
            try:
                if start is pulsar.MessageId.earliest and since_ms:
                    reader.seek(since_ms)
                records = (read_one(message, origin) for message in unread(reader))
                found.extend(islice((record for record in records if record.offset > after), limit))
            finally:
                reader.close()
        except pulsar.PulsarException as error:
            if found and not _is_partition(topic):
                return found  # who asks for more hears of it
            raise translate(error, f"read {origin.channel}") from error
        return found


def _is_partition(topic: str) -> bool:
    return whole_topic(topic) != topic


def _start(topic: str, after: int) -> Any:
    """Where to begin. Only a whole topic surely has the ledger of `after`; partitions have ledgers of their own."""
    if after < 0 or _is_partition(topic):
        return pulsar.MessageId.earliest
    return new_id(-1, *place_of(after))
