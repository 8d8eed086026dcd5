"""A consumer in its group: started, subscribed, told what it gains and loses, watched, committed.

aiokafka's group protocol is eager: at every rebalance each member gives up everything first. What can be
finished within the rebalance timeout is finished and committed; the rest is dropped and comes again, to us or
to others.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from hexa_worker.config.kafka import Kafka, KafkaSubscription
from hexa_worker.drivers.base import Revoked, SubscriptionSpec
from hexa_worker.drivers.kafka.assignment import Assignment, Found, Origins
from hexa_worker.drivers.kafka.client_internals import client_of, dead_task, subscription_of
from hexa_worker.drivers.kafka.connection import KafkaConnection, bounded, stop_client
from hexa_worker.drivers.kafka.membership import Identity, Membership, NoteTooLong
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, LeaseLost

log = logging.getLogger("hexa_worker.kafka")
ASSIGNORS = (RoundRobinPartitionAssignor, RangePartitionAssignor)
"""Ways to divide partitions among members, the preferred one first; range is what most other clients offer."""
COMMIT_S = 3.0
"""How long a commit may take; one that takes longer is tried again with more in it."""
SILENCE_S = 5.0
"""A coordinator or a fetch that does not answer for so long gets new connections."""
QUIET_FACTOR = 4
"""So much longer than usual the brokers hold a fetch while nothing comes."""
LAST_COMMIT_S = 1.5
"""How long the commit may take with which a source ends."""
AGAIN_S = 0.05
"""Between two tries of what the coordinator did not do."""
KICKED_OUT_S = 0.5
"""How long a member that lost its place waits for the worker to notice."""
LOOK_S = 0.01
"""At most once in so many seconds for each topic it is looked whether topics are still the same."""
DOUBT_S = 1.0
"""How long that may take when records wait for it."""
SLOT_VARIABLE = "HEXA_WORKER_SLOT"


class GroupConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """One process's part in a subscription's group, for as long as one client lives.

    Args:
        connection: settings.
        spec: the subscription.
        options: its own options.
        books: which topics there are.
        origins: where partitions without progress begin, if not at their first record.
        revoked: the worker's part of giving up partitions.
        cleared: called when partitions come or go: whatever is queued of the old ones is stale.

    Attributes:
        reassigning: between giving up and getting.
        settled: set while not reassigning.
        consumer: aiokafka's.
        client: what that talks to brokers with.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: KafkaConnection,
        spec: SubscriptionSpec,
        options: KafkaSubscription,
        books: TopicIds,
        origins: Origins,
        revoked: Revoked,
        cleared: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._broker: Kafka = connection.options
        self._spec = spec
        self._books = books
        self._assignment = Assignment(spec, books, origins)
        self._looked_at = 0.0
        self._revoked = revoked
        self._cleared = cleared
        self.reassigning = True
        self.settled = asyncio.Event()  # not reassigning
        self._identity: Identity = (-1, "")
        self._closing = asyncio.Event()
        self._given_up = asyncio.Event()  # no partitions are being given up
        self._given_up.set()
        self._reassigning_since = time.monotonic()
        self._reconnected_at = time.monotonic()
        self.consumer = AIOKafkaConsumer(
            **connection.settings(request_timeout_s=max(connection.timeout_s, self._broker.rebalance_timeout_s + 3)),
            group_id=spec.group,
            group_instance_id=instance_id(self._broker.instance_id),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=options.isolation_level,
            fetch_max_wait_ms=round(options.fetch_max_wait_s * 1000),
            max_partition_fetch_bytes=options.fetch_partition_bytes,
            session_timeout_ms=round(self._broker.session_timeout_s * 1000),
            heartbeat_interval_ms=round(self._broker.heartbeat_s * 1000),
            rebalance_timeout_ms=round(self._broker.rebalance_timeout_s * 1000),
            consumer_timeout_ms=2_000,  # how often the fetcher looks around with nothing to do
            max_poll_interval_ms=2**31 - 1,  # aiokafka's own count of it can stick; ours is the watchdog's
            partition_assignment_strategy=ASSIGNORS,
        )
        self.client = client_of(self.consumer)
        self._subscription = subscription_of(self.consumer)
        self._membership: Membership | None = None
        self._fetch_wait_s = options.fetch_max_wait_s
        self._quiet = False

    async def start(self) -> None:
        """Connect and begin to join; partitions come later.

        Raises:
            DriverUnavailable, DriverRejected: it cannot connect.
        """
        try:
            await self._connection.start(self.consumer.start, self.client)
        except BaseException:
            await stop_client(self.consumer.stop, self.client)
            raise
        self._membership = Membership(self.consumer, self._spec.group)
        if self._spec.pattern is None:
            self.consumer.subscribe([*self._spec.channels, *self._spec.retry_channels], listener=self)
        else:
            self.consumer.subscribe(pattern=topic_pattern(self._spec), listener=self)

    @property
    def partitions(self) -> Mapping[TopicPartition, Partition]:
        return self._assignment.partitions

    # -- what aiokafka tells

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Everything goes: finish what fits into the rebalance timeout, commit, drop the rest."""
        del revoked  # always all of them
        if not self.reassigning:
            self._reassigning_since = time.monotonic()
        self.reassigning = True
        self.settled.clear()
        self._cleared()
        self._given_up.clear()
        try:
            await self._give_up()
        finally:
            self._given_up.set()

    async def _give_up(self) -> None:
        if not self.partitions:
            return
        member = self.still_member()
        budget = self._broker.rebalance_timeout_s
        sources = frozenset(partition.source for partition in self.partitions.values())
        await self._hand_over(sources, 0.75 * budget if member else KICKED_OUT_S)
        await self._commit_last(0.2 * budget)
        self._assignment.drop()

    async def _hand_over(self, sources: frozenset[str], seconds: float) -> None:
        """Let the worker finish what it has in hand, as far as time allows."""
        handing = asyncio.ensure_future(self._revoked(sources))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({handing, closing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            handing.cancel()
        if handing.done() and not handing.cancelled() and handing.exception() is not None:
            log.error("group %s: giving up partitions failed", self._spec.group, exc_info=handing.exception())

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """These are ours: go on where the group was, without what is finished beyond.

        Where that cannot be read nothing is ours yet: a guess might skip records. The next join asks again.
        """
        membership = self._member()
        places = list(assigned)
        identity = membership.identity
        try:
            found, committed = await self._read_progress(membership, places)
        except DriverError as error:
            log.warning("group %s: its progress cannot be read, joining again: %s", self._spec.group, error)
            await asyncio.sleep(KICKED_OUT_S)
            membership.join_again()
            return
        self._seek(self._assignment.begin(places, committed, found))
        self._identity = identity
        self.reassigning = False
        membership.answered_at = membership.fetched_at = time.monotonic()
        self.settled.set()
        self._cleared()

    async def _read_progress(
        self, membership: Membership, places: Sequence[TopicPartition]
    ) -> tuple[Found, Mapping[TopicPartition, OffsetAndMetadata]]:
        """Which topics these are and what is committed for them, asked while a member may keep its silence."""
        deadline = time.monotonic() + self._broker.session_timeout_s / 2
        while True:
            left_s = max(deadline - time.monotonic(), AGAIN_S)
            try:
                found = await membership.books(self._books, {place.topic for place in places}, left_s)
                return found, await membership.committed(places, left_s)
            except DriverUnavailable:
                if self._closing.is_set() or time.monotonic() + AGAIN_S > deadline:
                    raise
            await asyncio.sleep(AGAIN_S)

    @property
    def fetchable(self) -> bool:
        """Whether records may be fetched now, without waiting for a rebalance.

        aiokafka's own mark comes before it tells of a rebalance, when a pattern's topics change.
        """
        return not (self.reassigning or self._subscription.reassignment_in_progress)

    def arrival(self) -> "asyncio.Future[None]":
        """A future that is done when records have come, or the client has something to say. Cancel it after use."""
        return self._member().arrival()

    def note_records(self, *, came: bool) -> None:
        """Fetch seldom while nothing comes.

        A fetch is answered as soon as there is a record, so this delays none; but a fetch under way leaves out
        partitions whose records were still in our hands, so while records come it must not take long.
        """
        if self._quiet is came:
            self._quiet = not came
            self._member().wait_for_records(self._fetch_wait_s * (1 if came else QUIET_FACTOR))

    # -- membership

    def _member(self) -> Membership:
        if self._membership is None:
            raise DriverUnavailable("kafka: the consumer has not started")
        return self._membership

    def still_member(self) -> bool:
        """Whether, as far as we know, the group still counts us in as it did at the assignment."""
        return self._membership is not None and self._membership.identity == self._identity

    def _seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        assigned = self._subscription.is_assigned  # for a moment nothing is, when a pattern's topics change
        for place, offset in offsets.items():
            if assigned(place):
                self.consumer.seek(place, offset)

    async def look(self, seconds: float) -> None:
        """Begin anew with what was deleted and made again, unless that was looked at just now.

        Raises:
            DriverError: nobody knows.
        """
        membership, topics = self._member(), {place.topic for place in self.partitions}
        if not membership.doubtful and time.monotonic() - self._looked_at < LOOK_S * len(topics):
            return
        membership.doubtful = False
        try:
            found = await membership.books(self._books, topics, seconds)
        except DriverError:
            membership.doubtful = True
            raise
        self._looked_at = time.monotonic()
        offsets = self._assignment.verify(found)
        if not self.reassigning:
            self._seek(offsets)

    async def sure(self) -> bool:
        """Whether what is fetched is known to be of the topics that we began with: after an error it may not be."""
        if self._member().doubtful:
            try:
                await self.look(DOUBT_S)
            except DriverError as error:
                log.debug("%s", error)
                return False
        return True

    def lose(self) -> None:
        """The group has gone on without us: nothing that we have in hand is ours any more."""
        self._assignment.drop()
        self._cleared()

    async def confirm(self) -> None:
        """Make sure that what we have in hand is still ours, where there is doubt.

        Raises:
            DriverUnavailable: the doubt remains.
        """
        if not self.partitions:
            return
        if not self.still_member():
            self.lose()
            return
        membership = self._member()
        if time.monotonic() - membership.answered_at < 0.8 * self._broker.session_timeout_s:
            return
        if not await membership.confirm(self._connection.timeout_s):
            self.lose()

    def check(self, *, waiting: bool) -> None:
        """Notice a broker that is away, and parts of the client that are dead or stuck.

        Args:
            waiting: we wait for records, so fetches should be answered.

        Raises:
            DriverRejected: the group does not take us.
            DriverUnavailable: the group's coordinator is silent.
            BrokenClient: this client will never come back.
        """
        membership, now = self._member(), time.monotonic()
        dead = dead_task(self.consumer)
        if dead is not None:
            raise BrokenClient(f"kafka: the client's {dead} has died")
        membership.raise_failure()
        silent = now - membership.answered_at
        if self.reassigning:
            patience = self._broker.rebalance_timeout_s + self._broker.session_timeout_s
            silent = now - self._reassigning_since
        else:
            patience = max(3 * self._broker.heartbeat_s, 2.0)
        patience_s = SILENCE_S + QUIET_FACTOR * self._fetch_wait_s
        stuck = waiting and bool(self.partitions) and now - membership.fetched_at > patience_s
        if (silent > max(SILENCE_S, patience) or stuck) and now - self._reconnected_at > SILENCE_S:
            self._reconnected_at = now
            membership.reconnect()
        if silent > patience:
            group = self._spec.group
            raise DriverUnavailable(f"kafka: no word from the coordinator of group {group} for {silent:.0f} s")

    async def commit(self, seconds: float = COMMIT_S) -> None:
        """Commit what has changed.

        Raises:
            DriverError: nothing is known to be committed.
        """
        identity = self._identity
        deadline = time.monotonic() + seconds
        await self.look(seconds)
        points = self._assignment.commit_points()
        while points:
            at = {place: point for place, (_, point) in points.items()}
            try:
                await self._member().commit(identity, at, max(deadline - time.monotonic(), 0.1))
            except NoteTooLong:
                if not self._books.shorten_notes():
                    raise
                points = self._assignment.commit_points()
                continue
            except LeaseLost:
                if self._identity == identity and not self.reassigning:
                    self.lose()
                raise
            for partition, point in points.values():
                partition.committed(point)
            return

    async def _commit_last(self, seconds: float) -> None:
        """Commit what is given up then, again and again while time allows; where that fails, say so."""
        if not self.partitions:
            return
        deadline = time.monotonic() + seconds
        while True:
            try:
                await self.commit(max(deadline - time.monotonic(), 0.1))
            except DriverError as error:
                if isinstance(error, DriverUnavailable) and time.monotonic() + AGAIN_S < deadline:
                    await asyncio.sleep(AGAIN_S)
                    continue
                if isinstance(error, LeaseLost) or self._assignment.commit_points():
                    log.warning("group %s: the last commit failed, some work runs again: %s", self._spec.group, error)
            return

    def skip_gaps(self) -> None:
        """Move past what will never be delivered: transaction markers, compacted records."""
        assignment = self._subscription.subscription.assignment if not self.reassigning else None
        if assignment is None:
            return
        for place in list(self.partitions):
            state = assignment.state_value(place)
            if state is None or not state.has_valid_position:
                continue
            partition = self.reach(place, state.position)
            if partition is not None and not partition.outstanding:
                partition.skip_to(state.position)

    def reach(self, place: TopicPartition, offset: int) -> Partition | None:
        """The partition whose next record is at `offset`; None: it is not ours."""
        return self._assignment.reach(place, offset)

    async def close(self) -> None:
        """Commit and leave. Never raises for a dead broker, takes a few seconds at most. Idempotent."""
        self._closing.set()
        if self._membership is None:
            return
        deadline = time.monotonic() + LAST_COMMIT_S
        with contextlib.suppress(TimeoutError):  # partitions that are just being given up are committed there
            await asyncio.wait_for(self._given_up.wait(), LAST_COMMIT_S)
        self.skip_gaps()
        await self._commit_last(deadline - time.monotonic())
        self._assignment.drop()
        try:
            await bounded(self.consumer.stop(), 2.0, "leaving the group")
        except DriverError as error:
            log.debug("%s", error)
            self._membership.vanish()

    def mute(self, seconds: float) -> None:
        """Say nothing to the group for so long, as a frozen process does."""
        self._member().mute(seconds)

    def vanish(self) -> None:
        """Die without a goodbye, as ``kill -9`` does."""
        if self._membership is not None:
            self._membership.vanish()


class BrokenClient(DriverUnavailable):
    """The client must be replaced by a new one."""


def instance_id(template: str | None) -> str | None:
    """The static member id of this process; None: a dynamic member."""
    if template is None:
        return None
    values = {"slot": os.environ.get(SLOT_VARIABLE, "0"), "host": socket.gethostname(), "pid": str(os.getpid())}
    try:
        return template.format_map(values)
    except (KeyError, ValueError, IndexError) as error:
        known = "{slot}, {host} and {pid}"
        raise DriverRejected(f"kafka: broker.instance_id {template!r}: only {known} are filled in") from error


def topic_pattern(spec: SubscriptionSpec) -> str:
    """The pattern of a subscription and its retry topics for aiokafka, which matches prefixes.

    The subscription's own dead letters, and the marks of those that were removed, never match.
    """
    pattern = spec.pattern or ""
    flags = re.match(r"\(\?([aiLmsux]+)\)", pattern)
    body = f"(?{flags[1]}:{pattern[flags.end() :]})" if flags else f"(?:{pattern})"
    retries = "|".join(map(re.escape, spec.retry_channels))
    dead = re.escape(spec.dead_letter_channel)
    return rf"(?!{dead}\Z|.*\.dlq\.removed\Z)(?:{body}|{retries})\Z"
