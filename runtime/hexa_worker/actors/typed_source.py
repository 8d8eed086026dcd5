"""One source of the broker, dealt out to the workers of several actions by the types of its events.

Each worker has a source of its own as it would have without types: it receives only its events, and settles them. One
task receives, for all who wait for events.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Self

import anyio
from anyio.abc import TaskGroup

from hexa_worker.backoff import Backoff
from hexa_worker.core.event_types import Dealer
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Postponed, Released, Settlement
from hexa_worker.drivers.base import Backlog, Driver, Revoked, Source, Unsettled
from hexa_worker.drivers.opening import spec_of
from hexa_worker.errors import DriverRejected, DriverUnavailable, LeaseLost
from hexa_worker.subscriptions.plan import Plan, SharedSource


class Sources:
    """Opens the source of each plan of a process; plans that share one are dealt out from it.

    An async context manager: who shares a source is gone when it ends.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._shared: dict[str, _Shared] = {}
        self._opening = anyio.Lock()
        self._tasks: TaskGroup

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._tasks.cancel_scope.cancel()  # the workers have ended
        await self._tasks.__aexit__(None, None, None)

    async def subscribe(self, plan: Plan, revoked: Revoked) -> Source:
        """As `Driver.subscribe`."""
        if plan.shared is None:
            return await self._driver.subscribe(spec_of(plan), revoked)
        async with self._opening:  # of all that share it the first one opens it
            shared = self._shared.get(plan.shared.group)
            if shared is None or shared.over:
                shared = _Shared(plan.shared)
                shared.source = await self._driver.subscribe(spec_of(plan), shared.revoked)
                self._shared[plan.shared.group] = shared
                self._tasks.start_soon(shared.run)
            return shared.join(plan.action, revoked)


class _Shared:
    """One source of the broker and who shares it.

    Attributes:
        source: it.
        dealer: has what no worker has yet.
        over: it serves nobody who comes later.
        error: what broke it.
        away: why its broker was away the last time, and how often it was.
    """

    source: Source

    def __init__(self, settings: SharedSource) -> None:
        self.dealer = Dealer(settings.read, settings.actions, settings.others, settings.order_by)
        self.over = False
        self.error: Exception | None = None
        self.away: tuple[int, DriverUnavailable | None] = (0, None)
        self._limit = settings.mailbox
        self._members: dict[str, TypedSource] = {}
        self._owed: list[Delivery] = []  # to be released: no worker has them
        self._settling = anyio.Lock()
        self._leaving = anyio.Lock()
        self._changed = anyio.Event()
        self._ended = anyio.Event()

    def join(self, action: str, revoked: Revoked) -> "TypedSource":
        """A source for the worker of one action."""
        member = self._members[action] = TypedSource(action, self, revoked)
        return member

    def wake(self) -> None:
        """Whoever waits shall look again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_changed(self) -> None:
        """Wait until something changes from now on. Cancellation: safe."""
        await self._changed.wait()

    async def run(self) -> None:
        """Receive as long as some worker waits for events, until the source is stopped."""
        backoff = Backoff()
        try:
            while not self.over:
                wanted = [member.wanted for member in self._members.values() if member.wanted is not None]
                if not wanted or len(self.dealer) >= self._limit:
                    await self.wait_changed()
                    continue
                try:
                    batch = await self.source.receive(*map(max, zip(*wanted, strict=True)))
                except DriverUnavailable as error:
                    self.away = (self.away[0] + 1, error)
                    self.wake()
                    await backoff.wait()
                    continue
                backoff = Backoff()
                self.over = not batch
                self.dealer.deal(batch)
                self.wake()
        except Exception as error:  # noqa: BLE001 - the workers that share it raise it
            self.error = error
        finally:
            self.over = True
            self._ended.set()
            self.wake()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """As `Source.settle`; what is owed is released before that."""
        async with self._settling:
            if not (self._owed or settlements):
                return ()
            owed = [Released(delivery) for delivery in self._owed]
            unsettled = await self.source.settle([*owed, *settlements])
            del self._owed[: len(owed)]
        released = set(map(id, owed))
        return [one for one in unsettled if id(one.settlement) not in released]

    def release(self, delivery: Delivery) -> None:
        """Its worker releases it: what must not overtake it goes back first."""
        self._owed += self.dealer.release(delivery)

    async def revoked(self, sources: frozenset[str]) -> None:
        """As `hexa_worker.drivers.base.Revoked`."""
        self._owed += self.dealer.take(sources)
        await self.settle(())
        async with anyio.create_task_group() as tasks:
            for member in self._members.values():
                tasks.start_soon(member.lose, sources)

    def stop(self) -> None:
        """A worker has stopped; the source does when all have."""
        if all(member.stopped for member in self._members.values()):
            self.over = True
            self.source.stop()
        self.wake()

    async def leave(self, member: "TypedSource") -> None:
        """A worker has ended; the last one closes the source."""
        if self._members.get(member.action) is not member:
            return
        try:
            async with self._leaving:  # of two that end together, one is the last
                if len(self._members) > 1:
                    await self._give_back(member)
                    return
                self.stop()
                await self._ended.wait()
                await self.source.close()
        finally:
            del self._members[member.action]

    async def _give_back(self, member: "TypedSource") -> None:
        """Release what a worker had that ends alone."""
        try:
            await member.settle([Released(delivery) for delivery in member.in_flight])
        except DriverUnavailable as error:  # only closing the source gives them back, and all have to leave for that
            self.error = DriverRejected(f"what {member.action} had could not be given back: {error}")
            self.over = True
            self.source.stop()
            self.wake()
        member.forget_rest()


class TypedSource:
    """The part of a shared source that one worker gets; see `hexa_worker.drivers.base.Source`."""

    def __init__(self, action: str, shared: _Shared, revoked: Revoked) -> None:
        self.action = action
        self._revoked = revoked
        self.stopped = False
        self.wanted: tuple[int, int] | None = None
        """How many deliveries, and bytes, its worker waits for."""
        self._shared = shared
        self._away = shared.away[0]
        self._in_flight: dict[tuple[str, int], Delivery] = {}
        # By place, since one whose lease was lost may be handed out again before its first run is settled.
        self._handed_out: Counter[tuple[str, int]] = Counter()
        self._released: Counter[tuple[str, int]] = Counter()

    @property
    def in_flight(self) -> list[Delivery]:
        """What the worker has and has not settled."""
        return list(self._in_flight.values())

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """As `Source.receive`."""
        shared, ready = self._shared, self._shared.dealer.ready[self.action]
        self.wanted = (max_count, max_bytes)
        shared.wake()
        try:
            while not (ready or self.stopped or shared.over or shared.away[0] != self._away):
                await shared.wait_changed()
        finally:
            self.wanted = None
        if not ready:
            self._raise_problem()
        batch, size = list[Delivery](), 0
        while ready and not self.stopped and len(batch) < max_count:
            size += len(ready[0].payload)
            if batch and size > max_bytes:
                break
            delivery = ready.popleft()
            batch.append(delivery)
            self._in_flight[_place(delivery)] = delivery
            self._handed_out[_place(delivery)] += 1
        return batch

    def _raise_problem(self) -> None:
        error = self._shared.error
        if error is None and self._shared.away[0] != self._away:
            self._away, error = self._shared.away
        if error is not None and not self.stopped:
            raise error

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """As `Source.settle`."""
        for settlement in settlements:
            place = _place(settlement.delivery)
            if isinstance(settlement, Released) and self._released[place] < self._handed_out[place]:
                self._released[place] += 1  # and no more, should it have to be tried again
                self._shared.release(settlement.delivery)
        unsettled = await self._shared.settle(settlements)
        lost = {id(one.settlement) for one in unsettled if isinstance(one.error, LeaseLost)}
        open_ = {id(one.settlement) for one in unsettled} - lost
        for settlement in settlements:
            stays = id(settlement) in open_ or (isinstance(settlement, Postponed) and id(settlement) not in lost)
            if not stays:
                self._forget(settlement)
        self._shared.wake()
        return unsettled

    def _forget(self, settlement: Settlement) -> None:
        """It is settled, or lost."""
        place = _place(settlement.delivery)
        if not self._handed_out[place]:
            return
        if isinstance(settlement, Released):  # the dealer knows
            self._released[place] -= 1
        else:
            self._shared.dealer.finish(settlement.delivery)
        self._handed_out[place] -= 1
        if not self._handed_out[place]:
            del self._handed_out[place], self._released[place], self._in_flight[place]

    def forget_rest(self) -> None:
        """Its worker has ended: nothing that it had holds up others of its key."""
        for place, delivery in self._in_flight.items():
            for _ in range(self._handed_out[place] - self._released[place]):
                self._shared.dealer.finish(delivery)
        self._in_flight.clear()
        self._handed_out.clear()
        self._released.clear()

    async def lose(self, sources: frozenset[str]) -> None:
        """As `hexa_worker.drivers.base.Revoked`."""
        await self._revoked(sources)

    async def backlog(self) -> Backlog:
        """As `Source.backlog`, of all that share it."""
        return await self._shared.source.backlog()

    def stop(self) -> None:
        """As `Source.stop`."""
        self.stopped = True
        self._shared.stop()

    async def close(self) -> None:
        """As `Source.close`."""
        self.stopped = True
        await self._shared.leave(self)


def _place(delivery: Delivery) -> tuple[str, int]:
    return delivery.source, delivery.offset
