"""A rolling restart: one slot at a time, the next one when the new process is ready."""

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from hexa_worker.processes.slot import Phase, Slot

READY_LIMIT_S: Final = 120.0
"""A slot that is not ready again after this long (its drain not counted) ends the roll."""

log = logging.getLogger("hexa_worker.processes")


class Rolling:
    """At most one roll; nothing happens before `begin`.

    Attributes:
        deadline: when the present slot must be ready.
    """

    def __init__(self) -> None:
        self.deadline: float | None = None
        self._queue: deque[int] = deque()
        self._present: int | None = None

    def begin(self, numbers: Iterable[int]) -> None:
        """Restart these, one after the other; a roll that is under way begins anew after its present slot."""
        self._queue = deque(numbers)

    def abandon(self) -> None:
        """Restart no more."""
        self._queue.clear()
        self._present = self.deadline = None

    def step(self, slots: Mapping[int, Slot], now: float) -> int | None:
        """The slot to restart now; None: wait, or nothing to do."""
        if self._present is not None and not self._finished(slots.get(self._present), now):
            return None
        while self._queue:
            number = self._queue.popleft()
            if number in slots:
                self._present = number
                return number
        return None

    def _finished(self, slot: Slot | None, now: float) -> bool:
        """Whether the present slot is ready again; a slot that will not be ends the roll."""
        if slot is not None:
            if slot.restart_when_gone:
                return False
            if slot.phase is Phase.FAILED:
                self._fail("process %d cannot start: rolling restart abandoned", slot.number)
                return True
            if not slot.ready:
                self.deadline = self.deadline or now + READY_LIMIT_S
                if now < self.deadline:
                    return False
                self._fail("process %d is not ready: rolling restart abandoned", slot.number)
                return True
        if not self._queue:
            log.info("rolling restart done")
        self._present = self.deadline = None
        return True

    def _fail(self, text: str, number: int) -> None:
        log.error(text, number)
        self.abandon()
