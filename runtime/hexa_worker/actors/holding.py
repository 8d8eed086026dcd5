"""Standing still: where `on_exhausted = "hold"`, an event that used up its retries stops its subscription.

The event stays in flight, unacknowledged; lanes start nothing and the pump receives nothing until somebody resumes
it. Nothing is stored: whoever has the event after a restart or a rebalance tries it again.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio

from hexa_worker.actors.isolation import Isolation
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.actors.pausing import PauseSwitch
from hexa_worker.core.message import Delivery
from hexa_worker.telemetry.stats import Counters


class Barrier(Protocol):
    """What lanes look at before they start a delivery."""

    @property
    def active(self) -> bool:
        """Lanes must not start a delivery; they `pause` instead."""
        ...

    @property
    def stands_still(self) -> bool:
        """It stays active for long: what a lane has taken and not started goes back."""
        ...

    async def pause(self) -> None:
        """Wait until it is active no more."""
        ...

    def alone(self, *, exclusively: bool) -> AbstractAsyncContextManager[None]:
        """Hold the turn of a suspect."""
        ...


class Hold:
    """Keeps one worker's lanes from starting, while something is held or a suspect of its process runs alone.

    Args:
        isolation: that of the process.
        mailbox: what is held keeps its room in it, and goes back to the front of its queues.
        switch: lets the pump stand still.
        stats: shows how many deliveries are held.
    """

    def __init__(self, isolation: Isolation, mailbox: Mailbox, switch: PauseSwitch, stats: Counters) -> None:
        self._isolation = isolation
        self._mailbox = mailbox
        self._switch = switch
        self._stats = stats
        self._held: list[Delivery] = []
        self._ended = anyio.Event()
        self._show()

    @property
    def stands_still(self) -> bool:
        """Something is held."""
        return bool(self._held)

    @property
    def active(self) -> bool:
        """As `Isolation.active`; also while something is held."""
        return bool(self._held) or self._isolation.active

    async def pause(self) -> None:
        """As `Isolation.pause`. Cancellation: safe."""
        while self.active:
            if self._isolation.active:
                await self._isolation.pause()
            else:
                await self._ended.wait()

    def alone(self, *, exclusively: bool) -> AbstractAsyncContextManager[None]:
        """As `Isolation.alone`."""
        return self._isolation.alone(exclusively=exclusively)

    def hold(self, delivery: Delivery) -> None:
        """Stand still with this delivery in flight."""
        self._held.append(delivery)
        self._show()

    def resume(self) -> int:
        """Run what is held again, before all that is behind it; returns how many deliveries that were."""
        held, self._held = self._held, []
        self._mailbox.put_back(held)
        self._end()
        return len(held)

    def take(self, sources: frozenset[str] | None) -> list[Delivery]:
        """Take back what is held: all of it, or what came from `sources`. Without any left it ends."""
        taken = [one for one in self._held if sources is None or one.source in sources]
        self._held = [one for one in self._held if sources is not None and one.source not in sources]
        if taken:
            self._end()
        return taken

    def _end(self) -> None:
        self._show()
        if not self._held:
            self._ended.set()
            self._ended = anyio.Event()

    def _show(self) -> None:
        self._stats.on_hold = len(self._held)
        self._switch.set_held(held=bool(self._held))
