"""A process's view of the broker inside the process."""

from collections.abc import Mapping, Sequence
from heapq import heapify

from msgspec.structs import replace

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import (
    Backlog,
    Capabilities,
    Finding,
    Revoked,
    SubscriptionSpec,
    nothing_revoked,
)
from hexa_worker.drivers.memory.source import MemorySource
from hexa_worker.drivers.memory.store import MAX_PAYLOAD, MemoryStore, delivery_of
from hexa_worker.errors import DriverError, DriverRejected

CAPABILITIES = Capabilities(
    name="memory",
    durable=False,
    shared=True,
    order=frozenset(OrderBy),
    delays_events=True,
    delay_accuracy_s=0.05,
    redelivery_s=None,
    counts_deliveries=False,
    patterns=True,
    max_payload=MAX_PAYLOAD,
    virtual_time=True,
    keeps_attempts=True,
    notes=("Nothing outlives the process.",),
)


class MemoryDriver:
    """A process's view of a `MemoryStore`.

    Args:
        store: shared by all drivers that stand for one worker's processes; None makes a new one.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self._sources: list[MemorySource] = []

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def open(self) -> None:
        """Nothing to connect to, yet a store that is away cannot be opened."""
        self.store.require()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Driver.close`."""
        for source in self._sources:
            await source.close()
        self._sources.clear()

    def lose_leases(self) -> None:
        """Lose what all sources have in hand, and live on."""
        for source in self._sources:
            source.lose_leases()

    def crash(self) -> None:
        """Die without a goodbye: what was in hand goes to the other drivers."""
        for source in self._sources:
            source.crash()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        self.store.require()
        answers: list[str | DriverError] = []
        for message in messages:
            try:
                answers.append(self.store.append(message))
            except DriverRejected as error:
                answers.append(error)
        self.store.wake()
        return answers

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        """See `hexa_worker.drivers.base.Driver.declare`."""
        self.store.require()
        for spec in specs:
            self.store.declare(spec)

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        """See `hexa_worker.drivers.base.Driver.subscribe`."""
        self.store.require()
        del revoked  # nothing is ever taken from a living driver
        source = MemorySource(self.store, spec)
        self._sources.append(source)
        return source

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
        del since_ms
        self.store.require()
        owner = self.store.retry_owner.get(channel)
        if owner is not None:
            delayed = sorted((entry[2] for entry in owner[0].delayed), key=lambda delivery: delivery.offset)
            waiting = [delivery for delivery in delayed if delivery.channel == channel and delivery.offset > after]
            return waiting[:limit]
        log = self.store.logs.get(channel)
        if log is None:
            return []
        found: list[Delivery] = []
        start = max(after + 1 - log.base, 0)
        for position, message in enumerate(log.records[start:], start=log.base + start):
            if message is not None:
                found.append(delivery_of(message, channel, position))
                if len(found) == limit:
                    break
        return found

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """See `hexa_worker.drivers.base.Driver.remove`."""
        self.store.require()
        owner = self.store.retry_owner.get(channel)
        if owner is not None:
            gone = set(offsets)
            delayed = owner[0].delayed
            kept = [entry for entry in delayed if not (entry[2].channel == channel and entry[2].offset in gone)]
            removed = len(delayed) - len(kept)
            delayed[:] = kept
            heapify(delayed)
            return removed
        log = self.store.logs.get(channel)
        if log is None:
            return 0
        removed = 0
        for offset in offsets:
            place = offset - log.base
            if 0 <= place < len(log.records) and log.records[place] is not None:
                log.records[place] = None
                removed += 1
        return removed

    async def channels(self) -> Sequence[str]:
        """See `hexa_worker.drivers.base.Driver.channels`."""
        self.store.require()
        return sorted({*self.store.logs, *self.store.retry_owner})

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        store = self.store
        store.require()
        if spec.group in store.groups:
            found = store.backlog(spec.group)
        else:  # it never ran: it would begin with what is there, or after it
            unread = [] if spec.start == "latest" else [store.logs[one] for one in spec.channels if one in store.logs]
            found = Backlog(ready=sum(len(log.records) for log in unread), delayed=0, leased=0)
        letters = store.logs.get(spec.dead_letter_channel)
        dead = 0 if letters is None else sum(one is not None for one in letters.records)
        return replace(found, dead_letters=dead)

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        store = self.store
        store.require()
        return [
            *[Finding(kind="channel", name=one, exists=one in store.logs) for one in spec.channels],
            Finding(kind="group", name=spec.group, exists=spec.group in store.groups),
        ]

    async def inspect(self) -> Mapping[str, str]:
        """See `hexa_worker.drivers.base.Driver.inspect`."""
        self.store.require()
        return {"channels": str(len(self.store.logs))}
