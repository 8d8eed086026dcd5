"""Keys that wait for a retry, and what waits behind them. Pure.

Where a retry keeps its place, an event that failed stays where it is: its key *waits*, later events of the key are
*held back* behind it, and all other keys go on. A line is what one lane has before it; a key always belongs to the
same line. How many keys may wait is limited for all lines of a worker together. When one more has to, the whole line
waits for that one retry: nothing is overtaken, nothing is lost, and the lane takes nothing new.
"""

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy, OrderKey, order_key


class KeyLimit:
    """How many keys may wait, shared by the lines of one worker.

    Attributes:
        limit: at most so many keys.
        keys: how many wait now.
        held_back: how many deliveries stand aside: those that wait and those behind them.
    """

    __slots__ = ("held_back", "keys", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.keys = 0
        self.held_back = 0


class _Wait:
    """One key: the delivery that is due at `due_ms`, and what came after it."""

    __slots__ = ("deliveries", "due_ms", "key", "over")

    def __init__(self, key: OrderKey, due_ms: int, deliveries: Iterable[Delivery]) -> None:
        self.key = key
        self.due_ms = due_ms
        self.deliveries = deque(deliveries)
        self.over = False


class KeyedQueue:
    """What one lane has before it. One delivery of a key is in hand at a time.

    Args:
        order_by: what keeps its order; deliveries without a key keep none and never wait.
        allowance: shared with the other lines.

    Attributes:
        ready: what may run now, in order. The lane takes from its front; nobody else may.
    """

    __slots__ = ("_allowance", "_dues", "_order_by", "_pushed", "_stopped", "_stopped_dues", "_waits", "ready")

    def __init__(self, order_by: OrderBy, allowance: KeyLimit) -> None:
        self.ready: deque[Delivery] = deque()
        self._order_by = order_by
        self._allowance = allowance
        self._waits: dict[OrderKey, _Wait] = {}
        self._dues: list[tuple[int, int, _Wait]] = []
        self._pushed = 0
        self._stopped: deque[Delivery] = deque()  # the line, while it waits for its first delivery
        self._stopped_dues: dict[int, int] = {}  # by the id of a delivery in there, of those that are not due at once

    @property
    def standing(self) -> int:
        """How many deliveries wait for the lane itself, not for their key."""
        return len(self.ready) + len(self._stopped)

    def put(self, delivery: Delivery, now_ms: int, due_ms: int | None = None) -> None:
        """A delivery has come; one that is not due yet was postponed by another process.

        Args:
            delivery: it.
            now_ms: the time, by a clock that does not jump.
            due_ms: when it is due by that clock; None: as it says itself.
        """
        due_ms = delivery.due_ms if due_ms is None else due_ms
        key = self._key(delivery)
        wait = self._waits.get(key) if key is not None else None
        if wait is not None:
            wait.deliveries.append(delivery)
            self._allowance.held_back += 1
        elif self._stopped:
            self._stop(delivery, due_ms)
        elif key is not None and due_ms > now_ms:
            self._wait_or_stop(key, delivery, [], due_ms)
        else:
            self.ready.append(delivery)

    def postpone(self, again: Delivery, now_ms: int, due_ms: int | None = None) -> None:
        """The delivery in hand failed and is to be run again, as `again`, when that is due; times as in `put`."""
        due_ms = again.due_ms if due_ms is None else due_ms
        key = self._key(again)
        if key is None or due_ms <= now_ms:
            self.ready.appendleft(again)
            return
        if self._allowance.keys >= self._allowance.limit and key not in self._waits:
            self._stopped.extendleft(reversed(self.ready))
            self.ready.clear()
            self._stopped.appendleft(again)
            self._stopped_dues[id(again)] = due_ms
            return
        pulled = self._pull(self._stopped, key)
        for one in pulled:
            self._stopped_dues.pop(id(one), None)
        behind = [*self._pull(self.ready, key), *pulled]
        known = self._waits.get(key)
        if known is not None:
            behind += self._end(known)
        self._wait_or_stop(key, again, behind, due_ms)

    def wake(self, now_ms: int) -> bool:
        """Let go on what is due; whether there was any."""
        woken = False
        while self._dues and (self._dues[0][2].over or self._dues[0][0] <= now_ms):
            wait = heappop(self._dues)[2]
            if not wait.over:
                self.ready.extendleft(reversed(self._end(wait)))
                woken = True
        if self._stopped and self._stopped_due_ms <= now_ms:
            self._deal_again(now_ms)
            woken = True
        return woken

    @property
    def next_due_ms(self) -> int | None:
        """When `wake` has something to do; None: nothing waits."""
        while self._dues and self._dues[0][2].over:
            heappop(self._dues)
        dues = [self._dues[0][0]] if self._dues else []
        if self._stopped:
            dues.append(self._stopped_due_ms)
        return min(dues, default=None)

    def take(self, sources: frozenset[str] | None, now_ms: int) -> list[Delivery]:
        """Take back all that is not in hand, or what of it came from `sources`; each key's in order."""
        taken = _taken(self.ready, sources)
        for wait in list(self._waits.values()):
            first = wait.deliveries[0]
            gone = _taken(wait.deliveries, sources)
            taken += gone
            self._allowance.held_back -= len(gone)
            if not wait.deliveries or wait.deliveries[0] is not first:
                self.ready.extendleft(reversed(self._end(wait)))  # what it waited for is gone
        if self._stopped:
            first = self._stopped[0]
            gone = _taken(self._stopped, sources)
            taken += gone
            for one in gone:
                self._stopped_dues.pop(id(one), None)
            if self._stopped and self._stopped[0] is not first:
                self._deal_again(now_ms)
        return taken

    def drop(self, delivery: Delivery, now_ms: int) -> bool:
        """Forget a delivery that waits for its retry; False when it does not."""
        key = self._key(delivery)
        wait = self._waits.get(key) if key is not None else None
        if wait is not None and wait.deliveries[0] is delivery:
            _, *behind = self._end(wait)
            self.ready.extendleft(reversed(behind))
            return True
        if self._stopped and self._stopped[0] is delivery:
            self._stopped.popleft()
            self._deal_again(now_ms)
            return True
        return False

    def _key(self, delivery: Delivery) -> OrderKey | None:
        return order_key(self._order_by, delivery.key, delivery.channel)

    @property
    def _stopped_due_ms(self) -> int:
        return self._stopped_dues.get(id(self._stopped[0]), 0)

    def _stop(self, delivery: Delivery, due_ms: int) -> None:
        self._stopped.append(delivery)
        if due_ms:
            self._stopped_dues[id(delivery)] = due_ms

    def _wait_or_stop(self, key: OrderKey, delivery: Delivery, behind: list[Delivery], due_ms: int) -> None:
        if self._allowance.keys >= self._allowance.limit:
            self._stop(delivery, due_ms)
            return
        wait = self._waits[key] = _Wait(key, due_ms, [delivery, *behind])
        self._pushed += 1
        heappush(self._dues, (wait.due_ms, self._pushed, wait))
        self._allowance.keys += 1
        self._allowance.held_back += len(wait.deliveries)

    def _end(self, wait: _Wait) -> list[Delivery]:
        """The key waits no longer; what stood aside for it."""
        wait.over = True
        del self._waits[wait.key]
        self._allowance.keys -= 1
        self._allowance.held_back -= len(wait.deliveries)
        return list(wait.deliveries)

    def _pull(self, queue: deque[Delivery], key: OrderKey) -> list[Delivery]:
        """Take the deliveries of `key` out of `queue`."""
        pulled = [one for one in queue if self._key(one) == key]
        if pulled:
            kept = [one for one in queue if self._key(one) != key]
            queue.clear()
            queue.extend(kept)
        return pulled

    def _deal_again(self, now_ms: int) -> None:
        """The line waits no longer for its first delivery."""
        stopped, self._stopped = self._stopped, deque()
        dues, self._stopped_dues = self._stopped_dues, {}
        for delivery in stopped:
            self.put(delivery, now_ms, dues.get(id(delivery), 0))


def _taken(queue: deque[Delivery], sources: frozenset[str] | None) -> list[Delivery]:
    taken = [one for one in queue if sources is None or one.source in sources]
    if taken:
        kept = [] if sources is None else [one for one in queue if one.source not in sources]
        queue.clear()
        queue.extend(kept)
    return taken
