"""Retries that come before they are due: each is held for what is left of its delay, by a clock that never goes back.

A due time is of the wall clock of whoever wrote the record. If that was put back since, its delay is still known: it
is the time from writing to being due, and nothing waits for longer than that. If it was put forward, it is the time
that has really passed that counts.
"""

from collections import Counter
from heapq import heappop, heappush
from itertools import count

from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery


def left_ms(due_ms: int, written_ms: int, now_ms: int) -> int:
    """How long a record still waits; 0 or less: it is due.

    Args:
        due_ms: when it is due, by the wall clock.
        written_ms: when it was written; 0: not known.
        now_ms: the wall clock.
    """
    left = due_ms - now_ms
    return min(left, max(due_ms - written_ms, 0)) if written_ms else left


def written_ms(delivery: Delivery) -> int:
    """When a record was written, by the clock that its due time is of; as far as it tells, by the broker's."""
    return delivery.due_ms - delivery.delay_ms if delivery.delay_ms else delivery.timestamp_ms


class Unhurried:
    """The wall clock, as far as it has not been put forward since this was made.

    Args:
        clock: the clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_ms, self._begun = clock.now_ms(), clock.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        passed_ms = int((self._clock.monotonic() - self._begun) * 1000)
        return min(self._clock.now_ms(), self._begun_ms + passed_ms)


class DelayQueue:
    """What one source holds.

    Args:
        clock: the clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._unhurried = Unhurried(clock)
        self._held: list[tuple[float, int, Delivery]] = []
        self._number = count()
        self._by_source: Counter[str] = Counter()

    def held_of(self, source: str) -> int:
        """How many of one source are held."""
        return self._by_source[source]

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, delivery: Delivery) -> bool:
        """Hold a delivery; False, and it is not held, when it is due."""
        if not delivery.due_ms:
            return False
        left = left_ms(delivery.due_ms, written_ms(delivery), self._unhurried.now_ms())
        if left <= 0:
            return False
        heappush(self._held, (self._clock.monotonic() + left / 1000, next(self._number), delivery))
        self._by_source[delivery.source] += 1
        return True

    def take_due(self) -> list[Delivery]:
        """Everything that is due by now, in the order of due times; it is not held any more."""
        if not self._held:
            return []
        due: list[Delivery] = []
        now = self._clock.monotonic()
        while self._held and self._held[0][0] <= now:
            due.append(heappop(self._held)[2])
        self._by_source.subtract([one.source for one in due])
        return due

    def patience_s(self, longest_s: float) -> float:
        """How long until something is due, at most `longest_s`."""
        if not self._held:
            return longest_s
        return min(max(self._held[0][0] - self._clock.monotonic(), 0.001), longest_s)

    def dues_ms(self) -> list[int]:
        """When what is held is due, by the wall clock as it is now."""
        now_ms, now = self._clock.now_ms(), self._clock.monotonic()
        return [now_ms + round((at - now) * 1000) for at, _, _ in self._held]

    def clear(self) -> None:
        self._held.clear()
        self._by_source.clear()
