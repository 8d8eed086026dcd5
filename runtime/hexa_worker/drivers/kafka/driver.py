"""The driver itself: one process's clients of one Kafka cluster. Lives on an asyncio loop."""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from msgspec import structs

from hexa_worker.clock import Clock
from hexa_worker.config.kafka import Kafka, KafkaSubscription
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import (
    Backlog,
    Capabilities,
    Finding,
    Revoked,
    SubscriptionSpec,
    confirmed,
    nothing_revoked,
)
from hexa_worker.drivers.kafka.browsing import KafkaBrowser
from hexa_worker.drivers.kafka.channels import INTERNAL, channels_of
from hexa_worker.drivers.kafka.client_internals import client_of
from hexa_worker.drivers.kafka.connection import KafkaConnection, bounded, stop_client
from hexa_worker.drivers.kafka.inspection import preflight
from hexa_worker.drivers.kafka.ladders import KafkaLadders
from hexa_worker.drivers.kafka.lag import Lag
from hexa_worker.drivers.kafka.presence import Presence
from hexa_worker.drivers.kafka.publisher import KafkaPublisher
from hexa_worker.drivers.kafka.reader import OffsetReader
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.source import KafkaSource
from hexa_worker.drivers.kafka.succession import Inheritance, inheritance
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.drivers.kit.error_context import error_context
from hexa_worker.drivers.kit.later import LEVELS_MS
from hexa_worker.drivers.kit.mover import Movers
from hexa_worker.drivers.kit.start_time import start_time
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

log = logging.getLogger("hexa_worker.kafka")


STILL_MUTE_S = 4.0
"""After a stall others have so long to take over before the stalled one joins again."""

NOTES = (
    "Order by key is the order of a key's partition; order by channel needs topics of one partition.",
    "Whenever a process joins or leaves, all give up their partitions; what does not end in time runs again.",
    "At most as many processes work on a subscription as its channels have partitions.",
    "Acknowledgements are committed every commit_interval_s; a crash repeats what ended since then.",
    "Each subscription has a consumer of its own, with two connections: a client can be in one group only.",
    "Records of retry channels are not in the order of their keys; retries in their place are.",
    "Attempts of retries in their place are committed like acknowledgements, as far as 2 KiB hold them.",
    "A topic that is deleted and made again, or whose log is put back, is read from its first record.",
    "Brokers before 2.8 do not tell that a topic was made again: stop the workers, delete the group's offsets.",
    "What is done out of order is noted with the commit; the note counts for its own offset, topic and cluster only.",
    "What was not confirmed in time, and is published again within a minute, is stored once.",
    "Lag counts what workers have in hand, and what they have not committed yet, as ready.",
    "Events for later wait in topics beside their channel's; a process that subscribes to the channel moves them.",
    "The first event for later of a channel makes those topics, and workers find them within about a second.",
    "A record without a value arrives as an empty payload with the header hexa-tombstone.",
)


def capabilities(options: Kafka) -> Capabilities:
    """What the driver promises with these options."""
    return Capabilities(
        name="kafka",
        durable=True,
        shared=True,
        order=frozenset(OrderBy),
        delays_events=True,
        delay_accuracy_s=0.75,
        redelivery_s=options.session_timeout_s + options.heartbeat_s,
        counts_deliveries=False,
        keeps_attempts=True,
        patterns=True,
        max_payload=options.max_payload,
        revokes=True,
        notes=NOTES,
    )


class AsyncioKafkaDriver:
    """See `hexa_worker.drivers.base.Driver`. Use it on the loop that opened it.

    Args:
        options: the broker table.
        clock: decides what is due.
        folder: what files in `options` are relative to.
    """

    def __init__(self, options: Kafka, clock: Clock, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._clock = clock
        self.capabilities = capabilities(options)
        self._parts: _Parts | None = None
        self._sources: list[KafkaSource] = []
        self._declared: set[str] = set()
        self._origins: dict[str, dict[TopicPartition, int]] = {}
        self._unwritten: dict[str, set[TopicPartition]] = {}
        """By group, the places whose origins are known here only."""
        self._attempts: dict[str, int] = {}
        ladders = KafkaLadders(self._opened, self._subscribe, self._backlog)
        self._movers = Movers(ladders, clock, LEVELS_MS, lambda: options.max_payload)
        quiet = logging.getLogger("aiokafka")
        if quiet.getEffectiveLevel() > logging.DEBUG:
            quiet.setLevel(logging.CRITICAL)  # it repeats every failure many times; ours says it once

    async def open(self) -> None:
        """See `hexa_worker.drivers.base.Driver.open`."""
        if self._parts is None:
            parts = _Parts(self._options, self._folder, self._attempts, self._clock)
            await parts.topics.open()
            self._parts = parts

    def _opened(self) -> "_Parts":
        if self._parts is None:
            raise DriverUnavailable("kafka: the driver is not open")
        return self._parts

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Driver.close`."""
        await self._movers.close()
        sources, self._sources = self._sources, []
        for source in sources:
            await source.close()
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.close()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        return confirmed(await self._movers.publish(messages))

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        """See `hexa_worker.drivers.base.Driver.declare`."""
        if not specs:
            return
        with error_context("kafka", self._options.servers):
            await self._declare(specs, self._opened())

    async def _declare(self, specs: Sequence[SubscriptionSpec], parts: "_Parts") -> None:
        for spec in specs:
            _check_pattern(spec)
        await parts.registry.ensure(specs)
        for spec in specs:
            self._attempts.update({name: number for number, name in enumerate(spec.retry_channels, start=1)})
            inherited = (
                Inheritance() if spec.ladder else await inheritance(parts.topics, parts.reader, parts.books, spec)
            )
            await self._pin_start(spec, parts)
            if inherited.progress:
                log.warning("%s: group %s goes on with the retries of %s", spec.action, spec.group, inherited.groups)
                await self._commit_origins(spec.group, inherited.progress, parts)
            self._declared.add(spec.group)

    async def _pin_start(self, spec: SubscriptionSpec, parts: "_Parts") -> None:
        """Write down where a subscription without progress begins, unless that is the first record."""
        known = self._origins.setdefault(spec.group, {})
        unwritten = self._unwritten.setdefault(spec.group, set())
        fresh = await self._fresh_origins(spec, parts)
        # What nobody could write down at the first start holds all the same: the end has moved since then.
        origins = {place: known.get(place, offset) if place in unwritten else offset for place, offset in fresh.items()}
        places: dict[TopicPartition, int | OffsetAndMetadata] = dict(origins)
        known.update(origins)
        unwritten.update(origins)
        if _from_first(spec):
            return
        if spec.pattern is not None and not await _has_begun(spec, parts):
            # Channels may match only later: that there was a first start is written down at one that is there.
            first = TopicPartition(_failure_channels(spec)[0], 0)
            places.update(await parts.reader.starts([first]))
        if places and await self._commit_origins(spec.group, places, parts):
            unwritten.difference_update(origins)

    async def _fresh_origins(self, spec: SubscriptionSpec, parts: "_Parts") -> Mapping[TopicPartition, int]:
        """Where channels without progress begin; empty where that is their first record.

        With a pattern that is so for whatever appears after the first start.
        """
        if _from_first(spec) or (spec.pattern is not None and await _has_begun(spec, parts)):
            return {}
        known = await parts.registry.refresh()
        begun = {place.topic for place in await parts.topics.group_offsets(spec.group)}
        fresh = [
            TopicPartition(name, number)
            for name in channels_of(spec, known)
            if name not in begun
            for number in range(known.get(name, 0))
        ]
        start_ms = _start_ms(spec)
        return dict(await (parts.reader.ends(fresh) if start_ms is None else parts.reader.at_time(fresh, start_ms)))

    async def _commit_origins(
        self, group: str, origins: Mapping[TopicPartition, int | OffsetAndMetadata], parts: "_Parts"
    ) -> bool:
        """Commit them for a group; False: it takes none."""
        consumer = AIOKafkaConsumer(**parts.connection.settings(), group_id=group, enable_auto_commit=False)
        try:
            await parts.connection.start(consumer.start, client_of(consumer))
            consumer.assign(list(origins))
            await bounded(consumer.commit(dict(origins)), self._options.timeout_s, f"placing group {group}")
        except DriverUnavailable as error:
            # A group with living members takes commits from none but them; ours will know its origins by itself.
            if type(error.__cause__).__name__ != "CommitFailedError":
                raise
            return False
        finally:
            await stop_client(consumer.stop, client_of(consumer))
        return True

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> KafkaSource:
        """See `hexa_worker.drivers.base.Driver.subscribe`."""
        source = await self._subscribe(spec, revoked)
        source.with_later = partial(self._movers.with_later, spec)
        self._movers.watch(spec)
        return source

    async def _subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> KafkaSource:
        await self.declare([spec])
        parts = self._opened()
        origins = self._origins.setdefault(spec.group, {})
        source = KafkaSource(
            parts.connection,
            spec,
            spec.options or KafkaSubscription(),
            parts.books,
            origins,
            parts.publisher,
            parts.lag,
            revoked,
            self._clock,
            Presence(parts.registry, spec, origins),
        )
        self._sources = [one for one in self._sources if not one.closed] + [source]
        with error_context("kafka", self._options.servers):
            try:
                await source.join()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await source.close()  # or a member that reads nothing would stay in the group
                raise
        return source

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
        return await self._opened().browser.browse(channel, after, limit, since_ms)

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """See `hexa_worker.drivers.base.Driver.remove`."""
        return await self._opened().browser.remove(channel, offsets)

    async def channels(self) -> Sequence[str]:
        """See `hexa_worker.drivers.base.Driver.channels`."""
        known = await self._opened().registry.refresh()
        return sorted(name for name in known if not name.endswith(INTERNAL))

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        return await self._movers.with_later(spec, await self._backlog(spec))

    async def _backlog(self, spec: SubscriptionSpec) -> Backlog:
        parts = self._opened()
        left = await parts.lag.measure(spec, await self._fresh_origins(spec, parts), {}, self._clock.now_ms())
        letters = await parts.browser.count(spec.dead_letter_channel)
        return Backlog(
            ready=left.ready, delayed=left.delayed, leased=0, next_due_ms=left.next_due_ms, dead_letters=letters
        )

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        parts = self._opened()
        found = await preflight(parts.topics, self._options, spec)
        inherited = await inheritance(parts.topics, parts.reader, parts.books, spec)
        if inherited.groups:
            note = f"goes on with the retries of {', '.join(inherited.groups)}"
            return [structs.replace(one, note=note) if one.kind == "group" else one for one in found]
        return found

    async def inspect(self) -> Mapping[str, str]:
        """See `hexa_worker.drivers.base.Driver.inspect`."""
        parts = self._opened()
        cluster = await parts.topics.describe()
        known = await parts.registry.refresh()
        brokers = (f"{one['node_id']} at {one['host']}:{one['port']}" for one in cluster["brokers"])
        return {
            "address": ", ".join(self._options.servers),
            "versions": f"aiokafka {version('aiokafka')}, broker with {await parts.topics.protocol()}",
            "cluster": str(cluster.get("cluster_id")),
            "brokers": ", ".join(brokers),
            "controller": str(cluster.get("controller_id")),
            "security": str(parts.connection.settings()["security_protocol"]),
            "topics": str(len(known)),
        }

    async def crash(self) -> None:
        """Die without a goodbye, as ``kill -9`` of the process does: for tests."""
        self._movers.abandon()
        for source in self._sources:
            source.vanish()

    async def stall(self, seconds: float) -> None:
        """Be silent as a frozen process is: for tests. Comes back after `seconds`; the silence goes on a little."""
        for source in self._sources:
            source.mute(seconds + STILL_MUTE_S)
        await asyncio.sleep(seconds)


class _Parts:
    """What an open driver consists of."""

    def __init__(self, options: Kafka, folder: Path, attempts: Mapping[str, int], clock: Clock) -> None:
        self.connection = KafkaConnection(options, folder)
        self.books = TopicIds()
        self.topics = TopicAdmin(self.connection)
        self.registry = Registry(self.topics, options)
        self.reader = OffsetReader(self.connection)
        self.publisher = KafkaPublisher(self.connection, self.registry, clock)
        self.lag = Lag(self.registry, self.topics, self.reader, self.books)
        self.browser = KafkaBrowser(self.registry, self.topics, self.reader, self.publisher, attempts)

    async def close(self) -> None:
        await self.publisher.close()
        await self.reader.close()
        await self.topics.close()


def _check_pattern(spec: SubscriptionSpec) -> None:
    if spec.pattern is not None:
        try:
            re.compile(spec.pattern)
        except re.error as error:
            raise DriverRejected(f"kafka: {spec.action}: the pattern is not a regular expression: {error}") from error


def _failure_channels(spec: SubscriptionSpec) -> tuple[str, ...]:
    return (*spec.retry_channels, spec.dead_letter_channel)


async def _has_begun(spec: SubscriptionSpec, parts: _Parts) -> bool:
    """Whether its group has progress in anything that the subscription reads."""
    begun = {place.topic for place in await parts.topics.group_offsets(spec.group)}
    return not begun.isdisjoint((*channels_of(spec, begun), *_failure_channels(spec)))


def _from_first(spec: SubscriptionSpec) -> bool:
    return spec.start == "earliest" and _start_ms(spec) is None


def _start_ms(spec: SubscriptionSpec) -> int | None:
    text = spec.options.start_at if isinstance(spec.options, KafkaSubscription) else None
    if text is None:
        return None
    return round(start_time(text, f"subscriptions.{spec.action}.kafka.start_at").timestamp() * 1000)
