"""The process's part in events for later where a worker moves them; see `hexa_worker.drivers.kit.later`.

Every process that subscribes to a channel moves its events. It looks now and then whether the channel has a ladder.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol

from msgspec.structs import replace

from hexa_worker.backoff import Backoff
from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.outcome import DeadLetter
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, Route, Settlement, settle
from hexa_worker.drivers.base import Backlog, Revoked, Source, SubscriptionSpec
from hexa_worker.drivers.kit.later import answers_in_place, ladder_of, next_record, waiting_record, waits
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

LOOK_S = 1.0
FINISH_S = 5.0
"""How long what is being moved may take to be acknowledged when the driver is closed."""
SETTLE_S = 10.0
"""How long what was moved is acknowledged by the same source; what it cannot do then comes again."""
MOVED_AT_ONCE = 1_000
MOVED_BYTES = 4 * 1024 * 1024
log = logging.getLogger("hexa_worker.drivers")


class MovingDriver(Protocol):
    """What a mover needs of its driver."""

    async def store(self, messages: Sequence[Message]) -> Sequence[str | DriverError]: ...

    async def require_channel(self, channel: str) -> None:
        """Make sure that a channel can be published to. Raises DriverError."""
        ...

    async def make_ladder(self, spec: SubscriptionSpec) -> None:
        """Make the channels in which events for later wait. Raises DriverError."""
        ...

    async def with_ladder(self, specs: Sequence[SubscriptionSpec]) -> Collection[str]:
        """Those channels of subscriptions that have a ladder. Asked often. Raises DriverError."""
        ...

    def read_ladder(self, spec: SubscriptionSpec, revoked: Revoked) -> Awaitable[Source]:
        """Take part in reading a ladder. Raises DriverError."""
        ...

    def ladder_backlog(self, spec: SubscriptionSpec) -> Awaitable[Backlog]:
        """What waits in a ladder. Raises DriverError."""
        ...


class Movers:
    """All ladders of one process. Lives on an asyncio loop.

    Args:
        driver: of what broker.
        clock: tells what is due.
        levels_ms: see `hexa_worker.drivers.kit.later`.
        max_payload: of an event, in bytes.
    """

    def __init__(
        self, driver: MovingDriver, clock: Clock, levels_ms: Sequence[int], max_payload: Callable[[], int]
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._levels_ms = levels_ms
        self._max_payload = max_payload
        self._made: set[str] = set()
        self._specs: dict[str, SubscriptionSpec] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._moving: dict[str, asyncio.Lock] = {}  # held from the publishing of a batch to its acknowledgement
        self._watch: asyncio.Task[None] | None = None
        self._look = asyncio.Event()

    # -- emitting

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """Store messages; those for later in their ladders."""
        places = [place for place, one in enumerate(messages) if one.due_ms and waits(one)]
        if not places:
            return await self._driver.store(messages)
        now_ms = self._clock.now_ms()
        written: dict[int, Message] = dict(enumerate(messages))
        refused: dict[int, DriverError] = {}
        for place in places:
            try:
                written[place] = await self._written(messages[place], now_ms)
            except DriverError as error:
                refused[place] = error
                del written[place]
        answers = await self._driver.store(list(written.values())) if written else ()
        return answers_in_place(len(messages), refused, answers)

    async def _written(self, event: Message, now_ms: int) -> Message:
        if event.due_ms <= now_ms:
            return replace(event, due_ms=0)
        if len(event.payload) > self._max_payload():
            raise RecordTooLarge(f"payload of {len(event.payload)} bytes is over the limit of {self._max_payload()}")
        if event.channel not in self._made:
            await self._driver.require_channel(event.channel)  # what nobody could move later is refused now
            await self._driver.make_ladder(ladder_of(event.channel, self._levels_ms))
            self._made.add(event.channel)
            self._look.set()
        return waiting_record(event, now_ms, self._levels_ms)

    # -- moving

    def watch(self, spec: SubscriptionSpec) -> None:
        """Move what is due in the channels of a subscription from now on."""
        self._specs[spec.group] = spec
        self._look.set()
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._watch_ladders())

    async def _watch_ladders(self) -> None:
        while True:
            self._look.clear()
            with suppress(DriverError):  # looked at again soon
                for channel in await self._driver.with_ladder(list(self._specs.values())):
                    if channel not in self._tasks:
                        self._tasks[channel] = asyncio.ensure_future(self._move_on(channel))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_S)

    async def _move_on(self, channel: str) -> None:
        """Move the events of a channel, whatever happens to its broker."""
        backoff, moving = Backoff(), self._moving.setdefault(channel, asyncio.Lock())

        async def finish(_sources: frozenset[str]) -> None:
            async with moving:  # or another process would move what is published and not acknowledged
                return

        while True:
            try:
                source = await self._driver.read_ladder(ladder_of(channel, self._levels_ms), finish)
                try:
                    while True:
                        await self._move(source, channel)
                        backoff = Backoff()
                finally:
                    await source.close()
            except DriverError as error:
                log.debug("events for later of %s: %s", channel, error)
            except Exception:
                log.exception("moving events for later of %s failed; it goes on", channel)
            await backoff.wait()

    async def _move(self, source: Source, channel: str) -> None:
        deliveries: Sequence[Delivery] = await source.receive(MOVED_AT_ONCE, MOVED_BYTES)
        if not deliveries:
            raise DriverUnavailable("the source has ended")
        backoff = Backoff()
        while deliveries:
            async with self._moving[channel]:
                deliveries = await self._move_once(source, channel, deliveries)
            if deliveries:
                await backoff.wait()

    async def _move_once(self, source: Source, channel: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Publish, then acknowledge; what has to be tried again."""
        now_ms = self._clock.now_ms()
        records = [next_record(one, channel, now_ms, self._levels_ms) for one in deliveries]
        try:
            answers = await self._driver.store(records)
        except DriverUnavailable:
            return deliveries
        done: list[Settlement] = []
        again: list[Delivery] = []
        for one, answer in zip(deliveries, answers, strict=True):
            if isinstance(answer, DriverRejected):
                log.error("an event for later cannot enter %s: %s; it becomes a dead letter", channel, answer)
                done.append(self._dead_letter(one, channel, str(answer), now_ms))
            elif isinstance(answer, DriverError):
                again.append(one)
            else:
                done.append(Acked(one))
        await self._settle(source, done)
        return again

    async def _settle(self, source: Source, done: Sequence[Settlement]) -> None:
        """Acknowledge what is published, again while the broker is away: it is not to be published again.

        Raises:
            DriverUnavailable: for too long; it comes again.
        """
        backoff, give_up = Backoff(), monotonic() + SETTLE_S
        while done:
            try:
                failed = await source.settle(done)
            except DriverUnavailable:
                if monotonic() > give_up:
                    raise
            else:
                done = [one.settlement for one in failed if isinstance(one.error, DriverUnavailable)]
            if done:
                await backoff.wait()

    def _dead_letter(self, delivery: Delivery, channel: str, why: str, now_ms: int) -> Settlement:
        ladder = ladder_of(channel, self._levels_ms)
        route = Route(action=ladder.action, retry_base=ladder.retry_base, policy=RetryPolicy())
        return settle(DeadLetter(why), delivery, route, now_ms=now_ms)

    # -- looking, ending

    async def with_later(self, spec: SubscriptionSpec, found: Backlog) -> Backlog:
        """A subscription's backlog with the events for later of its channels. Raises DriverError."""
        for channel in await self._ladders(spec):
            waiting = await self._driver.ladder_backlog(ladder_of(channel, self._levels_ms))
            dues = [due for due in (found.next_due_ms, waiting.next_due_ms) if due is not None]
            found = replace(
                found,
                ready=found.ready + waiting.ready + waiting.leased,
                delayed=found.delayed + waiting.delayed,
                next_due_ms=min(dues, default=None),
            )
        return found

    async def _ladders(self, spec: SubscriptionSpec) -> Collection[str]:
        if self._watch is None:
            return await self._driver.with_ladder([spec])
        return [channel for channel in {*self._made, *self._tasks} if spec.reads(channel)]

    async def close(self) -> None:
        """Move no more; what is published is acknowledged first, or it would be moved twice. Idempotent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                for moving in self._moving.values():
                    await moving.acquire()  # kept: nothing begins any more
        tasks = [*self._tasks.values(), *([] if self._watch is None else [self._watch])]
        self._tasks, self._watch = {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._moving.clear()

    def abandon(self) -> None:
        """Vanish as a killed process does: for tests."""
        for task in [*self._tasks.values(), *([] if self._watch is None else [self._watch])]:
            task.cancel()
        self._tasks, self._watch = {}, None
