"""Retries that came before they were due and were sent back: when each is due, by a clock that never goes back."""

from math import ceil

from hexa_worker.clock import Clock
from hexa_worker.drivers.kit.delay_queue import Unhurried, left_ms

KEPT = 10_000
FORGET_S = 60.0
CLOCKS_MS = 5
"""The wall clock counts whole milliseconds, and is read a moment before the other one."""


class EarlyRetries:
    """What one pull_consumer sent back.

    Args:
        clock: the clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._unhurried = Unhurried(clock)
        self._dues: dict[int, tuple[float, int]] = {}  # by that clock, and as the record says it
        self._limit = KEPT

    def __len__(self) -> int:
        return len(self._dues)

    def left_ms(self, sequence: int, due_ms: int, written_ms: int) -> int:
        """How long a message that has come still waits; 0, and it is forgotten, when it is due.

        Args:
            sequence: its number.
            due_ms: when it is due, by the wall clock.
            written_ms: when it was written.
        """
        now = self._clock.monotonic()
        known = self._dues.pop(sequence, None)
        if known is None:
            left = left_ms(due_ms, written_ms, self._unhurried.now_ms())
            due_at = now + left / 1000
        else:
            due_at = known[0]
            left = ceil((due_at - now) * 1000)
        if left <= 0:
            return 0
        self._forget_old(now)
        self._dues[sequence] = (due_at, due_ms)
        return left

    def _forget_old(self, now: float) -> None:
        """What was due a while ago came to another process then."""
        if len(self._dues) >= self._limit:
            self._dues = {sequence: due for sequence, due in self._dues.items() if due[0] > now - FORGET_S}
            self._limit = max(2 * len(self._dues), KEPT)

    def dues_ms(self) -> list[int]:
        """When what still waits is due, as its record says it; by the wall clock as it is now if that jumped."""
        now_ms, now = self._clock.now_ms(), self._clock.monotonic()
        dues = [(due_ms, now_ms + round((at - now) * 1000)) for at, due_ms in self._dues.values() if at > now]
        return [written if abs(written - left) <= CLOCKS_MS else left for written, left in dues]

    def forget(self, sequence: int) -> None:
        """It is settled."""
        self._dues.pop(sequence, None)

    def clear(self) -> None:
        """Forget everything."""
        self._dues.clear()
