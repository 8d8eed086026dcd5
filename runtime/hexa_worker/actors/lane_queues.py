"""What waits for the lanes of one worker: the one owner of queued deliveries.

`LaneQueues` is a queue that all lanes share or, with an order, one per lane. `KeyedLaneQueues` also keeps what waits
for a retry in its place, and what waits behind that. Neither counts what runs: the mailbox does.
"""

from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from math import ceil

import anyio

from hexa_worker.clock import Clock
from hexa_worker.core.keyed_queue import KeyedQueue, KeyLimit
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.telemetry.stats import Counters

Queue = deque[Delivery]


class LaneQueues:
    """Queues without retries in their place.

    Args:
        order_by: with an order, a stripe's deliveries always go to the same lane.
        lanes: how many lanes take from them.

    Attributes:
        ready: for each lane what it may run now, in order; the same one for all when they share it.
        shared: there is no order, so any lane may take any delivery.
    """

    def __init__(self, order_by: OrderBy, lanes: int) -> None:
        self._order_by = order_by
        self.shared = order_by is OrderBy.NONE
        first: Queue = deque()
        self.ready: list[Queue] = [first if self.shared else deque() for _ in range(lanes)]

    def __len__(self) -> int:
        """How many deliveries could be started now."""
        return len(self.ready[0]) if self.shared else sum(map(len, self.ready))

    def put(self, batch: Sequence[Delivery]) -> AbstractSet[int]:
        """Queue deliveries; returns the lanes that got any, none when they share their queue."""
        if self.shared:
            self.ready[0].extend(batch)
            return frozenset()
        lanes = self._lanes_of(batch)
        for lane, delivery in zip(lanes, batch, strict=True):
            self.ready[lane].append(delivery)
        return set(lanes)

    def put_back(self, batch: Sequence[Delivery]) -> AbstractSet[int]:
        """Queue what a lane had taken, in its order, before all else; returns the lanes that got any."""
        lanes = [0] * len(batch) if self.shared else self._lanes_of(batch)
        for lane, delivery in zip(reversed(lanes), reversed(batch), strict=True):
            self.ready[lane].appendleft(delivery)
        return set(lanes)

    def stuck(self, window: int) -> int:
        """How many deliveries wait for something else than a free lane.

        With an order a lane's queue waits for that lane alone: beyond its share of the `window` it is no work that
        would keep the others busy while, say, one handler is slow.
        """
        if self.shared:
            return 0
        share = max(window // len(self.ready), 1)
        return sum([len(queue) - share for queue in self.ready if len(queue) > share])

    def take(self, sources: frozenset[str] | None) -> list[Delivery]:
        """Take back all that no lane has started, or what of it came from `sources`."""
        taken: list[Delivery] = []
        for queue in self.ready[:1] if self.shared else self.ready:
            kept = [] if sources is None else [one for one in queue if one.source not in sources]
            taken.extend(one for one in queue if sources is None or one.source in sources)
            queue.clear()
            queue.extend(kept)
        return taken

    def _lanes_of(self, batch: Sequence[Delivery]) -> list[int]:
        """The lane of each; those of one key, or one channel, always have the same."""
        count = len(self.ready)
        if self._order_by is OrderBy.CHANNEL:
            return [stripe_of(delivery.channel.encode(), 0, count) for delivery in batch]
        return [stripe_of(delivery.key, delivery.offset, count) for delivery in batch]


class KeyedLaneQueues(LaneQueues):
    """Queues in which a key waits for its retry while the others go on.

    Args:
        order_by: what keeps its order.
        lanes: how many lanes there are.
        maximum_keys: how many keys may wait.
        clock: due times are of its wall clock; what waits here waits by the other one, which never jumps.
        stats: shows what waits.

    Attributes:
        sooner: set when something is due earlier than `next_due_ms` said when it was last asked.
    """

    def __init__(self, order_by: OrderBy, lanes: int, *, maximum_keys: int, clock: Clock, stats: Counters) -> None:
        super().__init__(order_by, lanes)
        self._limit = KeyLimit(maximum_keys)
        self._lines = [KeyedQueue(order_by, self._limit) for _ in range(lanes)]
        self.ready = [line.ready for line in self._lines]
        self._clock = clock
        self._stats = stats
        self._known_due_ms: int | None = None
        self.sooner = anyio.Event()

    def put(self, batch: Sequence[Delivery]) -> AbstractSet[int]:
        """As there; what is not due yet was postponed by another process."""
        lanes = self._lanes_of(batch)
        for lane, delivery in zip(lanes, batch, strict=True):
            line, before = self._lines[lane], self._limit.held_back
            if delivery.due_ms:
                line.put(delivery, self._now_ms(), self._due_ms(delivery))
            else:
                line.put(delivery, 0)
            if delivery.due_ms or self._limit.held_back != before:
                self._changed(line)
        return set(lanes)

    def stuck(self, window: int) -> int:
        """As there: what waits for a key, too, and lanes that stand still."""
        share = max(window // len(self._lines), 1)
        return self._limit.held_back + sum([line.standing - share for line in self._lines if line.standing > share])

    def take(self, sources: frozenset[str] | None) -> list[Delivery]:
        """As there, what waits for its retry, too; each key's in order. Other keys may be ready behind it now."""
        now_ms = self._now_ms()
        taken = [delivery for line in self._lines for delivery in line.take(sources, now_ms)]
        self._show()
        return taken

    def postpone(self, again: Delivery) -> int:
        """The delivery that a lane had in flight is to be run again when `again` is due; returns the lane."""
        (lane,) = self._lanes_of((again,))
        line = self._lines[lane]
        line.postpone(again, self._now_ms(), self._due_ms(again))
        self._changed(line)
        return lane

    def drop(self, again: Delivery) -> int | None:
        """Forget a delivery that waits; the lane that may go on, None when it does not wait."""
        now_ms = self._now_ms()
        for lane, line in enumerate(self._lines):
            if line.drop(again, now_ms):
                self._show()
                return lane
        return None

    def next_due_ms(self) -> int | None:
        """When `wake_due` has something to do, by the clock that never jumps; None: nothing waits."""
        self.sooner = anyio.Event()
        dues = [due_ms for line in self._lines if (due_ms := line.next_due_ms) is not None]
        self._known_due_ms = min(dues, default=None)
        return self._known_due_ms

    def wake_due(self) -> AbstractSet[int]:
        """Let go on what is due; returns the lanes that have something to do now."""
        now_ms = self._now_ms()
        lanes = {lane for lane, line in enumerate(self._lines) if line.wake(now_ms)}
        if lanes:
            self._show()
        return lanes

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def _due_ms(self, delivery: Delivery) -> int:
        """When it is due, by the clock that never jumps; not a moment early."""
        left_ms = delivery.due_ms - self._clock.now_ms()  # first: what passes before the other reading makes it late
        return ceil(self._clock.monotonic() * 1000) + left_ms

    def _changed(self, line: KeyedQueue) -> None:
        due_ms = line.next_due_ms
        if due_ms is not None and (self._known_due_ms is None or due_ms < self._known_due_ms):
            self.sooner.set()
        self._show()

    def _show(self) -> None:
        self._stats.waiting_keys = self._limit.keys
        self._stats.held_back = self._limit.held_back
