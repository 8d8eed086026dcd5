"""Which topics exist, remembered for a while; those that are missing are made where that is allowed."""

import asyncio
import logging
import time
from collections.abc import Sequence

from aiokafka.admin import NewTopic

from hexa_worker.config.kafka import Kafka
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka.channels import channels_of
from hexa_worker.drivers.kafka.settings import AGE, BYTES, CLOCK, POLICY, SIZE, wanted_size
from hexa_worker.drivers.kafka.topics import TopicAdmin, refuse_missing
from hexa_worker.errors import DriverRejected, DriverUnavailable

log = logging.getLogger("hexa_worker.kafka")
REMEMBER_S = 60.0
FRESH_S = 1.0
LOOKED_AT = 50
"""The settings of no more channels of one subscription are looked at."""


class Registry:
    """The topics of one cluster, as far as one driver cares.

    Args:
        topics: the admin side.
        options: what may be made, and how.
    """

    def __init__(self, topics: TopicAdmin, options: Kafka) -> None:
        self._topics = topics
        self._options = options
        self._known: dict[str, int] = {}
        self._asked_at = float("-inf")
        self._making = asyncio.Lock()
        self._failed_at = float("-inf")
        self._failure = ""
        self._ordered: set[str] = set()
        self._failures: dict[str, SubscriptionSpec] = {}
        """Retry and dead-letter topics, and whose they are."""
        self._seen: set[str] = set()

    @property
    def _replication(self) -> int:
        return self._options.replication or min(3, max(self._topics.brokers, 1))

    async def refresh(self) -> dict[str, int]:
        """Every topic with its number of partitions, asked anew."""
        self._known = await self._topics.partitions()
        self._asked_at = time.monotonic()
        return self._known

    async def recent(self) -> dict[str, int]:
        """As `refresh`, or what was known a moment ago: for many questions at once."""
        async with self._making:
            return self._known if time.monotonic() - self._asked_at < FRESH_S else await self.refresh()

    def forget(self, channel: str) -> None:
        """Look again before this channel is next used."""
        self._known.pop(channel, None)

    async def partitions_of(self, channel: str) -> int:
        """The number of partitions of a channel that is about to be written to.

        Raises:
            DriverRejected: there is no such topic and it may not be made.
            DriverUnavailable: the broker is away; or the topic is, which has been there: it may come back.
        """
        if time.monotonic() - self._asked_at < REMEMBER_S:
            count = self._known.get(channel)
            if count is not None:
                return count
        waiting_since = time.monotonic()
        async with self._making:
            if time.monotonic() - self._asked_at < FRESH_S and channel in self._known:
                return self._known[channel]  # another task has just asked or made it
            if self._failed_at > waiting_since:
                raise DriverUnavailable(self._failure)  # another task has just asked in vain
            try:
                known = await self.refresh()
            except DriverUnavailable as error:
                self._failed_at, self._failure = time.monotonic(), str(error)
                raise
            if channel not in known:
                await self._make_now(channel)
            self._seen.add(channel)
            count = self._known.get(channel)
            if count is None:
                raise DriverUnavailable(f"kafka: topic {channel} has just been deleted")
            return count

    async def _make_now(self, channel: str) -> None:
        try:
            await self._make([channel])
        except DriverRejected as error:
            if channel in self._seen and not self.keeps_failures(channel):  # of those the settler takes care
                raise DriverUnavailable(str(error)) from error
            raise

    async def ensure(self, specs: Sequence[SubscriptionSpec]) -> frozenset[str]:
        """Make sure that everything exists that the subscriptions read or that their failures are written to.

        Returns:
            What did not exist, and was made.

        Raises:
            DriverRejected: something is missing and may not be made; all of it is named.
            DriverUnavailable: a topic has no leader, or no broker answers.
        """
        known = await self.refresh()
        names = [name for spec in specs for name in (*spec.channels, *spec.retry_channels, spec.dead_letter_channel)]
        untold = self._topics.untold.intersection(names)
        if untold:
            await self._topics.partitions(wait_leaders_of=untold)
            known = await self.refresh()
        wanted: dict[str, None] = {}
        for spec in specs:
            wanted.update(dict.fromkeys(spec.channels))
            if spec.order_by is OrderBy.CHANNEL:
                self._ordered.update(spec.channels)
                for channel in spec.channels:
                    if known.get(channel, 1) > 1:
                        raise _unordered(spec, channel, known[channel])
            failures = (*spec.retry_channels, spec.dead_letter_channel)
            self._failures.update(dict.fromkeys(failures, spec))
            wanted.update(dict.fromkeys(failures))
        made = await self._make([name for name in wanted if name not in known])
        self._seen.update(wanted)
        return made

    async def _make(self, missing: Sequence[str]) -> frozenset[str]:
        """Make what is missing; what really was. What a topic is for decides whether it may be made, and how."""
        if not missing:
            return frozenset()
        options = self._options
        refused = {
            name: "create_retry_channels" if name in self._failures else "create_channels"
            for name in missing
            if not (options.create_retry_channels if name in self._failures else options.create_channels)
        }
        if refused:
            raise refuse_missing(refused)
        new = [self._new_channel(name) for name in missing if name not in self._failures]
        for spec in {spec.action: spec for name, spec in self._failures.items() if name in missing}.values():
            new += [topic for topic in await self._failure_topics(spec) if topic.name in missing]
        made = await self._topics.create(new)
        for name in self._seen & made:
            log.warning("kafka: topic %s was gone; it has been made again, and is empty", name)
        await self.refresh()
        return made

    def _new_channel(self, channel: str) -> NewTopic:
        retention_s = self._options.retention_s
        config = {} if retention_s is None else {"retention.ms": _milliseconds(retention_s)}
        partitions = 1 if channel in self._ordered else self._options.partitions
        return NewTopic(channel, partitions, self._replication, topic_configs=config)

    async def _failure_topics(self, spec: SubscriptionSpec) -> list[NewTopic]:
        """The retry and dead-letter topics of a subscription: whatever it reads must fit into them."""
        options, known = self._options, self._known
        channels = channels_of(spec, known)
        there = [channel for channel in channels if channel in known][:LOOKED_AT]
        size = wanted_size(options.max_payload, (await self._topics.settings(there)).values())
        widest = max([known.get(channel, options.partitions) for channel in channels], default=options.partitions)
        partitions = options.retry_partitions or widest
        return [
            *(self._failure_topic(name, partitions, options.retry_retention_s, size) for name in spec.retry_channels),
            # One partition: dead letters are listed in the order in which they were stored.
            self._failure_topic(spec.dead_letter_channel, 1, options.dead_letter_retention_s or -1, size),
        ]

    def _failure_topic(self, name: str, partitions: int, retention_s: float, size: int) -> NewTopic:
        """None of its settings is left to the brokers' defaults, which may be made for quite another use."""
        config = {AGE: _milliseconds(retention_s), SIZE: str(size), POLICY: "delete", BYTES: "-1", CLOCK: "CreateTime"}
        return NewTopic(name, partitions, self._replication, topic_configs=config)

    def keeps_failures(self, channel: str) -> bool:
        """Whether it is a retry or dead-letter channel of a subscription: what it gets was read from a broker."""
        return channel in self._failures

    def compacted(self, name: str) -> NewTopic:
        """A topic of one partition that keeps the last record of each key."""
        return NewTopic(name, 1, self._replication, topic_configs={"cleanup.policy": "compact"})


def _unordered(spec: SubscriptionSpec, channel: str, partitions: int) -> DriverRejected:
    return DriverRejected(
        f'kafka: {spec.action}: order_by = "channel" needs topics of one partition, {channel} has {partitions} '
        '(order_by = "key" keeps the order of each key)'
    )


def _milliseconds(seconds: float) -> str:
    return "-1" if seconds < 0 else str(round(seconds * 1000))
