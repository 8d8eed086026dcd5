"""Looking at a subscription from outside: what it has left to do, what of it is there, what stands in its way.

Through the admin API and readers: no consumer is made, so nobody is disturbed. Blocking; for threads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pulsar
from msgspec import structs

from hexa_worker.clock import Clock
from hexa_worker.drivers.base import Backlog, Finding, SubscriptionSpec
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.backlog import COUNT_LIMIT, Gauge, InFlight
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.consumer_settings import ConsumerSettings
from hexa_worker.drivers.pulsar.errors import translate
from hexa_worker.drivers.pulsar.expiry import Expiry
from hexa_worker.drivers.pulsar.names import DEAD_LETTER_SUBSCRIPTION, UNREAD_SUBSCRIPTION
from hexa_worker.drivers.pulsar.positions import Positions
from hexa_worker.drivers.pulsar.readers import open_reader, unread
from hexa_worker.errors import DriverError, DriverRejected

_NOTHING = InFlight(channels=0, retries=0, queued=0)


class PulsarInspection:
    """Asks about one subscription.

    Args:
        connection: the client.
        admin: the REST API.
        clock: tells what is due.
        spec: the subscription.
        channels: finds what it reads.
        expiry: tells what the brokers drop.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: PulsarConnection,
        admin: Admin,
        clock: Clock,
        spec: SubscriptionSpec,
        channels: Callable[[], Sequence[str]],
        expiry: Expiry,
    ) -> None:
        self._connection = connection
        self._admin = admin
        self._clock = clock
        self._spec = spec
        self._channels = channels
        self._expiry = expiry
        self._terms = ConsumerSettings(spec)

    def _partitions(self, channel: str) -> Mapping[str, Mapping[str, Any]]:
        """The topics of a channel that exist, with their statistics; asking the client would make the topic."""
        return self._admin.parts(self._connection.topics.topic(channel))

    # -- what is left to do

    def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        channels, unread = [], 0
        for channel in self._channels():
            parts = self._partitions(channel)
            if parts:
                channels.append(self._connection.topics.topic(channel))
            fresh = [one for one, stats in parts.items() if self._terms.name not in stats.get("subscriptions", {})]
            if self._spec.start == "earliest":
                unread += sum(self._kept(one) for one in fresh)
        retries = [self._connection.topics.topic(one) for one in self._spec.retry_channels if self._partitions(one)]
        gauge = Gauge(
            self._connection,
            self._admin,
            self._clock,
            subscription=self._terms.name,
            owner="",
            channels=lambda: channels,
            retries=retries,
        )
        try:
            found = gauge.measure(_NOTHING)
        finally:
            gauge.close()
        return structs.replace(found, ready=found.ready + unread, dead_letters=self._letters())

    def _kept(self, topic: str) -> int:
        """How many messages a topic or partition keeps; of a long one only its entries are counted."""
        entries = self._admin.entries(topic)
        if not entries or entries > COUNT_LIMIT:
            return entries
        try:
            reader = open_reader(self._connection.client, topic)
            try:
                return sum(1 for _ in unread(reader))
            finally:
                reader.close()
        except pulsar.PulsarException as error:
            raise translate(error, f"read {topic}") from error

    def _letters(self) -> int:
        count = 0
        for topic, stats in self._partitions(self._spec.dead_letter_channel).items():
            kept = stats.get("subscriptions", {}).get(DEAD_LETTER_SUBSCRIPTION)
            entries = 0 if kept is None else int(kept.get("msgBacklog", 0))
            if entries:
                messages = self._admin.messages_in_backlog(topic, DEAD_LETTER_SUBSCRIPTION)
                count += entries if messages is None else messages
        return count

    # -- what is there

    def preflight(self) -> list[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        found: list[Finding] = []
        for channel in self._channels():
            found += self._topic("channel", channel, self._terms.name)
        for channel in self._spec.retry_channels:
            found += self._topic("retry channel", channel)
        return found + self._topic("dead letter", self._spec.dead_letter_channel)

    def _topic(self, kind: str, channel: str, subscription: str | None = None) -> list[Finding]:
        """A topic, and where it is wanted the subscription in it."""
        try:
            parts = self._partitions(channel)
        except DriverRejected as error:
            # The admin API does not tell; a lookup says at least whether the login may use the topic.
            problem = self._refusal(channel)
            return [Finding(kind=kind, name=channel, exists=None, problem=problem, note="" if problem else str(error))]
        notes = [f"{len(parts)} partitions"] if len(parts) > 1 else []
        if kind == "channel" and any(stats.get("deduplicationStatus") == "Disabled" for stats in parts.values()):
            notes.append("no deduplication: what its emitters send again after a lost connection may be stored twice")
        risk, rules = self._rules(channel, known=self._begun(parts, subscription)) if parts else ("", [])
        if risk and kind != "channel":
            risk, rules = "", [*rules, f"{risk}: a worker that starts takes it away here, if it may"]
        problem, note = self._refusal(channel) if parts else "", "; ".join([*notes, *rules])
        found = [Finding(kind=kind, name=channel, exists=bool(parts), problem=problem, warning=risk, note=note)]
        return found if subscription is None else [*found, self._subscription(subscription, parts)]

    @staticmethod
    def _begun(parts: Mapping[str, Mapping[str, Any]], subscription: str | None) -> bool:
        """Whether everything that is published waits for the subscription already."""
        keepers = {subscription, UNREAD_SUBSCRIPTION}
        return subscription is None or all(keepers & stats.get("subscriptions", {}).keys() for stats in parts.values())

    def _rules(self, channel: str, *, known: bool) -> tuple[str, list[str]]:
        """What the brokers drop of a topic, and what else is to be said; `known`: all who read it have subscribed."""
        try:
            risk = self._expiry.risk(channel)
            minutes, _ = (-1, -1) if known else self._admin.retention(self._connection.topics.topic(channel))
        except DriverError as error:
            return "", [f"what the brokers drop of it cannot be told: {error}"]
        return risk, [] if minutes < 0 else [f"before its first start events are kept for {minutes} min (retention)"]

    def _subscription(self, name: str, parts: Mapping[str, Mapping[str, Any]]) -> Finding:
        there = [stats["subscriptions"][name] for stats in parts.values() if name in stats.get("subscriptions", {})]
        consumers = max((len(one.get("consumers") or ()) for one in there), default=0)
        note = f"{consumers} consumer{'' if consumers == 1 else 's'}" if there else self._inherited()
        types = {str(one.get("type")) for one in there if one.get("consumers")}
        wanted = self._terms.type.replace("_", "")
        other = ", ".join(sorted(one for one in types if one.replace("_", "").lower() != wanted))
        problem = f"it is in use as {other}, wanted {self._terms.type}" if other else ""
        return Finding(kind="subscription", name=name, exists=bool(there), problem=problem, note=note)

    def _inherited(self) -> str:
        """Whose retries a subscription that is new will go on with."""
        topics = self._connection.topics
        positions = Positions(self._admin, topics, self._terms.name)
        former = {one for channel in self._spec.retry_channels for one in positions.predecessors(topics.topic(channel))}
        return f"goes on with the retries of {', '.join(sorted(former))}" if former else ""

    def _refusal(self, channel: str) -> str:
        """Why this login may not use a topic; empty: it may."""
        try:
            self._connection.client.get_topic_partitions(self._connection.topics.topic(channel))
        except pulsar.PulsarException as error:
            failure = translate(error, "look it up")
            if isinstance(failure, DriverRejected):
                return str(failure).removeprefix("pulsar: look it up: ")
            raise failure from error
        except DriverError as error:
            return str(error)
        return ""
