"""One subscription's deliveries in one process: receiving, holding retries until they are due, settling."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError

from hexa_worker.clock import Clock
from hexa_worker.config.kafka import KafkaSubscription
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked, Postponed, Released, Settlement, of_suspects
from hexa_worker.drivers.base import Backlog, Revoked, SubscriptionSpec, Unsettled
from hexa_worker.drivers.kafka.assignment import Origins
from hexa_worker.drivers.kafka.connection import KafkaConnection
from hexa_worker.drivers.kafka.consumer import BrokenClient, GroupConsumer
from hexa_worker.drivers.kafka.errors import driver_error
from hexa_worker.drivers.kafka.lag import Lag
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.presence import Presence
from hexa_worker.drivers.kafka.publisher import KafkaPublisher
from hexa_worker.drivers.kafka.records import timed
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.drivers.kafka.unreadable import recover
from hexa_worker.drivers.kit.delay_queue import DelayQueue
from hexa_worker.drivers.kit.settling import WithRecord, store_records
from hexa_worker.errors import DriverError, DriverUnavailable, LeaseLost

log = logging.getLogger("hexa_worker.kafka")
JOIN_S = 3.0
"""How long a new source waits for its first partitions before it is handed out without."""
QUIET_TICKS = 8
"""While nothing is settled, progress is looked at once in so many commit intervals."""
POLL_S = 1.0
"""How long to wait for records before everything else is looked at again."""


class KafkaSource:
    """See `hexa_worker.drivers.base.Source`.

    Args:
        connection: settings.
        spec: the subscription.
        options: its own options.
        books: which topics there are.
        origins: where partitions without progress begin, if not at their first record.
        publisher: stores retry and dead-letter records.
        lag: measures what is left.
        revoked: the worker's part of giving up partitions.
        clock: decides what is due.
        presence: looks whether its topics are there.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: KafkaConnection,
        spec: SubscriptionSpec,
        options: KafkaSubscription,
        books: TopicIds,
        origins: Origins,
        publisher: KafkaPublisher,
        lag: Lag,
        revoked: Revoked,
        clock: Clock,
        presence: Presence,
    ) -> None:
        self._connection = connection
        self._spec = spec
        self._options = options
        self._books = books
        self._origins = origins
        self._publisher = publisher
        self._lag = lag
        self._revoked = revoked
        self._clock = clock
        self._presence = presence
        self.with_later: Callable[[Backlog], Awaitable[Backlog]] | None = None
        """Adds the events for later. Set by whoever makes the source."""
        self._group: GroupConsumer | None = None
        self._joining = asyncio.Lock()
        self._ready: deque[Delivery] = deque()
        self._delayed = DelayQueue(clock)
        self._wake: asyncio.Future[None] | None = None
        self._commits: asyncio.Task[None] | None = None
        self._unsaved = False
        self._held_up = False
        self._stopped = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """It has ended for good."""
        return self._closed

    async def join(self) -> None:
        """Join the group, and wait a little for the first partitions.

        Raises:
            DriverUnavailable, DriverRejected: it cannot connect.
        """
        group = await self._joined()
        with suppress(TimeoutError):
            await asyncio.wait_for(group.settled.wait(), JOIN_S)
        group.check(waiting=False)

    # -- receiving

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Source.receive`. Cancellation: safe; what came is kept for the next call."""
        await asyncio.sleep(0)  # a source that always has something must not starve the loop
        while not self._stopped:
            if self._commits is not None and self._commits.done():
                self._commits.result()  # or nothing would be committed any more, and nobody knew
            group = await self._joined()
            try:
                group.check(waiting=False)
                batch = await self._take(group, max_count, max_bytes)
                if batch:
                    return batch
                await self._presence.look(group.client)
                await self._wait_for_more(group)
                group.check(waiting=True)
            except BrokenClient as error:
                await self._replace(group, error)
        return []

    async def _joined(self) -> GroupConsumer:
        """The present consumer, connected.

        Raises:
            DriverUnavailable, DriverRejected: it cannot connect.
        """
        async with self._joining:
            if self._group is None:
                group = GroupConsumer(
                    self._connection, self._spec, self._options, self._books, self._origins, self._revoked, self._clear
                )
                await group.start()
                if self._closed:
                    await group.close()
                    raise DriverUnavailable(f"kafka: the source of {self._spec.action} is closed")
                self._group = group
                self._commits = asyncio.ensure_future(self._commit_now_and_then(group))
            return self._group

    async def _replace(self, group: GroupConsumer, error: BrokenClient) -> None:
        log.warning("%s; making a new one", error)
        if self._group is group:
            self._group = None
            await self._leave(group)

    async def _take(self, group: GroupConsumer, max_count: int, max_bytes: int) -> list[Delivery]:
        """What can be handed out now; never waits for records."""
        await group.confirm()
        self._ready += self._delayed.take_due()
        if self._ready:
            return self._take_ready(max_count, max_bytes)
        fetched: list[Delivery] = []
        while not fetched and await group.sure() and group.fetchable:
            wanted = self._wanted(group)
            if wanted is None:
                break
            # Without a timeout, and while there is no rebalance, this does not suspend: nothing can come between.
            records = await self._fetch(group, wanted, max_count)
            if not records:
                break
            fetched = self._accept(group, records)
        if sum([len(delivery.payload) for delivery in fetched]) <= max_bytes:
            return fetched
        self._ready.extend(fetched)
        return self._take_ready(max_count, max_bytes)

    def _take_ready(self, max_count: int, max_bytes: int) -> list[Delivery]:
        ready = self._ready
        batch: list[Delivery] = []
        size = 0
        while ready and len(batch) < max_count:
            size += len(ready[0].payload)
            if batch and size > max_bytes:
                break
            batch.append(ready.popleft())
        return batch

    def _wanted(self, group: GroupConsumer) -> tuple[TopicPartition, ...] | None:
        """The partitions to read from; empty stands for all, None for none at all.

        Left out: those that ran far ahead of what is committed, and retry topics while enough of them waits here
        already.
        """
        limit = self._options.max_ahead
        full = self._held_enough(group)
        self._held_up = any(partition.is_ahead(limit) for partition in group.partitions.values())
        if not (full or self._held_up):
            return ()
        wanted = tuple(
            place for place, partition in group.partitions.items() if not (partition.is_ahead(limit) or place in full)
        )
        return wanted or None

    def _held_enough(self, group: GroupConsumer) -> Collection[TopicPartition]:
        """The partitions of retry topics from which no more is held."""
        held, limit = len(self._delayed), self._options.max_held
        if held >= limit:
            return [place for place, partition in group.partitions.items() if partition.attempt]
        if not self._spec.ladder or not held:
            return ()
        upper = {place: one for place, one in group.partitions.items() if one.attempt > 1}
        share = max(limit // (2 * len(upper)), 1) if upper else limit
        return {place for place, one in upper.items() if self._delayed.held_of(one.source) >= share}

    async def _fetch(
        self, group: GroupConsumer, wanted: Sequence[TopicPartition], max_count: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        try:
            fetched: Mapping[TopicPartition, Sequence[Any]] = await group.consumer.getmany(
                *wanted, timeout_ms=0, max_records=max_count
            )
        except ConsumerStoppedError:
            return {}
        except Exception as error:
            if await recover(group.consumer, group.partitions, self._origins, error):
                return {}
            raise driver_error(error, f"reading for {self._spec.action}") from error
        return fetched

    def _accept(self, group: GroupConsumer, fetched: Mapping[TopicPartition, Sequence[Any]]) -> list[Delivery]:
        """Note fetched records as handed out; returns those that are due."""
        due: list[Delivery] = []
        for place, records in fetched.items():
            partition = group.reach(place, records[0].offset)
            if partition is None:
                continue
            deliveries = partition.accept(records)
            if partition.attempt:
                self._hold(deliveries, due)
            elif due:
                due += deliveries
            else:
                due = deliveries
        return due

    def _hold(self, deliveries: Sequence[Delivery], due: list[Delivery]) -> None:
        delays_ms = self._spec.retry_delays_ms
        found = timed(deliveries, delays_ms) if delays_ms else deliveries
        due += [one for one in found if not self._delayed.hold(one)]

    async def _wait_for_more(self, group: GroupConsumer) -> None:
        """Wait until there may be something: records, a due retry, a change of partitions, or the end."""
        loop = asyncio.get_running_loop()
        patience_s = self._delayed.patience_s(POLL_S)
        self._wake = wake = loop.create_future()
        timer = loop.call_later(patience_s, self._notify)
        arrival = group.arrival()
        arrival.add_done_callback(self._arrived)
        try:
            await wake
        finally:
            timer.cancel()
            group.note_records(came=arrival.done())
            arrival.cancel()

    def _arrived(self, arrival: "asyncio.Future[None]") -> None:
        if not arrival.cancelled():
            arrival.exception()  # the next look at the client raises it, too
            self._notify()

    def _clear(self) -> None:
        """Partitions came or went: what is queued here of the old ones comes again."""
        self._ready.clear()
        self._delayed.clear()
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`.

        Plain acknowledgements wait for no broker: the next commit carries them, at once where suspects are among them.
        """
        group = self._group
        if group is not None and not group.reassigning:
            await group.confirm()
        unsettled: list[Unsettled] = []
        finished: dict[Partition, list[int]] = {}
        written: list[WithRecord] = []
        for settlement in settlements:
            delivery = settlement.delivery
            partition: Partition = delivery.token
            if partition.lost:
                unsettled.append(Unsettled(settlement, LeaseLost(f"{partition.source} belongs to another process")))
            elif type(settlement) is Acked:
                offsets = finished.get(partition)
                if offsets is None:
                    offsets = finished[partition] = []
                offsets.append(delivery.offset)
            elif isinstance(settlement, Released):
                self._release(delivery)
            elif isinstance(settlement, Postponed):
                partition.postpone(settlement.again.offset, settlement.note, settlement.again.due_ms)
            elif not partition.is_finished(delivery.offset):
                written.append(settlement)  # type: ignore[arg-type]  # only these two are left
        if written:
            unsettled += await self._write(written, finished)
        self._finish(finished)
        await self._commit_suspects(settlements, unsettled)
        return unsettled

    async def _commit_suspects(self, settlements: Sequence[Settlement], unsettled: list[Unsettled]) -> None:
        """Commit at once what was settled of suspects: what runs next may kill the process.

        Args:
            settlements: all that was asked.
            unsettled: what did not take effect; gets those that turn out to be somebody else's, or are not known to be
                committed: whoever counts their crashes must go on.
        """
        suspects, group = of_suspects(settlements), self._group
        if not suspects or group is None or group.reassigning:  # what is given up is committed then
            return
        try:
            await group.commit()
        except (LeaseLost, DriverUnavailable) as error:
            known = {id(one.settlement) for one in unsettled}
            ended = (
                suspects
                if isinstance(error, LeaseLost)
                else [one for one in suspects if isinstance(one, Acked | WithRecord)]
            )
            unsettled += [Unsettled(one, error) for one in ended if id(one) not in known]
        except DriverError as error:
            log.debug("%s", error)  # nothing else waits for it: it is committed now and then, as all is

    def _finish(self, finished: Mapping[Partition, Sequence[int]]) -> None:
        for partition, offsets in finished.items():
            partition.finish(offsets)
        self._unsaved = True
        if self._held_up:
            self._notify()

    async def _write(
        self, settlements: Sequence[WithRecord], finished: dict[Partition, list[int]]
    ) -> Sequence[Unsettled]:
        """Store retry and dead-letter records; what is durable is finished."""
        durable, unsettled = await store_records(settlements, self._publish_records)
        for settlement in durable:
            finished.setdefault(settlement.delivery.token, []).append(settlement.delivery.offset)
        return unsettled

    async def _publish_records(self, settlements: Sequence[WithRecord]) -> Sequence[str | DriverError]:
        return await self._publisher.publish([settlement.record for settlement in settlements])

    def _release(self, delivery: Delivery) -> None:
        """Hand a delivery out again, in its place, unless its partition is on its way to others."""
        group = self._group
        if self._stopped or group is None or group.reassigning or delivery.token.is_finished(delivery.offset):
            return
        if any(waiting is delivery for waiting in self._ready):
            return
        self._ready.appendleft(delivery)
        if len(self._ready) > 1:
            self._ready = deque(sorted(self._ready, key=lambda waiting: (waiting.source, waiting.offset)))
        self._notify()

    # -- progress

    async def _commit_now_and_then(self, group: GroupConsumer) -> None:
        """Commit what has changed every so often, for as long as the consumer lives."""
        interval_s = self._connection.options.commit_interval_s
        for tick in count():
            await asyncio.sleep(interval_s)
            # Where nothing was settled there may still be gaps to move over, but that is in no hurry.
            if group.reassigning or not (self._unsaved or tick % QUIET_TICKS == 0):
                continue
            self._unsaved = False
            try:
                group.skip_gaps()
                await group.commit()
                if self._held_up:
                    self._notify()
            except LeaseLost as error:
                log.warning("%s: work in hand goes to others", error)
            except DriverError as error:
                self._unsaved = True
                log.debug("%s", error)

    async def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Source.backlog`."""
        if self._group is None and not self._closed:
            await self._joined()
        own: dict[TopicPartition, Partition] = {}
        if self._group is not None:
            self._group.skip_gaps()
            own = dict(self._group.partitions)
        now_ms = self._clock.now_ms()
        left = await self._lag.measure(self._spec, self._origins, own, now_ms)
        waiting = len(self._ready)
        dues = self._delayed.dues_ms()
        late = sum(due_ms <= now_ms for due_ms in dues)
        outstanding = sum(partition.outstanding for partition in own.values())
        dues = [due_ms for due_ms in dues if due_ms > now_ms] + ([left.next_due_ms] if left.next_due_ms else [])
        found = Backlog(
            ready=left.ready + waiting + late,
            delayed=left.delayed + len(self._delayed) - late,
            leased=max(outstanding - waiting - len(self._delayed), 0),
            next_due_ms=min(dues, default=None),
        )
        return found if self.with_later is None else await self.with_later(found)

    # -- the end

    def stop(self) -> None:
        """See `hexa_worker.drivers.base.Source.stop`."""
        self._stopped = True
        self._notify()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Source.close`."""
        self.stop()
        self._closed = True
        group, self._group = self._group, None
        if group is not None:
            await self._leave(group)

    async def _leave(self, group: GroupConsumer) -> None:
        self._end_commits()
        self._clear()
        await group.close()

    def _end_commits(self) -> None:
        if self._commits is not None:
            self._commits.cancel()
            self._commits = None

    def vanish(self) -> None:
        """Die without a goodbye, as ``kill -9`` does."""
        self.stop()
        group, self._group = self._group, None
        self._end_commits()
        self._clear()
        if group is not None:
            group.vanish()
            group.lose()

    def mute(self, seconds: float) -> None:
        """Say nothing to the group for so long, as a frozen process does."""
        if self._group is not None:
            self._group.mute(seconds)
