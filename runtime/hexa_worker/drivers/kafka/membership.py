"""A consumer's membership in its group: who we are, whether we still are, committing as nobody else.

aiokafka's public `commit` waits indefinitely, and after a stall it may commit with a generation that is no longer
the one our work was done in (broker-side that moves a group's progress back): here the commit carries the generation
and member of the assignment, so that a broker refuses it once they are history.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    IllegalGenerationError,
    KafkaError,
    NoError,
    NotCoordinatorError,
    OffsetMetadataTooLargeError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import OffsetAndMetadata

from hexa_worker.drivers.kafka.client_internals import (
    arrivals,
    client_of,
    close_connections,
    coordinator_of,
    coordinator_sender,
    end_at_once,
    hold_fetches,
    replace_heartbeat,
)
from hexa_worker.drivers.kafka.connection import bounded
from hexa_worker.drivers.kafka.errors import driver_error
from hexa_worker.drivers.kafka.progress import Book
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.errors import DriverUnavailable, LeaseLost

Identity = tuple[int, str]
"""Generation and member id. Both matter: two processes with one instance id keep the generation."""

_HISTORY = (IllegalGenerationError, UnknownMemberIdError, RebalanceInProgressError)
_MOVED = (CoordinatorNotAvailableError, NotCoordinatorError)


class NoteTooLong(DriverUnavailable):
    """A commit without its note, or with a shorter one, may do."""


class Membership:
    """One started consumer's place in its group.

    Args:
        consumer: started, not yet subscribed.
        group: the group's name.

    Attributes:
        arrival: makes a future that is done when a fetch has brought records, or the coordinator an error.
        answered_at: when the group's coordinator last confirmed the membership (monotonic seconds).
        fetched_at: when a broker last answered a fetch.
        doubtful: a fetch failed since this was last cleared: the topics may be others than they were.
    """

    def __init__(self, consumer: AIOKafkaConsumer, group: str) -> None:
        self._consumer = consumer
        self._group = group
        self._coordinator = coordinator_of(consumer)
        self._ask = coordinator_sender(consumer)
        self.arrival = arrivals(consumer)
        self.answered_at = self.fetched_at = time.monotonic()
        self.doubtful = False
        self._muted_until = 0.0
        self._heartbeat = replace_heartbeat(consumer, self._noted_heartbeat)
        client = client_of(consumer)
        self._send = client.send
        client.send = self._noted_send

    def mute(self, seconds: float) -> None:
        """Send no heartbeats for so long, as a frozen process does."""
        self._muted_until = time.monotonic() + seconds

    async def _noted_heartbeat(self) -> bool:
        if self._muted_until:
            await asyncio.sleep(max(self._muted_until - time.monotonic(), 0))
            self._muted_until = 0.0
        return await self._heartbeat_now()

    async def _heartbeat_now(self) -> bool:
        alive = await self._heartbeat()
        if alive:
            self.answered_at = time.monotonic()
        return alive

    async def _noted_send(self, node: Any, request: Any, **group: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return await self._send(node, request, **group)
        try:
            answer = await self._send(node, request, **group)
        except KafkaError:
            self.doubtful = True
            raise
        self.fetched_at = time.monotonic()
        if any(part[1] for _, parts in answer.topics for part in parts):  # an error code
            self.doubtful = True
        return answer

    @property
    def identity(self) -> Identity:
        """Who we are in the group at this moment."""
        return self._coordinator.generation, self._coordinator.member_id

    async def confirm(self, seconds: float) -> bool:
        """Ask the coordinator whether we are still a member.

        Raises:
            DriverUnavailable: it does not answer.
        """
        before = self.identity
        alive = await bounded(self._heartbeat_now(), seconds, f"asking for the membership in group {self._group}")
        if alive:
            return True
        if self.identity != before:
            return False
        raise DriverUnavailable(f"kafka: the coordinator of group {self._group} does not answer")

    async def committed(
        self, places: Iterable[TopicPartition], seconds: float
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """What the group has committed for partitions, with the notes."""
        doing = f"reading the progress of group {self._group}"
        found: Mapping[TopicPartition, OffsetAndMetadata] = await bounded(
            self._coordinator.fetch_committed_offsets(list(places)), seconds, doing
        )
        return found

    async def books(self, books: TopicIds, topics: Iterable[str], seconds: float) -> Mapping[str, Book]:
        """Which topics these are now; those that do not exist are left out.

        Raises:
            DriverError: it cannot be told.
        """
        # Over the connection to the coordinator: on the others it would wait behind a fetch.
        return await bounded(books.look(self._ask, topics), seconds, "asking for topic ids")

    async def commit(
        self, identity: Identity, points: Mapping[TopicPartition, tuple[int, str]], seconds: float
    ) -> None:
        """Commit as the member that `identity` says, whoever we are by now.

        Raises:
            LeaseLost: the group has moved on; nothing was committed.
            NoteTooLong: the broker takes no note of that length.
            DriverUnavailable: not known.
            DriverRejected: the broker refuses it for good.
        """
        offsets: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for place, (offset, note) in points.items():
            offsets[place.topic].append((place.partition, offset, note))
        generation, member = identity
        request = OffsetCommitRequest(
            self._group, generation, member, OffsetCommitRequest.DEFAULT_RETENTION_TIME, list(offsets.items())
        )
        doing = f"committing the progress of group {self._group}"
        answer = await bounded(self._ask(request), seconds, doing)
        for _, partitions in answer.topics:
            for _, code in partitions:
                self._raise_refusal(for_code(code), doing)

    def _raise_refusal(self, refusal: type[KafkaError], doing: str) -> None:
        if refusal is NoError:
            return
        if refusal in _HISTORY:
            raise LeaseLost(f"kafka: {doing}: the group has been rebalanced")
        if refusal is OffsetMetadataTooLargeError:
            raise NoteTooLong(f"kafka: {doing}: the note is too long")
        if refusal in _MOVED:
            self._coordinator.coordinator_dead()
            raise DriverUnavailable(f"kafka: {doing}: the coordinator has moved")
        raise driver_error(refusal(), doing)

    def join_again(self) -> None:
        """Have the group divide its partitions anew."""
        self._coordinator.request_rejoin()

    def raise_failure(self) -> None:
        """Raise what the coordinator answered to the client's own calls, if that was an error; then they go on.

        Raises:
            DriverRejected: no right to the group, or the group does not take us.
            DriverUnavailable: anything else.
        """
        try:
            self._coordinator.check_errors()
        except KafkaError as error:
            raise driver_error(error, f"joining group {self._group}") from error

    def wait_for_records(self, seconds: float) -> None:
        """Let brokers hold each fetch for so long while there is nothing to answer it with."""
        hold_fetches(self._consumer, seconds)

    def reconnect(self) -> None:
        """Cut connections that may lead nowhere; the client makes new ones and stays the same member."""
        close_connections(client_of(self._consumer))

    def vanish(self) -> None:
        """End everything at once and say goodbye to nobody, as the death of the process would."""
        end_at_once(self._consumer)
