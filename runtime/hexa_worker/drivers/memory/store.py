"""The broker inside the process. A channel is a list; a group has a position in each of its channels."""

from collections import deque
from heapq import heappop, heappush
from typing import Protocol

import anyio
from msgspec.structs import replace

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.drivers.base import Backlog, SubscriptionSpec
from hexa_worker.drivers.kit.delay_queue import left_ms
from hexa_worker.errors import DriverUnavailable, RecordTooLarge

STRIPES = 64
MAX_PAYLOAD = 64 * 1024 * 1024
TRIM_AFTER = 10_000
"""Records that all groups have read are forgotten so many at a time."""


class MemoryReader(Protocol):
    """A source, as far as the store knows it."""

    @property
    def arrived(self) -> anyio.Event:
        """Set when something may be deliverable."""
        ...


class MemoryLog:
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


class MemoryGroup:
    """What one group has read, has waiting and has due later."""

    def __init__(self, spec: SubscriptionSpec) -> None:
        self.spec = spec
        self.positions: dict[str, int] = {}
        self.order_by = spec.order_by
        self.stripes: dict[int, deque[Delivery]] = {}
        self.delayed: list[tuple[float, int, Delivery]] = []  # when each is due by the monotonic clock
        self.retry_sequence = 0
        self.held_stripes: dict[int, tuple[MemoryReader, int]] = {}
        self.leased = 0

    def stripe(self, delivery: Delivery) -> int:
        """The stripe that keeps the delivery's order; -1: it has none."""
        if self.order_by is OrderBy.NONE or delivery.attempt:
            return -1
        if self.order_by is OrderBy.CHANNEL:
            return stripe_of(delivery.channel.encode(), 0, STRIPES)
        return stripe_of(delivery.key, delivery.offset, STRIPES)


class MemoryStore:
    """The broker: what several memory drivers share.

    Args:
        clock: what is due is told by its wall clock when it comes, and waits by its other one.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.logs: dict[str, MemoryLog] = {}
        self.groups: dict[str, MemoryGroup] = {}
        self.retry_owner: dict[str, tuple[MemoryGroup, int]] = {}
        self.later: list[tuple[float, int, Message]] = []
        """Events that are not due yet, by when they are, by the monotonic clock."""
        self._later_count = 0
        self.sources: dict[MemoryReader, None] = {}  # in the order of their arrival: runs can be repeated exactly
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

    def log(self, channel: str) -> MemoryLog:
        """The log of `channel`, created on first use."""
        log = self.logs.get(channel)
        if log is None:
            log = self.logs[channel] = MemoryLog(channel)
            for group in self.groups.values():
                if group.spec.reads(channel):
                    group.positions[channel] = 0
        return log

    def declare(self, spec: SubscriptionSpec) -> MemoryGroup:
        """The group of `spec`, created or brought up to date."""
        group = self.groups.get(spec.group)
        if group is None:
            group = self.groups[spec.group] = MemoryGroup(spec)
        for channel in spec.channels_among(self.logs):
            if channel not in group.positions:
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
            raise RecordTooLarge(f"payload of {len(message.payload)} bytes is over the limit of {MAX_PAYLOAD}")
        now_ms = self.clock.now_ms()
        if not message.timestamp_ms:
            message = replace(message, timestamp_ms=now_ms)
        owner = self.retry_owner.get(message.channel)
        if owner is None and not message.due_ms:
            return self._append_to_log(message)
        due_s = self.clock.monotonic() + left_ms(message.due_ms, message.timestamp_ms, now_ms) / 1000
        if owner is None:
            return self._append_later(message, due_s)
        group, attempt = owner
        group.retry_sequence += 1
        delivery = delivery_of(message, message.channel, group.retry_sequence, attempt)
        heappush(group.delayed, (due_s, group.retry_sequence, delivery))
        return delivery.message_id

    def _append_to_log(self, message: Message) -> str:
        log = self.log(message.channel)
        log.records.append(message)
        return f"{message.channel}-{log.end - 1}"

    def _append_later(self, message: Message, due_s: float) -> str:
        self._later_count += 1
        heappush(self.later, (due_s, self._later_count, message))
        return f"{message.channel}-later-{self._later_count}"

    def move_due(self) -> None:
        """Put events into their channels that are due by now."""
        now, moved = self.clock.monotonic(), False
        while self.later and self.later[0][0] <= now:
            self._append_to_log(replace(heappop(self.later)[2], due_ms=0))
            moved = True
        if moved:
            self.wake()

    def backlog(self, name: str) -> Backlog:
        """What the group called `name` still has to do."""
        group, now = self.groups[name], self.clock.monotonic()
        later = [(due_s, message.due_ms) for due_s, _, message in self.later if group.spec.reads(message.channel)]
        waiting = [*later, *((due_s, delivery.due_ms) for due_s, _, delivery in group.delayed)]
        due = sum(1 for due_s, _ in waiting if due_s <= now)
        unread = sum(self.logs[channel].end - position for channel, position in group.positions.items())
        return Backlog(
            ready=unread + due + sum(map(len, group.stripes.values())),
            delayed=len(waiting) - due,
            leased=group.leased,
            next_due_ms=min(waiting)[1] if waiting else None,
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
            if done >= TRIM_AFTER:
                del log.records[:done]
                log.base += done


def delivery_of(message: Message, source: str, offset: int, attempt: int = 0) -> Delivery:
    """A record at its place, as it is handed out."""
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
