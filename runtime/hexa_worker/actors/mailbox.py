"""The bounded queue of one subscription's worker.

Bounded by count and by bytes of everything a process holds: queued, running and not yet settled. The pump
waits for room, lanes wait for work. A delivery costs a deque append and pop; events are touched per batch.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import anyio

from hexa_worker.actors.lane_queues import LaneQueues
from hexa_worker.core.message import Delivery
from hexa_worker.core.window import next_window


class Mailbox:
    """The room of what is received and not yet settled; the part of it that waits for a lane is in `queues`.

    Args:
        queues: what waits for a lane.
        limit: deliveries held at most.
        limit_bytes: bytes of payload held at most; one delivery may exceed it alone.
        busy: how many deliveries keep all lanes busy (concurrency x batch).

    Attributes:
        ready: for each lane what it may run now.
    """

    def __init__(self, queues: LaneQueues, *, limit: int, limit_bytes: int, busy: int) -> None:
        self._queues = queues
        self.ready = queues.ready
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._floor = min(2 * busy, limit)
        self._window = min(max(4 * busy, 64), limit)
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
        stuck = self.aside + self.paused + self._queues.stuck(self._window)
        room = min(self._window - self.held + stuck, self._limit - self.held)
        room_bytes = self._limit_bytes - self.held_bytes
        if room_bytes <= 0 or room <= 0 or self.blocked:
            return 0, 0
        if room * 4 < self._window and self._queues:
            return 0, 0  # wait for a batch worth fetching
        return room, room_bytes

    @property
    def full_of_paused(self) -> bool:
        """What is kept because it is paused leaves no room."""
        return self.paused >= self._limit or (self.paused == self.held and self.held_bytes >= self._limit_bytes)

    async def wait_room(self) -> None:
        """Wait until something was settled. Cancellation: safe; several tasks may wait."""
        if self._room_event.is_set():
            self._room_event = anyio.Event()
        await self._room_event.wait()

    def look_for_room(self) -> None:
        """Who waits for room shall look again: whether there is any, and whether it is still wanted."""
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
        lanes = self._queues.put(batch)
        if lanes:
            self.wake(lanes)
        else:
            self._wake_one()

    def put_back(self, batch: Sequence[Delivery]) -> None:
        """Queue deliveries that have their room before all that waits."""
        self.wake(self._queues.put_back(batch))

    def wake(self, lanes: AbstractSet[int]) -> None:
        """Something may be ready for these lanes."""
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
            return bool(self.ready[lane])
        event = self._idle[lane] = anyio.Event()
        try:
            await event.wait()
        finally:
            if self._idle.get(lane) is event:
                del self._idle[lane]
            elif self._queues.shared and len(self._queues) > takes:
                self._wake_one()
        return not self.closed or bool(self.ready[lane])

    # -- the settler's side

    def release(self, count: int, size: int) -> None:
        """`count` deliveries with `size` bytes of payload are settled: there is room again."""
        self.held -= count
        self.held_bytes -= size
        self._handled += count
        self._room_event.set()

    # -- stopping

    def take_queued(self, sources: frozenset[str] | None = None) -> list[Delivery]:
        """Take back what no lane has started: all of it, or what came from `sources`."""
        taken = self._queues.take(sources)
        self.wake({lane for lane, queue in enumerate(self.ready) if queue})  # behind what is taken now
        return taken

    def close(self) -> None:
        """No more work will come: idle lanes return, busy ones return when their queue is empty."""
        self.closed = True
        while self._idle:
            self._wake_one()
        self._room_event.set()
