"""Retries that came before they were due and were sent back: when each is due, by a clock that never goes back."""

from math import ceil

from hexa_worker.clock import Clock
from hexa_worker.drivers.holding import Unhurried, left_ms

KEPT = 10_000
FORGET_S = 60.0
CLOCKS_MS = 5
"""The wall clock counts whole milliseconds, and is read a moment before the other one."""


class EarlyRetries:
    """What one feed sent back.

    Args:
        clock: the clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._unhurried = Unhurried(clock)
        self._due_at: dict[int, float] = {}
        self._due_ms: dict[int, int] = {}  # the same as their records say it
        self._limit = KEPT

    def __len__(self) -> int:
        return len(self._due_at)

    def left_ms(self, sequence: int, due_ms: int, written_ms: int) -> int:
        """How long a message that has come still waits; 0, and it is forgotten, when it is due.

        Args:
            sequence: its number.
            due_ms: when it is due, by the wall clock.
            written_ms: when it was written.
        """
        due_at = self._due_at.pop(sequence, None)
        self._due_ms.pop(sequence, None)
        wall_ms = self._unhurried.now_ms() if due_at is None else 0
        now = self._clock.monotonic()  # last: what passes between two readings makes it late, and not early
        left = left_ms(due_ms, written_ms, wall_ms) if due_at is None else ceil((due_at - now) * 1000)
        if left <= 0:
            return 0
        self._forget_old(now)
        self._due_at[sequence] = now + left / 1000 if due_at is None else due_at
        self._due_ms[sequence] = due_ms
        return left

    def _forget_old(self, now: float) -> None:
        """What was due a while ago came to another process then."""
        if len(self._due_at) >= self._limit:
            self._due_at = {one: at for one, at in self._due_at.items() if at > now - FORGET_S}
            self._due_ms = {one: self._due_ms[one] for one in self._due_at}
            self._limit = max(2 * len(self._due_at), KEPT)

    def dues_ms(self) -> list[int]:
        """When what still waits is due, as its record says it; by the wall clock as it is now if that jumped."""
        now_ms, now = self._clock.now_ms(), self._clock.monotonic()
        dues = [(self._due_ms[one], now_ms + round((at - now) * 1000)) for one, at in self._due_at.items() if at > now]
        return [written if abs(written - left) <= CLOCKS_MS else left for written, left in dues]

    def forget(self, sequence: int) -> None:
        """It is settled."""
        self._due_at.pop(sequence, None)
        self._due_ms.pop(sequence, None)

    def clear(self) -> None:
        """Forget everything."""
        self._due_at.clear()
        self._due_ms.clear()
