"""What waits for a retry in its place, and the one task that lets it go on in time.

No lane is occupied by waiting, and no timer is set per delivery: `run` sleeps until the next one is due.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from math import ceil, inf

import anyio

from hexa_worker.clock import Clock
from hexa_worker.core.keyed_queue import KeyedQueue, KeyLimit
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.telemetry.stats import Counters


class RetryTimer:
    """One worker's lines.

    Args:
        order_by: what keeps its order.
        lanes: how many lanes there are; each has a line.
        maximum_keys: how many keys may wait.
        clock: due times are of its wall clock; what waits here waits by the other one, which never jumps.
        stats: shows what waits.
    """

    def __init__(self, *, order_by: OrderBy, lanes: int, maximum_keys: int, clock: Clock, stats: Counters) -> None:
        self._allowance = KeyLimit(maximum_keys)
        self.lines = [KeyedQueue(order_by, self._allowance) for _ in range(lanes)]
        self._clock = clock
        self._stats = stats
        self._sooner = anyio.Event()
        self._next_due_ms: int | None = None

    @property
    def held_back(self) -> int:
        """How many deliveries stand aside."""
        return self._allowance.held_back

    def stuck(self, share: int) -> int:
        """How many deliveries stand in their lanes beyond the first `share` of each, or in lanes that stand still."""
        return sum([line.standing - share for line in self.lines if line.standing > share])

    def put(self, lane: int, delivery: Delivery) -> None:
        """A delivery has come for a lane."""
        line, before = self.lines[lane], self._allowance.held_back
        if delivery.due_ms:
            line.put(delivery, self._now_ms(), self._due_ms(delivery))
        else:
            line.put(delivery, 0)
        if delivery.due_ms or self._allowance.held_back != before:
            self._changed(line)

    def postpone(self, lane: int, again: Delivery) -> None:
        """The delivery that a lane had in hand is to be run again when `again` is due."""
        line = self.lines[lane]
        line.postpone(again, self._now_ms(), self._due_ms(again))
        self._changed(line)

    def take(self, sources: frozenset[str] | None) -> list[Delivery]:
        """Take back all that is not in hand, or what of it came from `sources`; each key's in order."""
        now_ms = self._now_ms()
        taken = [delivery for line in self.lines for delivery in line.take(sources, now_ms)]
        self._show()
        return taken

    def drop(self, delivery: Delivery) -> int | None:
        """Forget a delivery that waits; the lane that may go on, None when it does not wait."""
        now_ms = self._now_ms()
        for lane, line in enumerate(self.lines):
            if line.drop(delivery, now_ms):
                self._show()
                return lane
        return None

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _due_ms(self, delivery: Delivery) -> int:
        """When it is due, by the clock that never jumps; not a moment early."""
        left_ms = delivery.due_ms - self._clock.now_ms()  # first: what passes before the other reading makes it late
        return ceil(self._clock.monotonic() * 1000) + left_ms

    def _changed(self, line: KeyedQueue) -> None:
        due_ms = line.next_due_ms
        if due_ms is not None and (self._next_due_ms is None or due_ms < self._next_due_ms):
            self._sooner.set()
        self._show()

    def _show(self) -> None:
        self._stats.waiting_keys = self._allowance.keys
        self._stats.held_back = self._allowance.held_back

    async def run(self, woken: Callable[[AbstractSet[int]], None]) -> None:
        """Let go on what is due, for ever; `woken` is told which lanes have something to do.

        Cancellation: safe.
        """
        while True:
            self._sooner = anyio.Event()
            dues = [due_ms for line in self.lines if (due_ms := line.next_due_ms) is not None]
            self._next_due_ms = min(dues, default=None)
            await self._sleep()
            now_ms = self._now_ms()
            lanes = {lane for lane, line in enumerate(self.lines) if line.wake(now_ms)}
            if lanes:
                self._show()
                woken(lanes)

    async def _sleep(self) -> None:
        """Until something is due, or something else is due sooner."""
        patience_s = inf
        if self._next_due_ms is not None:
            patience_s = max(self._next_due_ms / 1000 - self._clock.monotonic(), 0.001)
        with anyio.move_on_after(patience_s):
            await self._sooner.wait()
