"""The memory driver: a broker inside the process, deterministic, in whatever time its clock tells.

A `MemoryStore` is the broker; each `MemoryDriver` on it stands for one process. A channel is a list; a group
has a position in each of its channels and reads on in order. Groups that keep order deal their deliveries
onto stripes, and a stripe is in the hands of one driver at a time.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from re import Pattern
from re import compile as compile_pattern

import anyio
from msgspec import structs

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, Released, RetryAt, Settlement
from hexa_worker.drivers.base import (
    Backlog,
    Capabilities,
    Finding,
    Revoked,
    SubscriptionSpec,
    Unsettled,
    nothing_revoked,
)
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, LeaseLost

STRIPES = 64
MAX_PAYLOAD = 64 * 1024 * 1024
_TRIM_AFTER = 10_000

CAPABILITIES = Capabilities(
    name="memory",
    durable=False,
    shared=True,
    order=frozenset(OrderBy),
    delay_accuracy_s=0.05,
    redelivery_s=None,
    counts_deliveries=False,
    patterns=True,
    max_payload=MAX_PAYLOAD,
    virtual_time=True,
    keeps_attempts=True,
    notes=("Nothing outlives the process.",),
)


class _Log:
    """One channel: its records, less what every group has read."""

    __slots__ = ("base", "kept", "name", "records")

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = 0
        self.records: list[Message | None] = []
        self.kept = False  # dead letters stay until they are removed

    @property
    def end(self) -> int:
        return self.base + len(self.records)


class _Group:
    """What one group has read, has waiting and has due later."""

    def __init__(self, spec: SubscriptionSpec) -> None:
        self.spec = spec
        self.pattern: Pattern[str] | None = compile_pattern(spec.pattern) if spec.pattern else None
        self.positions: dict[str, int] = {}
        self.order_by = spec.order_by
        self.stripes: dict[int, deque[Delivery]] = {}
        self.delayed: list[tuple[int, int, Delivery]] = []
        self.retry_sequence = 0
        self.held_stripes: dict[int, tuple[MemorySource, int]] = {}
        self.leased = 0

    def reads(self, channel: str) -> bool:
        if self.pattern is not None:
            return self.pattern.fullmatch(channel) is not None
        return channel in self.spec.channels

    def stripe(self, delivery: Delivery) -> int:
        if self.order_by is OrderBy.NONE or delivery.attempt:
            return -1
        if self.order_by is OrderBy.CHANNEL:
            return stripe_of(delivery.channel.encode(), 0, STRIPES)
        return stripe_of(delivery.key, delivery.offset, STRIPES)


class MemoryStore:
    """The broker: what several memory drivers share.

    Args:
        clock: its wall clock decides what is due.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.logs: dict[str, _Log] = {}
        self.groups: dict[str, _Group] = {}
        self.retry_owner: dict[str, tuple[_Group, int]] = {}
        self.sources: dict[MemorySource, None] = {}  # in the order of their arrival: runs can be repeated exactly
        self._away = False

    @property
    def away(self) -> bool:
        """Every call raises `DriverUnavailable`, as when a real broker cannot be reached. May be set."""
        return self._away

    @away.setter
    def away(self, away: bool) -> None:
        self._away = away
        self.wake()

    def require(self) -> None:
        """Raise unless the broker can be reached."""
        if self._away:
            raise DriverUnavailable("the memory broker is away")

    def log(self, channel: str) -> _Log:
        """The log of `channel`, created on first use."""
        log = self.logs.get(channel)
        if log is None:
            log = self.logs[channel] = _Log(channel)
            for group in self.groups.values():
                if group.reads(channel):
                    group.positions[channel] = 0
        return log

    def declare(self, spec: SubscriptionSpec) -> _Group:
        """The group of `spec`, created or brought up to date."""
        group = self.groups.get(spec.group)
        if group is None:
            group = self.groups[spec.group] = _Group(spec)
        for channel in spec.channels or tuple(self.logs):
            if channel not in group.positions and (spec.pattern is None or group.reads(channel)):
                log = self.log(channel)
                group.positions[channel] = log.end if spec.start == "latest" else log.base
        group.order_by = spec.order_by
        for number, name in enumerate(spec.retry_channels, start=1):
            self.retry_owner[name] = (group, number)
        self.log(spec.dead_letter_channel).kept = True
        return group

    def append(self, message: Message) -> str:
        """Store one message, in its log or among the delayed of the group that owns the retry channel."""
        if len(message.payload) > MAX_PAYLOAD:
            raise DriverRejected(f"payload of {len(message.payload)} bytes is over the limit of {MAX_PAYLOAD}")
        now_ms = self.clock.now_ms()
        if not message.timestamp_ms:
            message = _stamped(message, now_ms)
        owner = self.retry_owner.get(message.channel)
        if owner is None:
            log = self.log(message.channel)
            log.records.append(message)
            return f"{message.channel}-{log.end - 1}"
        group, attempt = owner
        group.retry_sequence += 1
        delivery = _delivery(message, message.channel, group.retry_sequence, attempt)
        heappush(group.delayed, (message.due_ms, group.retry_sequence, delivery))
        return delivery.message_id

    def backlog(self, name: str) -> Backlog:
        """What the group called `name` still has to do."""
        group, now_ms = self.groups[name], self.clock.now_ms()
        due = sum(1 for due_ms, _, _ in group.delayed if due_ms <= now_ms)
        unread = sum(self.logs[channel].end - position for channel, position in group.positions.items())
        return Backlog(
            ready=unread + due + sum(map(len, group.stripes.values())),
            delayed=len(group.delayed) - due,
            leased=group.leased,
            next_due_ms=group.delayed[0][0] if group.delayed else None,
        )

    def wake(self) -> None:
        """Something may be deliverable: waiting sources look again."""
        for source in self.sources:
            source.arrived.set()

    def trim(self) -> None:
        """Forget what every group has read."""
        for log in self.logs.values():
            positions = [group.positions[log.name] for group in self.groups.values() if log.name in group.positions]
            if log.kept or not positions:
                continue
            done = min(positions) - log.base
            if done >= _TRIM_AFTER:
                del log.records[:done]
                log.base += done


def _stamped(message: Message, now_ms: int) -> Message:
    return Message(
        channel=message.channel,
        payload=message.payload,
        key=message.key,
        headers=message.headers,
        timestamp_ms=now_ms,
        due_ms=message.due_ms,
    )


def _delivery(message: Message, source: str, offset: int, attempt: int = 0) -> Delivery:
    return Delivery(
        channel=message.channel,
        payload=message.payload,
        key=message.key,
        headers=message.headers,
        timestamp_ms=message.timestamp_ms,
        due_ms=message.due_ms,
        source=source,
        offset=offset,
        attempt=attempt,
    )


class MemorySource:
    """One subscription's deliveries in one driver."""

    def __init__(self, store: MemoryStore, spec: SubscriptionSpec) -> None:
        self.arrived = anyio.Event()
        self._store = store
        self._group = store.declare(spec)
        self._held: dict[tuple[str, int], tuple[int, Delivery]] = {}  # (source, offset) → (stripe, delivery)
        self._taken_away: dict[int, Delivery] = {}
        self._stopped = False
        self._lost = False
        store.sources[self] = None

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Source.receive`."""
        while not self._stopped:
            if self._lost:
                raise DriverUnavailable("this driver was cut off from its store")
            self._store.require()
            taken = self._take(max_count, max_bytes)
            if taken:
                return taken
            await self._wait()
        return []

    async def _wait(self) -> None:
        self.arrived = anyio.Event()
        delayed = self._group.delayed
        patience = (delayed[0][0] - self._store.clock.now_ms()) / 1000 if delayed else inf
        with anyio.move_on_after(max(patience, 0.001)):
            await self.arrived.wait()

    def _take(self, max_count: int, max_bytes: int) -> list[Delivery]:
        group = self._group
        self._promote_due()
        if group.order_by is OrderBy.NONE and not group.stripes:
            taken = self._read(max_count, max_bytes)
            self._held.update([((delivery.source, delivery.offset), (-1, delivery)) for delivery in taken])
        else:
            self._deal(max_count)
            taken = self._take_striped(max_count, max_bytes)
        group.leased += len(taken)
        return taken

    def _promote_due(self) -> None:
        group, now_ms = self._group, self._store.clock.now_ms()
        while group.delayed and group.delayed[0][0] <= now_ms:
            delivery = heappop(group.delayed)[2]
            group.stripes.setdefault(-1, deque()).append(delivery)

    def _read(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """The next deliveries of the group's channels, in log order; moves its positions."""
        taken: list[Delivery] = []
        size = 0
        for channel, position in self._group.positions.items():
            log = self._store.logs[channel]
            start = max(position - log.base, 0)
            for message in log.records[start : start + max_count - len(taken)]:
                if taken and size >= max_bytes:
                    break
                start += 1
                if message is not None:
                    size += len(message.payload)
                    taken.append(_delivery(message, channel, log.base + start - 1))
            self._group.positions[channel] = log.base + start
            if start >= _TRIM_AFTER:
                self._store.trim()
            if len(taken) >= max_count:
                break
        return taken

    def _deal(self, max_count: int) -> None:
        """Read ahead onto the stripes."""
        group = self._group
        for delivery in self._read(max_count, MAX_PAYLOAD):
            group.stripes.setdefault(group.stripe(delivery), deque()).append(delivery)

    def _take_striped(self, max_count: int, max_bytes: int) -> list[Delivery]:
        group = self._group
        taken: list[Delivery] = []
        size = 0
        for stripe in sorted(group.stripes):
            holder, count = group.held_stripes.get(stripe, (self, 0))
            if stripe >= 0 and holder is not self:
                continue
            queue = group.stripes[stripe]
            while queue and len(taken) < max_count and not (taken and size >= max_bytes):
                delivery = queue.popleft()
                size += len(delivery.payload)
                count += 1
                taken.append(delivery)
                self._held[delivery.source, delivery.offset] = (stripe, delivery)
            if not queue:
                del group.stripes[stripe]
            if count and stripe >= 0:
                group.held_stripes[stripe] = (self, count)
        return taken

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`."""
        if self._lost:
            return [Unsettled(settlement, LeaseLost("this driver was cut off")) for settlement in settlements]
        self._store.require()
        failed: list[Unsettled] = []
        wake = False
        released: list[tuple[int, Delivery]] = []
        for settlement in settlements:
            if (settlement.delivery.source, settlement.delivery.offset) not in self._held:
                if id(settlement.delivery) in self._taken_away:
                    failed.append(Unsettled(settlement, LeaseLost("the lease was lost")))
                continue  # settled before
            if isinstance(settlement, Postponed):
                self._postpone(settlement)
                continue
            error = self._store_record(settlement)
            if error is not None:
                failed.append(Unsettled(settlement, error))
                continue
            stripe, delivery = self._let_go(settlement.delivery)
            if isinstance(settlement, Released):
                released.append((stripe, delivery))
            wake = wake or stripe >= 0 or not isinstance(settlement, Acked)
        self._hand_back(released)
        if wake:
            self._store.wake()
        return failed

    def _store_record(self, settlement: Settlement) -> DriverRejected | None:
        if isinstance(settlement, RetryAt | DeadLettered):
            try:
                self._store.append(settlement.record)
            except DriverRejected as error:
                return error
        return None

    def _postpone(self, settlement: Postponed) -> None:
        """Whoever gets it after us gets it as the next attempt."""
        place = settlement.delivery.source, settlement.delivery.offset
        stripe, delivery = self._held[place]
        again = settlement.again
        self._held[place] = stripe, structs.replace(delivery, attempt=again.attempt, due_ms=again.due_ms)

    def _let_go(self, delivery: Delivery) -> tuple[int, Delivery]:
        held = self._held.pop((delivery.source, delivery.offset))
        stripe = held[0]
        group = self._group
        group.leased -= 1
        if stripe >= 0:
            count = group.held_stripes[stripe][1] - 1
            if count:
                group.held_stripes[stripe] = (self, count)
            else:
                del group.held_stripes[stripe]
        return held

    def _hand_back(self, released: Sequence[tuple[int, Delivery]]) -> None:
        """Put deliveries back in front, in their own order."""
        for stripe, delivery in sorted(released, key=lambda held: held[1].offset, reverse=True):
            self._group.stripes.setdefault(stripe, deque()).appendleft(delivery)

    async def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Source.backlog`."""
        self._store.require()
        return self._store.backlog(self._group.spec.group)

    def stop(self) -> None:
        """See `hexa_worker.drivers.base.Source.stop`."""
        self._stopped = True
        self.arrived.set()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Source.close`."""
        self.crash()

    def lose_leases(self) -> None:
        """Lose everything in hand but live on, as a process that was frozen does: others get it at once."""
        lost = [self._let_go(delivery) for _, delivery in list(self._held.values())]
        self._taken_away.update([(id(delivery), delivery) for _, delivery in lost])
        self._hand_back(lost)
        self._store.wake()

    def crash(self) -> None:
        """Lose everything in hand, as a process that dies does: others get it at once."""
        self._stopped = True
        if not self._lost:
            self._lost = True
            self._store.sources.pop(self, None)
            self._hand_back([self._let_go(delivery) for _, delivery in list(self._held.values())])
            self._store.wake()
        self.arrived.set()


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
        """What it promises."""
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

    async def browse(self, channel: str, after: int, limit: int) -> Sequence[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
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
                found.append(_delivery(message, channel, position))
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
        return structs.replace(found, dead_letters=dead)

    async def survey(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """See `hexa_worker.drivers.base.Driver.survey`."""
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
