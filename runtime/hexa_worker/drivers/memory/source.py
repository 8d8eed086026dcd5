"""One subscription's deliveries: read in order, or dealt onto stripes of which one driver at a time has each."""

from collections import deque
from collections.abc import Sequence
from heapq import heappop
from math import inf

import anyio
from msgspec import structs

from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, Released, RetryAt, Settlement
from hexa_worker.drivers.base import Backlog, SubscriptionSpec, Unsettled
from hexa_worker.drivers.memory.store import MAX_PAYLOAD, TRIM_AFTER, MemoryStore, delivery_of
from hexa_worker.errors import DriverRejected, DriverUnavailable, LeaseLost


class MemorySource:
    """One subscription's deliveries in one driver."""

    def __init__(self, store: MemoryStore, spec: SubscriptionSpec) -> None:
        self.arrived = anyio.Event()
        self._store = store
        self._group = store.declare(spec)
        self._held: dict[tuple[str, int], tuple[int, Delivery]] = {}  # (source, offset) → (stripe, delivery)
        self._taken_away: dict[int, Delivery] = {}
        self._stopped = False
        self._lost = False
        store.sources[self] = None

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Source.receive`."""
        while not self._stopped:
            if self._lost:
                raise DriverUnavailable("this driver was cut off from its store")
            self._store.require()
            taken = self._take(max_count, max_bytes)
            if taken:
                return taken
            await self._wait()
        return []

    async def _wait(self) -> None:
        self.arrived = anyio.Event()
        dues = [waiting[0][0] for waiting in (self._group.delayed, self._store.later) if waiting]
        patience = min(dues) - self._store.clock.monotonic() if dues else inf
        with anyio.move_on_after(max(patience, 0.001)):
            await self.arrived.wait()

    def _take(self, max_count: int, max_bytes: int) -> list[Delivery]:
        group = self._group
        self._promote_due()
        if group.order_by is OrderBy.NONE and not group.stripes:
            taken = self._read(max_count, max_bytes)
            self._held.update([((delivery.source, delivery.offset), (-1, delivery)) for delivery in taken])
        else:
            self._deal(max_count)
            taken = self._take_striped(max_count, max_bytes)
        group.leased += len(taken)
        return taken

    def _promote_due(self) -> None:
        self._store.move_due()
        group, now = self._group, self._store.clock.monotonic()
        while group.delayed and group.delayed[0][0] <= now:
            delivery = heappop(group.delayed)[2]
            group.stripes.setdefault(-1, deque()).append(delivery)

    def _read(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """The next deliveries of the group's channels, in log order; moves its positions."""
        taken: list[Delivery] = []
        size = 0
        for channel, position in self._group.positions.items():
            log = self._store.logs[channel]
            start = max(position - log.base, 0)
            for message in log.records[start : start + max_count - len(taken)]:
                if taken and size >= max_bytes:
                    break
                start += 1
                if message is not None:
                    size += len(message.payload)
                    taken.append(delivery_of(message, channel, log.base + start - 1))
            self._group.positions[channel] = log.base + start
            if start >= TRIM_AFTER:
                self._store.trim()
            if len(taken) >= max_count:
                break
        return taken

    def _deal(self, max_count: int) -> None:
        group = self._group
        for delivery in self._read(max_count, MAX_PAYLOAD):
            group.stripes.setdefault(group.stripe(delivery), deque()).append(delivery)

    def _take_striped(self, max_count: int, max_bytes: int) -> list[Delivery]:
        group = self._group
        taken: list[Delivery] = []
        size = 0
        for stripe in sorted(group.stripes):
            holder, count = group.held_stripes.get(stripe, (self, 0))
            if stripe >= 0 and holder is not self:
                continue
            queue = group.stripes[stripe]
            while queue and len(taken) < max_count and not (taken and size >= max_bytes):
                delivery = queue.popleft()
                size += len(delivery.payload)
                count += 1
                taken.append(delivery)
                self._held[delivery.source, delivery.offset] = (stripe, delivery)
            if not queue:
                del group.stripes[stripe]
            if count and stripe >= 0:
                group.held_stripes[stripe] = (self, count)
        return taken

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`."""
        if self._lost:
            return [Unsettled(settlement, LeaseLost("this driver was cut off")) for settlement in settlements]
        self._store.require()
        failed: list[Unsettled] = []
        wake = False
        released: list[tuple[int, Delivery]] = []
        for settlement in settlements:
            if (settlement.delivery.source, settlement.delivery.offset) not in self._held:
                if id(settlement.delivery) in self._taken_away:
                    failed.append(Unsettled(settlement, LeaseLost("the lease was lost")))
                continue  # settled before
            if isinstance(settlement, Postponed):
                self._postpone(settlement)
                continue
            error = None if type(settlement) is Acked else self._store_record(settlement)
            if error is not None:
                failed.append(Unsettled(settlement, error))
                continue
            stripe, delivery = self._let_go(settlement.delivery)
            if isinstance(settlement, Released):
                released.append((stripe, delivery))
            wake = wake or stripe >= 0 or not isinstance(settlement, Acked)
        self._hand_back(released)
        if wake:
            self._store.wake()
        return failed

    def _store_record(self, settlement: Settlement) -> DriverRejected | None:
        if isinstance(settlement, RetryAt | DeadLettered):
            try:
                self._store.append(settlement.record)
            except DriverRejected as error:
                return error
        return None

    def _postpone(self, settlement: Postponed) -> None:
        """Whoever gets it after us gets it as the next attempt."""
        place = settlement.delivery.source, settlement.delivery.offset
        stripe, delivery = self._held[place]
        again = settlement.again
        self._held[place] = stripe, structs.replace(delivery, attempt=settlement.note, due_ms=again.due_ms)

    def _let_go(self, delivery: Delivery) -> tuple[int, Delivery]:
        held = self._held.pop((delivery.source, delivery.offset))
        stripe = held[0]
        group = self._group
        group.leased -= 1
        if stripe >= 0:
            count = group.held_stripes[stripe][1] - 1
            if count:
                group.held_stripes[stripe] = (self, count)
            else:
                del group.held_stripes[stripe]
        return held

    def _hand_back(self, released: Sequence[tuple[int, Delivery]]) -> None:
        """Put deliveries back in front, in their own order."""
        for stripe, delivery in sorted(released, key=lambda held: held[1].offset, reverse=True):
            self._group.stripes.setdefault(stripe, deque()).appendleft(delivery)

    async def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Source.backlog`."""
        self._store.require()
        return self._store.backlog(self._group.spec.group)

    def stop(self) -> None:
        """See `hexa_worker.drivers.base.Source.stop`."""
        self._stopped = True
        self.arrived.set()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Source.close`."""
        self.crash()

    def lose_leases(self) -> None:
        """Lose everything in hand but live on, as a process that was frozen does: others get it at once."""
        lost = [self._let_go(delivery) for _, delivery in list(self._held.values())]
        self._taken_away.update([(id(delivery), delivery) for _, delivery in lost])
        self._hand_back(lost)
        self._store.wake()

    def crash(self) -> None:
        """Lose everything in hand, as a process that dies does: others get it at once."""
        self._stopped = True
        if not self._lost:
            self._lost = True
            self._store.sources.pop(self, None)
            self._hand_back([self._let_go(delivery) for _, delivery in list(self._held.values())])
            self._store.wake()
        self.arrived.set()
