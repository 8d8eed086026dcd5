"""Finds everything that is known of one event's tree: remembered in the lineage store, waiting in channels."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing

import anyio
import msgspec

from hexa_worker.core import snoozes
from hexa_worker.core.lineage import SNOOZES, Lineage, lineage_of
from hexa_worker.core.message import Delivery, header
from hexa_worker.dead_letters.dead_letter import read_letter
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.errors import DriverError
from hexa_worker.lineage.base import LineageStore
from hexa_worker.lineage.finding import find, written_since_ms
from hexa_worker.lineage.tree import Node, WaitingRecord, build

PAGE = 500
SCAN_LIMIT = 100_000
"""Records of one channel that are looked at; a longer channel is searched only so far, and said to be."""


AT_ONCE = 8
"""So many channels are searched at the same time."""


class Traced(msgspec.Struct, frozen=True):
    """What is known of an event.

    Attributes:
        tree: all that came of it; None: nothing is known of it.
        cut: the channels that were too long to be searched to their end.
        unread: the channels that could not be read, each with the reason.
    """

    tree: Node | None
    cut: tuple[str, ...]
    unread: Mapping[str, str]


class Tracer:
    """Looks for trees.

    Args:
        driver: an open driver that knows the subscriptions.
        specs: the subscriptions.
        store: what was remembered; None: nothing.
        remembers: whether lineage is recorded at all; if not, a record in an ordinary channel says nothing about
            who has handled it.
    """

    def __init__(
        self, driver: Driver, specs: Sequence[SubscriptionSpec], store: LineageStore | None, *, remembers: bool
    ) -> None:
        self._driver = driver
        self._specs = specs
        self._store = store
        self._remembers = remembers
        self._cut: set[str] = set()
        self._unread: dict[str, str] = {}

    async def trace(self, event_id: str) -> Traced:
        """The tree that `event_id` belongs to, whichever of its events it names.

        Channels that none of the subscriptions reads are looked into only for an event of which nothing is known.

        Raises:
            StoreError: the lineage store cannot be read.
            DriverUnavailable: the broker went away.

        Cancellation: safe.
        """
        entries = find(self._store, event_id) if self._store is not None else []
        root_id = next((entry.root_id for entry in entries if entry.event_id == event_id), event_id)
        own = await self._own()
        found = await self._search(root_id, own)
        if not entries and not found:
            foreign = set(await self._driver.channels()) - own  # there may be thousands
            found = await self._search(root_id, foreign)
            if not found:
                return Traced(None, tuple(sorted(self._cut)), self._unread)
        if not entries and root_id not in {ids.root_id for ids, _, _ in found}:
            root_id = found[0][0].root_id
            entries = find(self._store, root_id) if self._store is not None else []
            found = [hit for hit in found if hit[1] not in own] + await self._search(root_id, own)
        handled = {(entry.event_id, entry.action) for entry in entries}
        # Brokers that keep a log keep a retry after it was handled, too.
        retried = {entry.message_id for entry in entries if entry.outcome != "released"}
        waiting = [one for hit in found for one in self._waiting(hit, handled, retried)]
        tree = build(root_id, [entry for entry in entries if entry.root_id == root_id], waiting)
        self._name_channels(tree, found)
        return Traced(tree, tuple(sorted(self._cut)), self._unread)

    async def _own(self) -> set[str]:
        """The channels that the subscriptions read, their retry channels and dead letters."""
        known = await self._driver.channels() if any(spec.pattern is not None for spec in self._specs) else ()
        own = {name for spec in self._specs for name in (*spec.channels, *_failure_channels(spec))}
        return own | {name for name in known if any(spec.reads(name) for spec in self._specs)}

    async def _search(self, event_id: str, channels: Collection[str]) -> list["Hit"]:
        """The records of some channels that belong to the tree of `event_id`, or are that event."""
        hits: dict[str, list[Hit]] = {}
        away: list[DriverError] = []
        left = sorted(channels, reverse=True)
        since_ms = written_since_ms(event_id)  # nothing of a tree is older than its root

        async def search() -> None:
            while left and not away:
                channel = left.pop()
                try:
                    hits[channel] = await self._search_in(channel, event_id, since_ms)
                except DriverError as error:
                    away.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(min(AT_ONCE, len(left))):
                tasks.start_soon(search)
        if away:
            raise away[0]
        return [hit for channel in sorted(hits) for hit in hits[channel]]

    async def _search_in(self, channel: str, event_id: str, since_ms: int) -> list["Hit"]:
        hits: list[Hit] = []
        try:
            async with aclosing(self._read(channel, since_ms)) as deliveries:
                async for delivery in deliveries:
                    ids = lineage_of(delivery)
                    if event_id in {ids.root_id, ids.event_id}:
                        hits.append((ids, channel, delivery))
        except DriverError as error:
            await self._driver.inspect()  # raises when it is not the channel but the broker
            self._unread[channel] = str(error)
        return hits

    async def _read(self, channel: str, since_ms: int) -> AsyncGenerator[Delivery, None]:
        after, seen = -1, 0
        while page := await self._driver.browse(channel, after, PAGE, since_ms):
            for delivery in page:
                yield delivery
            after = page[-1].offset
            seen += len(page)
            if seen >= SCAN_LIMIT:
                self._cut.add(channel)
                return

    def _waiting(self, hit: "Hit", handled: set[tuple[str, str]], retried: set[str | None]) -> list[WaitingRecord]:
        """What the record of `hit` waits for, per action.

        Args:
            hit: a record that was found.
            handled: events and the actions that have handled them.
            retried: ids of the records that were handled.
        """
        ids, channel, delivery = hit
        for spec in self._specs:
            if channel == spec.dead_letter_channel:
                letter = read_letter(delivery, spec.action)
                return [_wait(ids, spec.action, delivery, letter.attempt, dead=True, error=letter.error)]
            if channel in spec.retry_channels:
                if delivery.message_id in retried:
                    return []
                number = spec.retry_channels.index(channel) + 1
                attempt, count = snoozes.read(header(delivery.headers, SNOOZES), number)
                return [_wait(ids, spec.action, delivery, attempt, count)]
        if not self._remembers:
            return []
        readers = [spec for spec in self._specs if spec.reads(channel)]
        return [_wait(ids, spec.action, delivery, 0) for spec in readers if (ids.event_id, spec.action) not in handled]

    def _name_channels(self, tree: Node, found: Sequence["Hit"]) -> None:
        """Say of events that nobody has handled where they are."""
        own = {name for spec in self._specs for name in _failure_channels(spec)}
        places = {ids.event_id: channel for ids, channel, _ in found if channel not in own}
        nodes = [tree]
        while nodes:
            node = nodes.pop()
            node.channel = node.channel or places.get(node.event_id)
            nodes += node.children


Hit = tuple[Lineage, str, Delivery]


def _failure_channels(spec: SubscriptionSpec) -> Iterable[str]:
    return (*spec.retry_channels, spec.dead_letter_channel)


def _wait(  # noqa: PLR0913 - what a Waiting holds
    ids: Lineage,
    action: str,
    delivery: Delivery,
    attempt: int,
    count: int = 0,
    *,
    dead: bool = False,
    error: str | None = None,
) -> WaitingRecord:
    return WaitingRecord(
        event_id=ids.event_id,
        root_id=ids.root_id,
        parent_id=ids.parent_id,
        action=action,
        channel=delivery.channel,
        message_id=delivery.message_id,
        attempt=attempt,
        snoozes=count,
        at_ms=delivery.timestamp_ms,
        due_ms=delivery.due_ms,
        dead=dead,
        error=error,
    )
