"""The room of deliveries that cannot end: the broker refuses their retry or dead-letter record, and not for its size.

Parked ones take no room in the mailbox, so nothing behind them waits. They are tried again now and then, some at a
time, all of them as soon as one was taken. When their own room is full the subscription receives no more.
"""

from collections import deque
from collections.abc import Callable, Collection

import msgspec

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.errors import DriverError
from hexa_worker.telemetry.stats import Counters

PARKED_RETRY_S = 30.0
TRIED_AT_ONCE = 50


class Parked(msgspec.Struct, frozen=True):
    """One of them.

    Attributes:
        settlement: what the broker refuses.
        reason: what it said.
    """

    settlement: Settlement
    reason: str

    @property
    def delivery(self) -> Delivery:
        return self.settlement.delivery


class Parking:
    """One worker's parked deliveries.

    Args:
        limit: with so many it is full.
        limit_bytes: with so many bytes of payload it is full.
        stats: shows how many there are.
        monotonic: a clock.
    """

    def __init__(self, *, limit: int, limit_bytes: int, stats: Counters, monotonic: Callable[[], float]) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._stats = stats
        self._monotonic = monotonic
        self._parked: deque[Parked] = deque()
        self._bytes = 0
        self._next_s = 0.0
        self._trying = 0  # of those that are being tried, how many were not refused again so far
        stats.parked = 0

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def full(self) -> bool:
        return len(self._parked) >= self._limit or self._bytes >= self._limit_bytes

    @property
    def parked(self) -> tuple[Parked, ...]:
        """All of them, the next to be tried first."""
        return tuple(self._parked)

    @property
    def patience_s(self) -> float:
        """How long until some are due to be tried."""
        return max(self._next_s - self._monotonic(), 0.0)

    def park(self, settlement: Settlement, error: DriverError) -> None:
        if not self._parked and not self._trying:  # those that come later put it off no further
            self._next_s = self._monotonic() + PARKED_RETRY_S
        self._parked.append(Parked(settlement, str(error)))
        self._bytes += len(settlement.delivery.payload)
        self._stats.parked = len(self._parked)
        self._trying = max(self._trying - 1, 0)  # a new one counts too: its like would be refused

    def take_due(self) -> list[Settlement]:
        """Those to be tried now; they are parked no more."""
        if not self._parked or self._monotonic() < self._next_s:
            return []
        self._next_s = self._monotonic() + PARKED_RETRY_S
        due = [self._parked.popleft().settlement for _ in range(min(TRIED_AT_ONCE, len(self._parked)))]
        self._trying = len(due)
        self._bytes -= sum(len(one.delivery.payload) for one in due)
        self._stats.parked = len(self._parked)
        return due

    def tried(self) -> None:
        """What was taken last was tried: if some of it was taken by the broker, the rest is due."""
        if self._trying:
            self._trying = 0
            self._next_s = self._monotonic()

    def take(self, wanted: Callable[[Delivery], bool]) -> list[Parked]:
        """Take out those that are `wanted`."""
        taken = [one for one in self._parked if wanted(one.delivery)]
        if taken:
            self._parked = deque(one for one in self._parked if not wanted(one.delivery))
            self._bytes -= sum(len(one.delivery.payload) for one in taken)
            self._stats.parked = len(self._parked)
        return taken

    def hasten(self, ids: Collection[str] | None) -> int:
        """Try those with these message ids, or all, as soon as possible; how many there are."""
        wanted = self.take(lambda delivery: ids is None or delivery.message_id in ids)
        self._parked.extendleft(reversed(wanted))
        self._bytes += sum(len(one.delivery.payload) for one in wanted)
        self._stats.parked = len(self._parked)
        self._next_s = self._monotonic()
        return len(wanted)
