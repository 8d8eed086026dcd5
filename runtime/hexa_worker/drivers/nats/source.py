"""A subscription's deliveries in one process: its pull_consumers, their claims, and settling."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from hexa_worker.clock import Clock
from hexa_worker.config.nats import Acknowledge
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Backlog, Revoked, SubscriptionSpec, Unsettled
from hexa_worker.drivers.nats import browsing
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.consumer import PullConsumer
from hexa_worker.drivers.nats.consumers import floor_of
from hexa_worker.drivers.nats.errors import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from hexa_worker.drivers.nats.ordered_consumer import OrderedConsumer
from hexa_worker.drivers.nats.positions import Position, Positions
from hexa_worker.drivers.nats.publisher import NatsPublisher
from hexa_worker.drivers.nats.pull_window import ACTIVE_S, SILENCE_S
from hexa_worker.drivers.nats.settling import NatsSettling
from hexa_worker.errors import DriverError, DriverUnavailable

HAND_BACK_S = 1.0
AWAY_S = 0.5
CHANGING_HANDS_S = 0.05
DISCOVER_S = 2.0
"""How soon a new channel that matches a pattern is found."""
log = logging.getLogger("hexa_worker.drivers.nats")


class ChannelPart(msgspec.Struct, frozen=True, kw_only=True):
    """One durable consumer of a subscription.

    Attributes:
        stream: the stream it reads.
        durable: its name; with `exclusive` without a term.
        channel: the channel it reads; None: the retry ladder.
        born: when its stream was made.
        exclusive: one process at a time reads it, in order.
    """

    stream: str
    durable: str
    channel: str | None
    born: str
    exclusive: bool = False


class NatsSource:
    """One subscription in one process.

    Args:
        connection: the way to the server.
        publisher: stores retries and dead letters.
        positions: keeps note of how far it has come.
        spec: the subscription.
        ack: whether acknowledgements wait for the server's answer.
        clock: the wall clock.
        redeclare: makes what is missing on the server anew, and says what there is to read.
        revoked: see `hexa_worker.drivers.base.Revoked`.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: NatsConnection,
        publisher: NatsPublisher,
        positions: Positions,
        spec: SubscriptionSpec,
        ack: Acknowledge,
        clock: Clock,
        redeclare: Callable[[], Awaitable[list[ChannelPart]]],
        revoked: Revoked,
    ) -> None:
        self.pull_consumers: list[PullConsumer] = []
        self._connection = connection
        self._positions = positions
        self._spec = spec
        self._settling = NatsSettling(self.pull_consumers, connection, publisher, ack)
        self._clock = clock
        self._redeclare = redeclare
        self._revoked = revoked
        self._ordered: dict[int, OrderedConsumer] = {}
        self._revoking: set[asyncio.Task[None]] = set()
        self._work = asyncio.Event()
        self._next_turn = 0
        self.with_later: Callable[[Backlog], Awaitable[Backlog]] | None = None
        """Adds the events for later. Set by whoever makes the source."""
        self._stopped = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._discovery: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._not_made: DriverUnavailable | None = None
        self._make_again_at = 0.0
        connection.on_change(self._connection_changed)

    def add_consumer(self, part: ChannelPart, ack_wait_s: float) -> None:
        """Read one more channel; it gets the place of one that is gone, if there is any."""
        gone = next((one for one in self.pull_consumers if one.gone), None)
        number = len(self.pull_consumers) if gone is None else gone.number
        pull_consumer = PullConsumer(
            number,
            self._connection,
            part.stream,
            part.durable,
            part.channel,
            part.born,
            ack_wait_s,
            self._clock,
            self._work.set,
            exclusive=part.exclusive,
            epoch=0 if gone is None else gone.in_flight.epoch + 1,
        )
        self.pull_consumers[number : number + 1] = [pull_consumer]
        if part.exclusive and part.channel is not None:
            lost = partial(self._lost_lease, part.stream)
            self._ordered[pull_consumer.number] = OrderedConsumer(
                self._connection, pull_consumer, part.durable, part.channel, lost
            )
        if self._task is not None:
            self._start_consumer(pull_consumer)

    def _start_consumer(self, pull_consumer: PullConsumer) -> None:
        exclusive = self._ordered.get(pull_consumer.number)
        if exclusive is not None:
            exclusive.start(self._watched)
        self._work.set()

    def _lost_lease(self, stream: str) -> None:
        """Let the worker forget what it has queued of a channel that is somebody else's by now."""
        task = asyncio.get_running_loop().create_task(self._tell_revoked(frozenset({stream})))
        self._revoking.add(task)
        task.add_done_callback(self._revoking.discard)

    async def _tell_revoked(self, sources: frozenset[str]) -> None:
        await self._revoked(sources)

    def start(self) -> None:
        """Keep claims alive from now on."""
        self._task = self._watched(self._keep())
        for pull_consumer in self.pull_consumers:
            self._start_consumer(pull_consumer)
        if self._spec.pattern is not None:
            self._discovery = self._watched(self._discover())

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task whose end wakes `receive`, which tells of it: nothing would be renewed any more, or found."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()
            self._work.set()

    # -- receiving

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """See `hexa_worker.drivers.base.Source.receive`."""
        while not self._stopped:
            if self._failure is not None:
                raise self._failure
            if not self._connection.up:
                await self._connection.wait_up(AWAY_S)
            unavailable = (
                await self._make_again()
                if any(pull_consumer.missing for pull_consumer in self.pull_consumers)
                else None
            )
            taken = self._take(max_count, max_bytes)  # other channels go on
            self._ask(max_count - len(taken), max_bytes)
            if taken:
                return taken
            if unavailable is not None:
                raise unavailable
            await self._wait()
        return []

    async def _wait(self) -> None:
        self._work.clear()
        if self._stopped or self._failure or any(pull_consumer.buffer for pull_consumer in self.pull_consumers):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await self._work.wait()
        now = monotonic()
        for pull_consumer in self.pull_consumers:
            if (
                pull_consumer.window.fell_silent(now)
                and not pull_consumer.exclusive
                and not await self._exists(pull_consumer)
            ):
                pull_consumer.mark_missing()  # server 2.9 says nothing to those who ask a consumer that is gone

    async def _exists(self, pull_consumer: PullConsumer) -> bool:
        try:
            await self._connection.api(f"CONSUMER.INFO.{pull_consumer.stream}.{pull_consumer.durable}")
        except ApiError as error:
            return error.number not in {CONSUMER_NOT_FOUND, STREAM_NOT_FOUND}
        return True

    def _take(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """What has arrived, pull_consumer by pull_consumer, each time beginning with another one."""
        pull_consumers = self.pull_consumers
        count = len(pull_consumers)
        taken: list[Delivery] = []
        size = 0
        for step in range(count):
            buffer = pull_consumers[(self._next_turn + step) % count].buffer
            while buffer and len(taken) < max_count and not (taken and size >= max_bytes):
                delivery = buffer.popleft()
                size += len(delivery.payload)
                taken.append(delivery)
        if taken:
            self._next_turn = (self._next_turn + 1) % count
        return taken

    def _ask(self, room: int, room_bytes: int) -> None:
        """Keep enough pulls outstanding for `room` more deliveries."""
        if room <= 0 or self._stopped:
            return
        now = monotonic()
        pull_consumers = [
            pull_consumer
            for pull_consumer in self.pull_consumers
            if not pull_consumer.paused and not pull_consumer.missing
        ]
        active = sum(1 for pull_consumer in pull_consumers if now - pull_consumer.window.active_at <= ACTIVE_S)
        for pull_consumer in pull_consumers:
            coming = pull_consumer.window.outstanding + len(pull_consumer.buffer)
            share = pull_consumer.window.share(room, room_bytes, len(pull_consumers), active, now)
            if coming * 2 <= share:
                pull_consumer.pull(share - coming)

    async def _make_again(self) -> DriverUnavailable | None:
        """A consumer or stream was deleted: make it again.

        Returns:
            Why that cannot be done yet.

        Raises:
            DriverRejected: it is not allowed.
        """
        if monotonic() < self._make_again_at:
            return self._not_made
        try:
            self._not_made = None
            await self._made_again()
        except DriverUnavailable as error:
            self._not_made = error
            self._make_again_at = monotonic() + AWAY_S
        return self._not_made

    async def _made_again(self) -> None:
        missing = [pull_consumer for pull_consumer in self.pull_consumers if pull_consumer.missing]
        born = {part.channel: part.born for part in await self._redeclare()}
        log.warning("made again: %s", ", ".join(f"{one.durable} of {one.stream}" for one in missing))
        for pull_consumer in missing:
            if pull_consumer.channel in born:
                pull_consumer.made_again(born[pull_consumer.channel])
            else:  # a pattern's; should it come back, it is discovered
                await self._dismiss(pull_consumer)

    async def _dismiss(self, pull_consumer: PullConsumer) -> None:
        exclusive = self._ordered.pop(pull_consumer.number, None)
        if exclusive is not None:
            await exclusive.close()
        pull_consumer.dismiss()

    async def _discover(self) -> None:
        """Read channels that match the pattern and were made later."""
        while True:
            await asyncio.sleep(DISCOVER_S)
            try:
                parts = await self._redeclare()
            except DriverError as error:
                log.debug("looking for new channels: %s", error)
                continue
            known = {pull_consumer.channel for pull_consumer in self.pull_consumers if not pull_consumer.gone}
            for part in parts:
                if part.channel not in known:
                    self.add_consumer(part, self.pull_consumers[0].ack_wait_s)

    def _connection_changed(self, _up: bool) -> None:  # noqa: FBT001 - see Connection.on_change
        for pull_consumer in self.pull_consumers:
            pull_consumer.window.forget()
            pull_consumer.unsure = not (
                pull_consumer.exclusive or pull_consumer.gone
            )  # the former begin a new term, and look then
        self._work.set()

    # -- claims

    async def _keep(self) -> None:
        """Renew claims for as long as this process lives."""
        every_s = min(pull_consumer.ack_wait_s for pull_consumer in self.pull_consumers) / 4
        while True:
            await asyncio.sleep(every_s)
            for pull_consumer in self.pull_consumers:
                if pull_consumer.exclusive or pull_consumer.gone:
                    continue  # the lease is what counts
                try:
                    await pull_consumer.be_sure()
                    await pull_consumer.renew()
                    await self._look_how_far(pull_consumer)
                except DriverError as error:
                    log.debug("claims of %s not renewed: %s", pull_consumer.durable, error)

    async def _look_how_far(self, pull_consumer: PullConsumer) -> None:
        """Note how far the durable is settled, and forget what is needed no more. Raises DriverError."""
        if pull_consumer.missing or not (pull_consumer.in_flight.progressed or pull_consumer.in_flight.settled):
            return
        pull_consumer.in_flight.progressed, born = False, pull_consumer.born
        info = await self._consumer_info(pull_consumer)
        floor = floor_of(info)
        pull_consumer.in_flight.passed(floor)
        if pull_consumer.channel is not None:
            await self._positions.note(pull_consumer.stream, pull_consumer.durable, Position(born=born, floor=floor))

    # -- settling

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`."""
        return await self._settling.settle(settlements)

    # -- looking

    async def backlog(self) -> Backlog:
        """See `hexa_worker.drivers.base.Source.backlog`."""
        ready = delayed = leased = 0
        due: list[int] = []
        for pull_consumer in self.pull_consumers:
            if pull_consumer.gone:
                continue
            info = await self._consumer_info(pull_consumer)
            pending, in_flight = int(info.get("num_pending", 0)), int(info.get("num_ack_pending", 0))
            ready += pending
            if pull_consumer.channel is None:
                waiting = pull_consumer.delayed.dues_ms()
                scheduled = await browsing.schedules(self._connection, pull_consumer.stream, self._spec.retry_base)
                due += waiting
                due += scheduled
                delayed += len(scheduled) + min(len(waiting), in_flight)
                in_flight -= min(len(waiting), in_flight)
            leased += in_flight
        found = Backlog(ready=ready, delayed=delayed, leased=leased, next_due_ms=min(due) if due else None)
        return found if self.with_later is None else await self.with_later(found)

    async def _consumer_info(self, pull_consumer: PullConsumer) -> dict[str, Any]:
        """What the server says of a pull_consumer's consumer.

        Where order holds it is missing for a moment, whenever a channel goes from one holder to the next.
        """
        exclusive = self._ordered.get(pull_consumer.number)
        deadline = monotonic() + self._connection.options.timeout_s
        while True:
            durable = pull_consumer.durable if exclusive is None else await exclusive.current_durable()
            try:
                return await self._connection.api(f"CONSUMER.INFO.{pull_consumer.stream}.{durable}")
            except ApiError as error:
                if exclusive is None or error.number != CONSUMER_NOT_FOUND:
                    raise error.as_driver_error(
                        f"look at durable {durable!r} of stream {pull_consumer.stream!r}"
                    ) from error
                if monotonic() > deadline:
                    raise DriverUnavailable(f"nats: nobody reads {pull_consumer.channel!r} at the moment") from error
            await asyncio.sleep(CHANGING_HANDS_S)

    # -- the end

    def stop(self) -> None:
        """See `hexa_worker.drivers.base.Source.stop`."""
        self._stopped = self._settling.stopped = True
        self._work.set()

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Source.close`."""
        self.stop()
        if self._closed:
            return
        self._closed = True
        self._connection.forget(self._connection_changed)
        self._cancel_tasks()
        for pull_consumer in self.pull_consumers:
            pull_consumer.end_pulls()
        if self._connection.up:
            await self._connection.flush(HAND_BACK_S)  # what was under way has arrived then
        for exclusive in self._ordered.values():
            await exclusive.close()
        for pull_consumer in self.pull_consumers:
            pull_consumer.hand_back()
        if self._connection.up and await self._connection.flush(HAND_BACK_S):
            await self._note_positions()

    async def _note_positions(self) -> None:
        """Leave what helps if a durable is deleted while nobody reads."""
        with suppress(DriverError, TimeoutError):
            async with asyncio.timeout(HAND_BACK_S):
                for pull_consumer in self.pull_consumers:
                    if not pull_consumer.exclusive and pull_consumer.in_flight.progressed:
                        await self._look_how_far(pull_consumer)

    def _cancel_tasks(self) -> None:
        for task in (self._task, self._discovery, *self._revoking):
            if task is not None:
                task.cancel()
        for exclusive in self._ordered.values():
            exclusive.kill()

    async def stall(self) -> None:
        """Say nothing until every claim has run out on the server: for tests."""
        self._cancel_tasks()
        for pull_consumer in self.pull_consumers:
            pull_consumer.end_pulls()
            pull_consumer.renewed_at = -pull_consumer.ack_wait_s
            pull_consumer.expire()
        await asyncio.sleep(max(pull_consumer.ack_wait_s for pull_consumer in self.pull_consumers) * 1.2)
        for pull_consumer in self.pull_consumers:
            pull_consumer.begin_pulls()
        self.start()

    def abandon(self) -> None:
        """Vanish as a killed process does: for tests."""
        self._closed = True
        self.stop()
        self._cancel_tasks()
        for pull_consumer in self.pull_consumers:
            pull_consumer.drop()
