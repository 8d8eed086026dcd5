"""A reload: one process after the other gets a successor beside it, and drains once that is ready to consume.

Both have a slot of their own, so nothing that is kept per slot is shared. Whatever goes wrong with a successor ends
the reload, and what runs stays.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from hexa_worker.core.lifecycle import READY
from hexa_worker.processes.slot import OVER, Rules, Slot, SlotPhase

READY_LIMIT_S = 120.0
"""A successor that is not ready after this long will not be."""
TRIES: Final = 3
"""How often a successor is started that somebody else kills."""


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """What is new.

    Attributes:
        rules: for processes that are started from now on.
        processes: how many there shall be; None: as many as there are.
        adopt: called when the first successor is ready.
    """

    rules: Rules
    processes: int | None
    adopt: Callable[[], None]


class ReloadState(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the latest reload.

    Attributes:
        number: how many there were.
        state: where it is.
        reason: why it failed.
    """

    number: int = 0
    state: Literal["none", "under way", "done", "failed"] = "none"
    reason: str = ""


class Replace(NamedTuple):
    """Start a successor."""


class Retire(NamedTuple):
    """The successor is ready: let the other one drain."""

    successor: int
    old: int


class GiveUp(NamedTuple):
    """The successor will not be ready."""

    successor: int
    reason: str


class ReloadDone(NamedTuple):
    """Everyone was replaced."""


class Rolling:
    """At most one reload; nothing happens before `begin`.

    Attributes:
        deadline: when the present successor must be ready.
    """

    def __init__(self) -> None:
        self.deadline: float | None = None
        self._queue: deque[int] = deque()
        self._active = False
        self._old: int | None = None
        self._successor: int | None = None
        self._tries = 0

    @property
    def replacing(self) -> int | None:
        """Who has a successor that is not ready yet, or is about to get one."""
        return self._old

    def begin(self, numbers: Iterable[int]) -> int | None:
        """Replace these, one after the other; a reload that is under way is over.

        Returns:
            Its successor that was not ready yet: it may know less than is wanted now, and is to be stopped.
        """
        superseded, self._successor, self.deadline = self._successor, None, None
        if superseded is not None:
            self._old = None
        self._queue = deque(numbers)
        self._active = True
        self._tries = 0
        return superseded

    def abandon(self) -> None:
        self._queue.clear()
        self._active = False
        self._old = self._successor = self.deadline = None
        self._tries = 0

    def try_again(self) -> bool:
        """The successor was killed through no fault of its own: start another one. False: that was often enough."""
        if self._old is None or self._tries >= TRIES:
            return False
        self._queue.appendleft(self._old)
        self._old = self._successor = self.deadline = None
        return True

    def started(self, successor: int, now: float) -> None:
        self._successor = successor
        self._tries += 1
        self.deadline = now + READY_LIMIT_S

    def step(self, slots: Mapping[int, Slot], now: float) -> Replace | Retire | GiveUp | ReloadDone | None:
        """What to do now; None: wait, or nothing."""
        if self._successor is not None:
            return self._judge(slots.get(self._successor), now)
        if self._old is not None:
            if self._old in slots and slots[self._old].occupied:
                return None
            self._old = None
        while self._queue:
            number = self._queue.popleft()
            if number in slots and not slots[number].retiring:
                self._old = number
                return Replace()
        if not self._active:
            return None
        self.abandon()
        return ReloadDone()

    def _judge(self, slot: Slot | None, now: float) -> Retire | GiveUp | None:
        assert self.deadline is not None  # noqa: S101 - set with the successor
        assert self._old is not None  # noqa: S101 - as above
        if slot is None or slot.phase in OVER:  # nothing is left to do for it
            self.abandon()
            return None
        if slot.ready:
            self._successor = self.deadline = None
            self._tries = 0
            return Retire(slot.number, self._old)
        if not slot.report.alive:
            return GiveUp(slot.number, why_not_ready(slot))
        if now >= self.deadline:
            return GiveUp(slot.number, f"not ready after {READY_LIMIT_S:g} s: {why_not_ready(slot)}")
        return None


def why_not_ready(slot: Slot) -> str:
    """What keeps a process from being ready, as far as it has said so."""
    if slot.phase is not SlotPhase.UP:
        return "it has not started to consume"
    return "; ".join(
        f"{one.action} is {one.state.name.lower().replace('_', ' ')}" + (f": {one.error}" if one.error else "")
        for one in slot.report.subscriptions
        if one.state not in READY
    )
