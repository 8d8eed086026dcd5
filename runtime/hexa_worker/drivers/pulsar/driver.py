"""The pulsar driver: one process's connection to Pulsar."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pulsar
from msgspec import structs

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.scrubbing import scrub
from hexa_worker.drivers.base import Backlog, Capabilities, Finding, Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.kit.error_context import error_context
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.pulsar import dead_letter_reader
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.browsing import PulsarBrowser
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.consumer_settings import ConsumerSettings
from hexa_worker.drivers.pulsar.errors import name_of, translate
from hexa_worker.drivers.pulsar.expiry import Expiry
from hexa_worker.drivers.pulsar.inspection import PulsarInspection
from hexa_worker.drivers.pulsar.names import DEAD_LETTER_SUBSCRIPTION
from hexa_worker.drivers.pulsar.positions import Positions
from hexa_worker.drivers.pulsar.publisher import PulsarPublisher
from hexa_worker.drivers.pulsar.source import PulsarSource
from hexa_worker.drivers.pulsar.source_builder import SourceBuilder
from hexa_worker.drivers.pulsar.threads import Threads
from hexa_worker.drivers.pulsar.unread import Unread
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable


def capabilities(options: Pulsar) -> Capabilities:
    """What the driver promises with these options."""
    return Capabilities(
        name="pulsar",
        durable=True,
        shared=True,
        order=frozenset(OrderBy),
        delays_events=True,
        delay_accuracy_s=0.25,
        redelivery_s=1.0,
        counts_deliveries=False,
        patterns=True,
        max_payload=options.max_payload,
        header_order=False,
        notes=(
            "A process that was frozen for a minute is not told that others have what it had in hand: both settle it.",
            "A broker that is killed may forget a minute of acknowledgements: those deliveries come again.",
            "Acknowledgements leave within 0.1 s and are not confirmed: those of a killed process may be lost.",
            'With order_by = "channel" one process reads a channel, the others stand by.',
            'order_by = "key" needs producers that batch by key or not at all.',
            'With order_by = "channel", events for later wait in the process that reads, and not in the broker.',
            "Where 5,000 of them wait, or half of mailbox_bytes, it reads no further until one is due.",
            "Patterns, lag and --until-idle need the admin API.",
            "What is published before anybody subscribes is held by a subscription hexa-worker-unread (see `unread`).",
            "What is not confirmed within timeout_s may be stored all the same; published again, it is stored twice.",
            "After a lost connection the client sends again: stored once where the namespace has deduplication on.",
            "A message TTL drops events that wait for longer; workers take it from their retries and dead letters.",
            "What is larger than a message may be (it was chunked) is handled once; its dead letter is cut.",
            "A topic, namespace or right that was there when a worker started and is gone is waited for.",
            "A subscription that is removed goes on where it stood, as noted every 10 s (properties of its topics).",
            "To note that, the login needs the topics' admin API; a subscription that an operator resets stays there.",
            "Lag counts a batch of which something is left as a whole while no process has it.",
        ),
    )


class PulsarDriver:
    """A process's view of a Pulsar cluster.

    Args:
        options: the broker's table.
        clock: its wall clock decides what is due.
        folder: what files in `options` are relative to.
    """

    def __init__(self, options: Pulsar, clock: Clock | None = None, folder: Path | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._connection = PulsarConnection(options, folder or Path())
        self._admin = Admin(options, self._connection.security, self._connection.topics)
        self._unread = Unread(self._connection, self._admin, options.unread)
        self._expiry = Expiry(self._admin, self._connection.topics)
        self._publisher = PulsarPublisher(self._connection, options, self._clock, self._unread)
        self._browser = PulsarBrowser(self._connection, self._admin, options.timeout_s)
        self._sources: list[PulsarSource] = []
        self._loop: LoopHandle | None = None
        self._threads: Threads | None = None
        self._kept: set[str] = set()
        self._positions: dict[str, Positions] = {}

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self._options)

    async def _run(self, function: Any, *args: Any) -> Any:
        if self._threads is None:
            raise DriverUnavailable("pulsar: the driver is not open")
        return await self._threads.run(function, *args)

    # -- its life

    async def open(self) -> None:
        """See `hexa_worker.drivers.base.Driver.open`."""
        if self._threads is None:
            self._loop, self._threads = LoopHandle(), Threads()
        await self._threads.run(self._connection.open)
        assert self._loop is not None  # noqa: S101 - made with the threads
        self._publisher.open(self._loop)

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Driver.close`."""
        for source in self._sources:
            await source.close()
        self._sources.clear()
        if self._threads is not None:
            await self._threads.run(self._close)

    def _close(self) -> None:
        self._browser.close()
        self._publisher.close()
        self._connection.close()

    async def crash(self) -> None:
        """Vanish as a killed process does: for tests."""
        for source in self._sources:
            source.abandon()
        self._sources.clear()
        await self._run(self._connection.abort)
        await self._run(self._publisher.close)

    # -- publishing

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        return await self._publisher.publish(messages)

    # -- consuming

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        """See `hexa_worker.drivers.base.Driver.declare`."""
        with error_context("pulsar", [self._options.url]):
            for spec in specs:
                await self._run(self._declare, spec)

    def _declare(self, spec: SubscriptionSpec) -> None:
        """Let the subscription exist on every topic, and the dead letters be kept."""
        begun, spec = self._begun(spec)
        terms, topics = ConsumerSettings(spec), self._connection.topics
        self._keep_letters(spec)
        channels = self._channels_of(spec)
        positions = self._positions_of(terms.name)
        for topic in map(topics.topic, channels):
            self._make_partitioned(topic)
            if not positions.begin(topic, start=spec.start):
                start = "earliest" if begun and self._unread.keeps(topic) else ""
                self._touch(spec, partial(terms.subscribe, self._connection.client, topics=[topic], start=start))
            positions.declared(topic)
            self._unread.release(topic)
        retries = [topics.topic(channel) for channel in spec.retry_channels]
        fresh = [topic for topic in retries if not positions.begin(topic, start="earliest", of_retries=True)]
        if fresh:
            self._touch(spec, partial(terms.subscribe_retries, self._connection.client, topics=fresh))
        for topic in retries:
            positions.declared(topic)
        self._expiry.settle(spec)

    def _positions_of(self, subscription: str) -> Positions:
        positions = Positions(self._admin, self._connection.topics, subscription)
        return self._positions.setdefault(subscription, positions)

    def _begun(self, spec: SubscriptionSpec) -> tuple[bool, SubscriptionSpec]:
        """Whether a worker of it has ever started, and how it starts now: of a pattern, what it lacks came later."""
        if spec.start == "earliest" or not spec.retry_channels:
            return False, spec
        try:
            parts = self._admin.parts(self._connection.topics.topic(spec.retry_channels[0]))
        except DriverRejected:
            return False, spec
        name = ConsumerSettings(spec).name
        begun = any(name in stats.get("subscriptions", {}) for stats in parts.values())
        return begun, structs.replace(spec, start="earliest") if begun and spec.pattern is not None else spec

    def _touch(self, spec: SubscriptionSpec, subscribe: Any) -> None:
        """Make a subscription by using it for a moment; a broker may keep such a reader that it took for gone."""
        try:
            subscribe().close()
        except pulsar.PulsarException as error:
            if name_of(error) != "ConsumerBusy":  # somebody uses it: it exists
                raise translate(error, f"declare subscription {spec.group!r}") from error

    def _keep_letters(self, spec: SubscriptionSpec) -> None:
        channel = spec.dead_letter_channel
        if channel in self._kept:
            return
        topic = self._connection.topics.topic(channel)
        if not self._keeps_letters(topic):
            self._touch(spec, partial(dead_letter_reader.keep, self._connection.client, topic))
        self._kept.add(channel)

    def _keeps_letters(self, topic: str) -> bool:
        """Whether they are kept already; false, too, when that is not known."""
        with suppress(DriverError):
            parts = self._admin.part_names(topic)
            return all(DEAD_LETTER_SUBSCRIPTION in self._admin.subscriptions(part) for part in parts)
        return False

    def _make_partitioned(self, topic: str) -> None:
        """Make a topic with partitions, if that is what the options want of new ones."""
        if self._options.partitions:
            self._admin.make_partitions(topic, self._options.partitions)

    def _channels_of(self, spec: SubscriptionSpec) -> Sequence[str]:
        """The channels that a subscription reads, as far as they exist."""
        return spec.channels_among(() if spec.pattern is None else self._admin.channels())

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> PulsarSource:
        """See `hexa_worker.drivers.base.Driver.subscribe`."""
        del revoked  # nobody tells a process that it has lost something
        with error_context("pulsar", [self._options.url]):
            return await self._subscribe(spec)

    async def _subscribe(self, spec: SubscriptionSpec) -> PulsarSource:
        self._connection.require()
        assert self._loop is not None  # noqa: S101 - it is open
        assert self._threads is not None  # noqa: S101 - it is open
        await self._run(self._keep_letters, spec)
        builder = SourceBuilder(
            self._connection,
            self._admin,
            self._clock,
            (await self._run(self._begun, spec))[1],
            partial(PulsarSource, spec, self._publisher.begin, self._clock, self._loop, self._threads),
            self._positions_of(ConsumerSettings(spec).name),
            find=partial(self._channels_of, spec),
            prepare=self._make_partitioned,
            release=self._unread.release,
        )
        source = builder.source
        try:
            await self._run(builder.begin)
        except BaseException:
            await source.close()
            raise
        self._sources.append(source)
        return source

    # -- looking

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
        self._connection.require()
        found: Sequence[Delivery] = await self._run(self._browser.browse, channel, after, limit, since_ms)
        return found

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """See `hexa_worker.drivers.base.Driver.remove`."""
        self._connection.require()
        removed: int = await self._run(self._browser.remove, channel, offsets)
        return removed

    async def channels(self) -> Sequence[str]:
        """See `hexa_worker.drivers.base.Driver.channels`."""
        self._connection.require()
        found: Sequence[str] = await self._run(self._admin.channels)
        return found

    def _looking(self, spec: SubscriptionSpec) -> PulsarInspection:
        self._connection.require()
        return PulsarInspection(
            self._connection, self._admin, self._clock, spec, partial(self._channels_of, spec), self._expiry
        )

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        found: Backlog = await self._run(self._looking(spec).backlog)
        return found

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        found: Sequence[Finding] = await self._run(self._looking(spec).preflight)
        return found

    async def inspect(self) -> Mapping[str, str]:
        """What is at the other end, for people."""
        self._connection.require()
        topics = self._connection.topics
        versions = f"pulsar-client {version('pulsar-client')}"
        found = {"address": scrub(self._options.url), "versions": versions, "namespace": topics.namespace}
        try:
            found["versions"] += f", broker {await self._run(self._admin.version)}"
            found["admin"] = scrub(self._admin.url)
        except DriverError as error:
            found["admin"] = str(error)
        return found
