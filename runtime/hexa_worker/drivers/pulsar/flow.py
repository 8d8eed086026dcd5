"""How many messages a consumer fetches ahead, so that what is fetched takes no more than so many bytes.

The client library counts messages only, and a consumer keeps the number that it was made with. So it is guessed from
what the brokers know of a topic, and a consumer whose messages turn out to be larger is made anew, once its process
has nothing of it in hand.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pulsar

from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.client_internals import NEVER, size_of
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.readers import open_reader, unread
from hexa_worker.errors import DriverError

EXPECTED_BYTES = 32 * 1024
"""What a message may have where nothing is known."""
SEEN = 8
"""So many messages say how large they are."""
TOPICS = 20
"""So many topics are asked about."""


class Flow:
    """For one consumer.

    Args:
        most: messages that one topic may have fetched ahead.
        share: bytes that one topic may have fetched ahead, about.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most = most
        self._share = share
        self.queue = self._fitting(EXPECTED_BYTES)
        """How many messages of each topic to fetch ahead."""
        self.too_much = False
        """Whether what is fetched ahead takes more than twice what it should."""
        self._count = 0
        self._bytes = 0

    def _fitting(self, size: float) -> int:
        return max(min(self._most, int(self._share / max(size, 1))), 1)

    def expect(self, size: float) -> None:
        """Messages have about so many bytes; 0: nobody knows."""
        self.queue = self._fitting(size or EXPECTED_BYTES)
        self._count = self._bytes = 0
        self.too_much = False

    def saw(self, count: int, size: int) -> None:
        """So many messages came, with so many bytes together."""
        if self._count >= SEEN << 10:  # what came long ago matters less and less
            self._count >>= 1
            self._bytes >>= 1
        self._count += count
        self._bytes += size
        self.too_much = self._count >= SEEN and self.queue > 2 * self._fitting(self._bytes / self._count)

    def adapt(self) -> None:
        """Fetch ahead what fits, as far as is known."""
        if self._count >= SEEN:
            self.expect(self._bytes / self._count)


def size_in(connection: PulsarConnection, admin: Admin, topics: Sequence[str]) -> float:
    """How many bytes a message of topics has, as far as the brokers know; 0: they do not."""
    largest = 0.0
    with suppress(DriverError, pulsar.PulsarException):  # it is learned from what comes
        for topic in topics[:TOPICS]:
            for name, stats in admin.parts(topic).items():
                largest = max(largest, _size(connection, admin, name, stats))
    return largest


def _size(connection: PulsarConnection, admin: Admin, topic: str, stats: Mapping[str, Any]) -> float:
    """For one topic or partition. Brokers count messages from their own start on, and entries for ever."""
    count = int(stats.get("msgInCounter", 0))
    if count:
        return int(stats.get("bytesInCounter", 0)) / count
    if not int(stats.get("storageSize", 0)):
        return 0.0
    reader = open_reader(connection.client, topic, fetched=1)
    try:
        first = next(unread(reader), None)
        batch = 1 if first is None else size_of(first.message_id())
    finally:
        reader.close()
    return admin.entry_size(topic) / (batch if batch < NEVER else 1)
