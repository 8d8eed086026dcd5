"""How much a subscription has left to do: from the brokers' statistics, what is in hand here, and the retry channels.

The brokers count entries (batches) where they have not delivered yet, and messages where they have. So "nothing is
left" is exact, and so are the numbers once the messages are at some process; before that they are estimated.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

import msgspec
import pulsar

from hexa_worker.clock import Clock
from hexa_worker.drivers.base import Backlog
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.errors import translate
from hexa_worker.drivers.pulsar.readers import open_reader, unread
from hexa_worker.drivers.pulsar.wire import due_of

SCAN_LIMIT = 20_000
"""Records of retry channels that one look reads at most."""
COUNT_LIMIT = 10_000
"""Entries that the broker is asked to count the messages of."""
OWNER = "hexa-source"
"""The property that tells a source's own consumers in the statistics."""


class InFlight(msgspec.Struct, frozen=True):
    """What a source itself knows of.

    Attributes:
        channels: deliveries of its channels that were handed out.
        retries: deliveries of its retry channels that were handed out.
        queued: deliveries of its channels that wait to be handed out.
        later: how many of these are not due yet.
    """

    channels: int
    retries: int
    queued: int
    later: int = 0

    @property
    def total(self) -> int:
        return self.channels + self.retries


class BacklogPart(msgspec.Struct):
    """What the statistics say of one set of topics.

    Attributes:
        entries: not acknowledged, delivered or not.
        delayed: those of them that the brokers keep until they are due.
        elsewhere: messages that other processes have.
        here: messages that this source has, handed out or not.
        undelivered: messages that no process has, about.
        attached: whether the brokers know of a consumer of this source.
    """

    entries: int = 0
    delayed: int = 0
    elsewhere: int = 0
    here: int = 0
    undelivered: int = 0
    attached: bool = False


class Gauge:
    """Measures one subscription. Blocking; for one thread at a time.

    Args:
        connection: the client.
        admin: the statistics.
        clock: tells what is due.
        subscription: its name in the brokers.
        owner: what this source's consumers have in their property `OWNER`.
        channels: gives the topics of its channels.
        retries: the topics of its retry channels.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: PulsarConnection,
        admin: Admin,
        clock: Clock,
        *,
        subscription: str,
        owner: str,
        channels: Callable[[], Sequence[str]],
        retries: Sequence[str],
    ) -> None:
        self._connection = connection
        self._admin = admin
        self._clock = clock
        self._subscription = subscription
        self._owner = owner
        self._channels = channels
        self._retries = retries
        self._readers: dict[str, Any] = {}
        self._generation = 0
        self._due: list[int] = []

    def measure(self, in_flight: InFlight) -> Backlog:
        """What is left to do.

        Raises:
            DriverError: the admin API does not tell.
        """
        part = self._part(self._channels(), bool(in_flight.channels or in_flight.queued))
        leased = in_flight.channels
        undelivered = max(part.undelivered - part.delayed, 0)
        if not part.attached:  # its connection was lost: what it has in hand counts as nobody's there
            undelivered = max(undelivered - leased - in_flight.queued, 0)
        ready = undelivered + max(part.here - leased, in_flight.queued) - in_flight.later
        if part.entries > part.delayed and not (ready or leased or part.elsewhere or in_flight.later):
            ready = part.entries - part.delayed
        retry = self._part(self._retries, bool(in_flight.retries))
        delayed = min(self._look_at_delays(), retry.entries) if retry.entries else 0
        rest = retry.entries - delayed
        retry_leased = min(rest, in_flight.retries + retry.elsewhere)
        return Backlog(
            ready=ready + rest - retry_leased,
            delayed=delayed + part.delayed + in_flight.later,
            leased=leased + part.elsewhere + retry_leased,
            next_due_ms=self._due[0] if delayed and self._due else None,
        )

    def close(self) -> None:
        for reader in self._readers.values():
            try:
                reader.close()
            except pulsar.PulsarException:
                continue
        self._readers.clear()

    # -- statistics

    def _part(self, topics: Sequence[str], delivered: bool) -> BacklogPart:  # noqa: FBT001 - of its two callers
        """What the statistics say; `delivered`: some of it is here."""
        part = BacklogPart()
        for topic in topics:
            for partition in self._partitions(topic):
                stats = self._admin.topic_stats(partition)
                found = None if stats is None else stats.get("subscriptions", {}).get(self._subscription)
                if found is not None:
                    self._add(part, partition, found, delivered)
        return part

    def _partitions(self, topic: str) -> Sequence[str]:
        try:
            found: Sequence[str] = self._connection.client.get_topic_partitions(topic)
        except pulsar.PulsarException as error:
            raise translate(error, f"look at {topic}") from error
        return found

    def _add(self, part: BacklogPart, topic: str, found: Mapping[str, Any], delivered: bool) -> None:  # noqa: FBT001 - as above
        entries, consumers = int(found.get("msgBacklog", 0)), found.get("consumers") or []
        ours = [one for one in consumers if self._is_ours(one)]
        part.attached = part.attached or bool(ours)
        if not entries:  # exact, while what consumers are said to have may drift
            return
        here = sum(map(_unacked, ours))
        unacked = sum(map(_unacked, consumers))
        part.entries += entries
        part.delayed += min(int(found.get("msgDelayed", 0)), entries)
        part.here += here
        part.elsewhere += unacked - here
        room = any(int(one.get("availablePermits", 0)) > 0 for one in consumers)
        if room and (unacked or delivered):
            return  # whoever has room was given all there is
        part.undelivered += max(self._messages(topic, entries, consumers) - unacked, 0)

    def _is_ours(self, consumer: Mapping[str, Any]) -> bool:
        return (consumer.get("metadata") or {}).get(OWNER) == self._owner

    def _messages(self, topic: str, entries: int, consumers: Sequence[Mapping[str, Any]]) -> int:
        if entries <= COUNT_LIMIT:
            counted = self._admin.messages_in_backlog(topic, self._subscription)
            if counted is not None:
                return max(counted, 1)
        return entries * max([int(one.get("avgMessagesPerEntry", 1)) for one in consumers], default=1)

    # -- retry channels

    def _look_at_delays(self) -> int:
        """How many retry records are not due yet; reads what was added since the last look."""
        if self._generation != self._connection.generation:
            self._generation = self._connection.generation
            self._readers.clear()
            self._due.clear()
        for topic in self._retries:
            for partition in self._partitions(topic):
                self._read_on(partition)
        now_ms = self._clock.now_ms()
        while self._due and self._due[0] <= now_ms:
            heappop(self._due)
        return len(self._due)

    def _read_on(self, topic: str) -> None:
        try:
            reader = self._readers.get(topic)
            if reader is None:
                reader = self._readers[topic] = open_reader(self._connection.client, topic)
            now_ms = self._clock.now_ms()
            for message in islice(unread(reader), SCAN_LIMIT):
                due_ms = due_of(message.properties())
                if due_ms > now_ms:
                    heappush(self._due, due_ms)
        except pulsar.PulsarException as error:
            raise translate(error, f"read {topic}") from error


def _unacked(consumer: Mapping[str, Any]) -> int:
    """What a consumer has in hand; with acknowledgements inside of batches the brokers count too low, even below 0."""
    return max(int(consumer.get("unackedMessages", 0)), 0)
