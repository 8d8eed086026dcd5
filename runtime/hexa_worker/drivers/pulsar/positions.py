"""Where a subscription stands in its topics, noted in their properties: one that was removed goes on there.

Who removes a subscription removes its progress, and the client library makes it again by itself, from the oldest
message that is kept. So what is settled without a gap is noted as a property of the topic, and goes only with it. Each
subscription gets a mark, too: one without a mark is not the one that was noted. One that has it and stands further back
was put there by an operator, or by a broker that forgot acknowledgements, and is left there. Blocking; for threads.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.names import BATCHES, TopicNames, place
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

NOTE_EVERY_S = 10.0
"""A position that moves is noted this often, and when its reader stops: that much may come again."""
DECLARED_S = 5.0
"""A subscription that was made is taken for one that is there for so long, once."""
MARK = "hexa-worker"
log = logging.getLogger("hexa_worker.drivers.pulsar")


class Position(NamedTuple):
    """Everything up to this entry is settled."""

    ledger: int
    entry: int

    @classmethod
    def parse(cls, text: Any) -> "Position | None":
        """Of ``ledger:entry``; None: it is no such text."""
        ledger, mark, entry = str(text).partition(":")
        with suppress(ValueError):
            return cls(int(ledger), int(entry)) if mark else None
        return None

    def __str__(self) -> str:
        return f"{self.ledger}:{self.entry}"

    @property
    def floor(self) -> int:
        """The greatest offset of what is settled; -1: it cannot be told by an offset."""
        if self.ledger < 0 or self.entry < 0:
            return -1
        addition, offset = place(self.ledger, self.entry, BATCHES - 1)
        return -1 if addition else offset


BEFORE_ALL = Position(-1, -1)


class Positions:
    """The positions of one subscription.

    Args:
        admin: the REST API.
        topics: the names.
        subscription: its name in the brokers.
    """

    def __init__(self, admin: Admin, topics: TopicNames, subscription: str) -> None:
        self.floors: dict[str, int] = {}
        """Up to which offset all of a source is settled, as far as was known at the last look."""
        self._admin = admin
        self._topics = topics
        self._name = subscription
        self._property = f"{MARK}.position.{subscription}"
        self._known: dict[str, Position] = {}
        self._parts: dict[str, str] = {}  # by their sources
        self._refused = False
        self._declared: dict[str, float] = {}
        self._lock = threading.Lock()

    # -- where it begins

    def begin(self, topic: str, *, start: str, of_retries: bool = False) -> bool:
        """Make the subscription where it stood, on each part of a topic that it was removed from.

        One that is new there is left to whoever subscribes next, but said.

        Args:
            topic: whose.
            start: ``earliest`` or ``latest``, for a subscription that is new.
            of_retries: whether it goes on with what another subscription of ours has left of the topic.

        Returns:
            Whether it is there now; false, too, when that is not known.

        Raises:
            DriverUnavailable: it is not known where it stood, and would begin with the newest.
        """
        if monotonic() - self._declared.pop(topic, -DECLARED_S) < DECLARED_S:
            return True
        try:
            return self._begin(topic, start, of_retries=of_retries)
        except DriverError as error:
            if isinstance(error, DriverUnavailable) and start != "earliest":
                raise
            log.info("pulsar: cannot tell whether %s was removed from %s: %s", self._name, topic, error)
            return False

    def declared(self, topic: str) -> None:
        """The subscription was made there just now: whoever reads it next need not ask again."""
        self._declared[topic] = monotonic()

    def _begin(self, topic: str, start: str, *, of_retries: bool) -> bool:
        parts = self._admin.part_names(topic)
        fresh = [part for part in parts if self._name not in self._admin.subscriptions(part)]
        there = True
        for part in fresh:
            origin, why = self._origin(part, of_retries=of_retries)
            if origin is None and len(fresh) < len(parts):  # a partition that was added while nobody read
                origin, why = BEFORE_ALL, "it is there in other partitions"
            where = f"pulsar: {self._topics.source(part)}: subscription {self._name} starts"
            if origin is None:
                log.info("%s at the %s message, because it is new (start)", where, _OLDEST.get(start, "newest"))
                there = False
                continue
            self._admin.make_subscription(part, self._name, _next(origin), {MARK: "1"})
            log.warning("%s %s, because %s", where, _told(origin), why)
        return there

    def _origin(self, part: str, *, of_retries: bool) -> tuple[Position | None, str]:
        """Where it stood, and how that is known."""
        noted = self._noted(part)
        if noted is None and not of_retries:
            return None, ""
        stats = self._admin.internal_stats(part) or {}
        last = Position.parse(stats.get("lastConfirmedEntry")) or BEFORE_ALL
        if noted is not None:
            if noted <= last:
                return noted, "it was removed, and that is noted as settled"
            return BEFORE_ALL, f"it was removed, and what is noted as settled ({noted}) is not there"
        former = self._predecessors(part, stats)
        if not former:
            return None, ""
        return max(former.values()), f"the retries up to there were settled by {', '.join(sorted(former))}"

    def predecessors(self, topic: str) -> Sequence[str]:
        """The other subscriptions of ours whose retries it will go on with, if it starts now.

        Raises:
            DriverError: the admin API does not tell.
        """
        found: set[str] = set()
        for part in self._admin.part_names(topic):
            stats = self._admin.internal_stats(part) or {}
            if self._name not in stats.get("cursors", {}):
                found.update(self._predecessors(part, stats))
        return sorted(found)

    def _predecessors(self, part: str, stats: Mapping[str, Any]) -> Mapping[str, Position]:
        """Where other subscriptions of ours stand in a part of a retry channel, which only its own action reads."""
        found: dict[str, Position] = {}
        for name, cursor in stats.get("cursors", {}).items():
            stands = Position.parse(cursor.get("markDeletePosition"))
            if name != self._name and stands is not None and MARK in self._admin.subscription_properties(part, name):
                found[name] = stands
        return found

    def _noted(self, part: str) -> Position | None:
        return Position.parse(self._admin.properties(part).get(self._property))

    # -- where it is

    def look(self, topics: Sequence[str]) -> None:
        """Note where it stands in topics, and put it back where it stood if it was made again elsewhere.

        Raises:
            DriverError: the admin API does not tell.
        """
        for topic in topics:
            for part in self._admin.part_names(topic):
                self._look_at(part)

    def were_settled(self, source: str) -> bool:
        """Whether messages that come from before a source's floor come again though they were settled.

        They do when the subscription was removed and made again: then it stands at its floor again when this returns.
        """
        floor = self.floors[source]
        try:
            self._look_at(self._parts[source])
        except DriverError as error:
            log.info("pulsar: cannot tell why messages of %s come again: %s", source, error)
            self.floors[source] = -1  # until the next look
        return self.floors[source] >= floor

    def _look_at(self, part: str) -> None:
        with self._lock:
            stats = self._admin.internal_stats(part) or {}
            stands = Position.parse(stats.get("cursors", {}).get(self._name, {}).get("markDeletePosition"))
            if stands is None:
                return  # removed, and not there again yet
            first = part not in self._known
            known = self._noted(part) if first else self._known[part]
            if first or known is None or stands < known or stands.ledger != known.ledger:  # perhaps made again
                last = Position.parse(stats.get("lastConfirmedEntry")) or BEFORE_ALL
                given = self._marked(part, stands, known if known is not None and known <= last else None)
                if given is None:
                    return
                stands = given
            if stands != known:
                self._note(part, stands)
            source = self._topics.source(part)
            self._known[part], self._parts[source], self.floors[source] = stands, part, stands.floor

    def _marked(self, part: str, stands: Position, known: Position | None) -> Position | None:
        """Where the subscription stands when it has its mark; None: it can have none."""
        properties = self._admin.subscription_properties(part, self._name)
        if MARK in properties:
            return stands
        if known is not None and stands < known:
            self._admin.reset_subscription(part, self._name, _next(known))
            log.warning(
                "pulsar: %s: subscription %s was removed and made again: it starts %s, because that was settled",
                self._topics.source(part),
                self._name,
                _told(known),
            )
            stands = known
        self._admin.describe_subscription(part, self._name, {**properties, MARK: "1"})
        return stands if MARK in self._admin.subscription_properties(part, self._name) else None

    def _note(self, part: str, position: Position) -> None:
        if self._refused:
            return
        try:
            self._admin.set_properties(part, {self._property: str(position)})
        except DriverRejected as error:
            self._refused = True
            log.info(
                "pulsar: where subscription %s stands cannot be noted: if it is removed while no worker runs, it "
                "starts as a new one does: %s",
                self._name,
                error,
            )


_OLDEST = {"earliest": "oldest"}


def _next(position: Position) -> tuple[int, int]:
    """The first message that is not settled."""
    return position if position == BEFORE_ALL else (position.ledger, position.entry + 1)


def _told(position: Position) -> str:
    return "at the oldest message" if position == BEFORE_ALL else f"behind message {position}"
