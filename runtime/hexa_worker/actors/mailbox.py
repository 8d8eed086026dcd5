"""The bounded queue of one subscription's worker.

Bounded by count and by bytes of everything a process holds: queued, running and not yet settled. The pump
waits for room, lanes wait for work. A delivery costs a deque append and pop; events are touched per batch.
"""

from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import anyio

from hexa_worker.actors.retry_timer import RetryTimer
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.core.window import next_window

Queue = deque[Delivery]


class Mailbox:
    """What is received and not yet settled, and the part of it that waits for a lane.

    Args:
        limit: deliveries held at most.
        limit_bytes: bytes of payload held at most; one delivery may exceed it alone.
        lanes: how many lanes take from it.
        order_by: with an order, a stripe's deliveries always go to the same lane.
        busy: how many deliveries keep all lanes busy (concurrency x batch).
        waits: what waits for a retry in its place; None: nothing does.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self, *, limit: int, limit_bytes: int, lanes: int, order_by: OrderBy, busy: int, waits: RetryTimer | None = None
    ) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._floor = min(2 * busy, limit)
        self._window = min(max(4 * busy, 64), limit)
        self._order_by = order_by
        self._shared = order_by is OrderBy.NONE
        self.waits = waits
        first: Queue = deque()
        self.queues: list[Queue] = [first if self._shared else deque() for _ in range(lanes)]
        if waits is not None:
            self.queues = [line.ready for line in waits.lines]
        self._idle: dict[int, anyio.Event] = {}
        self._room_event = anyio.Event()
        self.held = 0
        self.held_bytes = 0
        self._handled = 0
        self._measured_at = 0.0
        self.aside = 0
        """How many held deliveries wait elsewhere than in the queues."""
        self.paused = 0
        """How many held deliveries are kept because they are paused."""
        self.closed = False
        self.blocked = False
        """Nothing more is to be received, whatever room there is."""

    # -- the pump's side

    def room(self, now: float) -> tuple[int, int]:
        """How many deliveries, and bytes, may be received now; counts are 0 while it is not worth asking."""
        elapsed = now - self._measured_at
        if elapsed >= 0.05:  # noqa: PLR2004 - often enough to follow, rare enough to be steady
            busy_before = self._measured_at > 0 and self._handled > 0
            if busy_before:
                self._window = next_window(self._window, self._handled, elapsed, floor=self._floor, ceiling=self._limit)
            self._handled, self._measured_at = 0, now
        # What cannot run yet shall not take the place of what could.
        room = min(self._window - self.held + self._stuck(), self._limit - self.held)
        room_bytes = self._limit_bytes - self.held_bytes
        if room_bytes <= 0 or room <= 0 or self.blocked:
            return 0, 0
        if room * 4 < self._window and self.queued:
            return 0, 0  # wait for a batch worth fetching
        return room, room_bytes

    def _stuck(self) -> int:
        """How many held deliveries wait for something else than a free lane.

        With an order a lane's queue waits for that lane alone: beyond its share of the window it is no work that would
        keep the others busy while, say, one handler is slow.
        """
        stuck = self.aside + self.paused
        if self._shared:
            return stuck
        share = max(self._window // len(self.queues), 1)
        if self.waits is None:
            return stuck + sum([len(queue) - share for queue in self.queues if len(queue) > share])
        return stuck + self.waits.held_back + self.waits.stuck(share)

    async def wait_room(self) -> None:
        """Wait until something was settled. Cancellation: safe; several tasks may wait."""
        if self._room_event.is_set():
            self._room_event = anyio.Event()
        await self._room_event.wait()

    def stop_waiting(self) -> None:
        """Who waits for room shall look again whether it is still wanted."""
        self._room_event.set()

    def put(self, batch: Sequence[Delivery]) -> int:
        """Queue received deliveries and wake the lanes they are for; returns their bytes of payload."""
        size = self.hold(batch)
        self.queue(batch)
        return size

    def hold(self, batch: Sequence[Delivery]) -> int:
        """Give received deliveries their room, though they are not to be queued yet; returns their bytes."""
        size = sum([len(delivery.payload) for delivery in batch])
        self.held += len(batch)
        self.held_bytes += size
        return size

    def queue(self, batch: Sequence[Delivery]) -> None:
        """Queue deliveries that have their room."""
        if self._shared:
            self.queues[0].extend(batch)
            self._wake_one()
        else:
            self._deal(batch)

    def _deal(self, batch: Sequence[Delivery]) -> None:
        queues, waits, lanes = self.queues, self.waits, self._lanes_of(batch)
        for lane, delivery in zip(lanes, batch, strict=True):
            if waits is None:
                queues[lane].append(delivery)
            else:
                waits.put(lane, delivery)
        self._wake(set(lanes))

    def _wake(self, lanes: AbstractSet[int]) -> None:
        for lane in lanes & self._idle.keys():
            self._idle.pop(lane).set()

    def _wake_one(self) -> None:
        """Wake one idle lane. It wakes the next if it finds work, so handlers that never suspend wake only one."""
        if self._idle:
            self._idle.popitem()[1].set()

    # -- the lanes' side

    async def wait_work(self, lane: int, takes: int = 0) -> bool:
        """Wait until lane number `lane` may find something; False when the mailbox is closed and empty.

        The next lane is woken if there is more than this one `takes`. One that waits for its batch to fill takes what
        is there already: two of them would keep each other awake.

        Cancellation: safe, nothing is taken here.
        """
        if self.closed:
            return bool(self.queues[lane])
        event = self._idle[lane] = anyio.Event()
        try:
            await event.wait()
        finally:
            if self._idle.get(lane) is event:
                del self._idle[lane]
            elif self._shared and len(self.queues[0]) > takes:
                self._wake_one()
        return not self.closed or bool(self.queues[lane])

    def _lanes_of(self, batch: Sequence[Delivery]) -> list[int]:
        """The lane of each; those of one key, or one channel, always have the same."""
        count = len(self.queues)
        if self._order_by is OrderBy.CHANNEL:
            return [stripe_of(delivery.channel.encode(), 0, count) for delivery in batch]
        return [stripe_of(delivery.key, delivery.offset, count) for delivery in batch]

    # -- retries in their place

    def postpone(self, again: Delivery) -> None:
        """A delivery that a lane had in hand waits, until `again` is due, to be run as that; it keeps its room."""
        if self.waits is not None:
            (lane,) = self._lanes_of((again,))
            self.waits.postpone(lane, again)
            self._wake({lane})

    def drop(self, again: Delivery) -> bool:
        """Forget what was postponed; False when it no longer waits. It keeps its room."""
        lane = None if self.waits is None else self.waits.drop(again)
        if lane is not None:
            self.let_go_on({lane})
        return lane is not None

    async def run_waits(self) -> None:
        """Let go on what waits when it is due, for ever."""
        if self.waits is not None:
            await self.waits.run(self.let_go_on)

    def let_go_on(self, lanes: AbstractSet[int]) -> None:
        """Something in `lanes` waits no longer."""
        self._wake(lanes)
        self._room_event.set()

    # -- the settler's side

    def release(self, count: int, size: int) -> None:
        """`count` deliveries with `size` bytes of payload are settled: there is room again."""
        self.held -= count
        self.held_bytes -= size
        self._handled += count
        self._room_event.set()

    # -- stopping

    @property
    def queued(self) -> int:
        """How many deliveries wait for a lane."""
        return len(self.queues[0]) if self._shared else sum(map(len, self.queues))

    def take_queued(self, sources: frozenset[str] | None = None) -> list[Delivery]:
        """Take back what no lane has started: all of it, or what came from `sources`."""
        if self.waits is not None:
            given_back = self.waits.take(sources)
            self._wake({lane for lane, queue in enumerate(self.queues) if queue})  # behind what is gone now
            return given_back
        taken: list[Delivery] = []
        for queue in self.queues[:1] if self._shared else self.queues:
            kept = [] if sources is None else [one for one in queue if one.source not in sources]
            taken.extend(one for one in queue if sources is None or one.source in sources)
            queue.clear()
            queue.extend(kept)
        return taken

    def close(self) -> None:
        """No more work will come: idle lanes return, busy ones return when their queue is empty."""
        self.closed = True
        while self._idle:
            self._wake_one()
        self._room_event.set()
