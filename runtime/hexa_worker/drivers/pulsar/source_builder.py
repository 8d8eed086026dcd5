"""What makes a source of a subscription: consumers for channels and retry channels, a gauge, a look-out for new ones.

Blocking; for threads.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

import pulsar

from hexa_worker.clock import Clock
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.backlog import Gauge
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.consumer import ConsumerThread
from hexa_worker.drivers.pulsar.consumer_settings import ConsumerSettings
from hexa_worker.drivers.pulsar.errors import name_of, translate
from hexa_worker.drivers.pulsar.flow import Flow, size_in
from hexa_worker.drivers.pulsar.names import whole_topic
from hexa_worker.drivers.pulsar.positions import NOTE_EVERY_S, Positions
from hexa_worker.drivers.pulsar.source import ACKED_S, PulsarSource, SourceHooks
from hexa_worker.drivers.pulsar.wire import PulsarOrigin
from hexa_worker.errors import DriverError

FIND_S = 2.0
"""How soon a new channel that matches a pattern is found."""
NOTE_REST = 20
"""After a look at where a subscription stands there is none for so many times as long as it took, at least."""
log = logging.getLogger("hexa_worker.drivers.pulsar")


class SourceBuilder:
    """Puts one source together.

    Args:
        connection: the client.
        admin: the REST API.
        clock: tells what is due.
        spec: the subscription.
        make: makes the source, still without consumers.
        positions: where the subscription stands.
        find: the channels to read that exist now.
        prepare: makes a topic with partitions where that is wanted.
        release: told of each topic that is subscribed to.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: PulsarConnection,
        admin: Admin,
        clock: Clock,
        spec: SubscriptionSpec,
        make: Callable[[SourceHooks], PulsarSource],
        positions: Positions,
        *,
        find: Callable[[], Sequence[str]],
        prepare: Callable[[str], None],
        release: Callable[[str], None],
    ) -> None:
        owner = uuid.uuid4().hex
        topic_of = connection.topics.topic
        self._connection = connection
        self._admin = admin
        self._spec = spec
        self._terms = ConsumerSettings(spec, owner)
        self._find = find
        self._prepare = prepare
        self._release = release
        self._topics: list[str] = []
        self._attempts = {topic_of(name): number for number, name in enumerate(spec.retry_channels, start=1)}
        self._gauge = Gauge(
            connection,
            admin,
            clock,
            subscription=self._terms.name,
            owner=owner,
            channels=lambda: tuple(self._topics),
            retries=tuple(self._attempts),
        )
        self._positions = positions
        self._noted_at = self._noting_s = 0.0
        self._ending = threading.Event()
        self.source = make(SourceHooks(self._gauge.measure, self._ending.set, self._gauge.close, self._note))

    def begin(self) -> None:
        """Subscribe and let everything run.

        Raises:
            DriverError: the subscription cannot be had.
        """
        self._add_channels([self._connection.topics.topic(channel) for channel in self._find()])
        retries = list(self._attempts)
        if retries:  # a reader of one's own may have none
            for topic in retries:
                self._positions.begin(topic, start="earliest", of_retries=True)
            subscribe = partial(self._terms.subscribe_retries, topics=retries)
            self._add(subscribe, f"retries of {self._spec.action}", retries, beside=0, retry=True)
        threading.Thread(target=self._note_on, name="hexa-pulsar-note", daemon=True).start()
        if self._spec.pattern is not None:
            threading.Thread(target=self._look_out, name="hexa-pulsar-find", daemon=True).start()

    def _add_channels(self, topics: Sequence[str], *, later: bool = False) -> None:
        """Read more channels: together, or each by itself where a process can have each for itself.

        Where the subscription begins is said once, when it is made here. Whoever makes it again later (the client
        library does, when it was removed or its topic was) begins with the oldest: what waits must not be skipped.
        """
        groups = [[topic] for topic in topics] if self._terms.alone else [list(topics)] if topics else []
        total = len(self._topics) + len(topics)
        start = "earliest" if later else self._spec.start
        for group in groups:
            for topic in group:
                self._prepare(topic)
            fresh = [topic for topic in group if not self._positions.begin(topic, start=start)]
            if fresh and start != "earliest":
                self._begin_where_wanted(fresh)
            subscribe = partial(self._terms.subscribe, topics=group, start="earliest")
            names = ", ".join(self._connection.topics.channel(topic) for topic in group[:3])
            what = f"{names}{', …' if len(group) > 3 else ''} as {self._terms.name}"  # noqa: PLR2004
            self._add(subscribe, what, group, beside=total - len(group))
            self._topics += group
            for topic in group:
                self._release(topic)

    def _begin_where_wanted(self, group: Sequence[str]) -> None:
        """Make the subscription of topics, where it is not there yet."""
        try:
            self._terms.subscribe(self._connection.client, topics=group).close()
        except pulsar.PulsarException as error:
            if name_of(error) != "ConsumerBusy":  # somebody uses it: it exists
                raise translate(error, f"subscribe to {self._connection.topics.channel(group[0])}") from error

    def _add(
        self, subscribe: Callable[..., object], what: str, topics: Sequence[str], *, beside: int, retry: bool = False
    ) -> None:
        """Read topics; `beside`: how many more of their kind are read by others."""
        source = self.source
        parts = self._parts(topics[0])
        alone = len(topics) == 1 and parts == [topics[0]]
        budget = self._spec.mailbox_bytes // (4 if retry else 2)
        flow = Flow(self._terms.options.receiver_queue, budget // ((len(topics) + beside) * len(parts)))
        flow.expect(size_in(self._connection, self._admin, [*topics, *(self._topics if retry else ())]))
        consumer = ConsumerThread(
            self._connection,
            subscribe,
            what,
            origin_of=self._origin,
            only_topic=topics[0] if alone else None,
            known=source.known,
            flow=flow,
            positions=self._positions,
            arrived=source.arrived,
            full=source.full if self._terms.delays and not retry else source.retries_full,
            changed=source.changed,
            retries=retry,
            standby=self._terms.standby and not retry,
        )
        consumer.begin()
        source.consumers.append(consumer)
        if self._ending.is_set():  # the source was closed meanwhile, and this one was not there yet
            consumer.close()

    # -- where it stands

    def _note_on(self) -> None:
        """Note where the subscription stands, again and again while it moves."""
        self._note(first=True)
        while not self._ending.wait(max(NOTE_EVERY_S, NOTE_REST * self._noting_s)):
            self._note()

    def _note(self, *, first: bool = False) -> None:
        """Note where it stands, if it may have moved since."""
        if not first and self.source.settled_at < self._noted_at - ACKED_S:
            return
        began = self._noted_at = monotonic()
        try:
            self._positions.look([*self._topics, *self._attempts])
        except DriverError as error:
            log.debug("pulsar: cannot note where %s stands: %s", self._spec.action, error)
        except Exception:
            log.exception("pulsar: noting where %s stands failed", self._spec.action)
        self._noting_s = monotonic() - began

    def _parts(self, topic: str) -> Sequence[str]:
        """A topic's partitions, or itself."""
        try:
            found: Sequence[str] = self._connection.client.get_topic_partitions(topic)
        except pulsar.PulsarException as error:
            raise translate(error, f"look at {self._connection.topics.channel(topic)}") from error
        return found

    def _origin(self, topic: str) -> PulsarOrigin:
        topics = self._connection.topics
        return PulsarOrigin(topics.source(topic), topics.channel(topic), self._attempts.get(whole_topic(topic), 0))

    def _look_out(self) -> None:
        """Find channels that are made later and match the pattern."""
        topic_of = self._connection.topics.topic
        while not self._ending.wait(FIND_S):
            try:
                found = map(topic_of, self._find())
                fresh = [topic for topic in found if topic not in self._topics]
                if fresh:
                    self._add_channels(fresh, later=True)
            except DriverError as error:
                log.debug("pulsar: cannot look for new channels of %s: %s", self._spec.action, error)
            except Exception:
                log.exception("pulsar: looking for new channels of %s failed", self._spec.action)
