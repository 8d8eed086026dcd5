"""Order: a channel is read by one process at a time, from its first unsettled message on.

A durable that is shared cannot keep order: what a dead process had in hand comes again after newer messages. So the
holder of the channel's lease reads through a consumer that is made for its term alone and begins at the first
unsettled message. Whenever messages may have been lost or would come late (a new connection, a gap, a release), the
holder begins a new term; what it still has in hand is not run again. Taking a lease deletes the consumer of the
term before, so a process that was frozen cannot settle any more.

Who stops in an orderly way frees the lease, and leaves in it what is settled beyond the first unsettled message: the
next holder acknowledges that without running it. What waits for a retry in its place is noted whenever the lease is
written, which is soon after it began to wait: the next holder goes on with the next attempt. A lease that somebody
else took cannot be written any more, so only the holder leaves such notes.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

from msgspec import structs

from hexa_worker.drivers.nats import consumers, names
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.consumer import PullConsumer
from hexa_worker.drivers.nats.errors import ApiError
from hexa_worker.drivers.nats.handover import NOTHING
from hexa_worker.drivers.nats.leases import ChannelLease, lease_of
from hexa_worker.drivers.nats.streams import Life, life_of
from hexa_worker.errors import DriverError, DriverUnavailable

ACK_WAIT_S = 3600.0
"""Of a term's consumer: nothing is to come late by itself."""
POLL_S = 0.5
FREE_S = 1.0
REFUSALS = 3
"""So many times in a row what is refused is made again."""
log = logging.getLogger("hexa_worker.drivers.nats")


def term_durable(durable: str, term: int) -> str:
    """The consumer of one term."""
    return f"{durable}{names.MARK}t{term}"


async def declare(
    connection: NatsConnection,
    stream: str,
    durable: str,
    channel: str,
    first: Callable[[Life], Awaitable[dict[str, Any]]],
) -> Life:
    """Fix the position that the first holder begins at; returns the life of the stream.

    Args:
        connection: the way to the server.
        stream: what keeps the channel.
        durable: the consumer's name, without a term.
        channel: what is read.
        first: where a subscription that never read it in order begins, see `positions.first_message`.

    Raises:
        DriverUnavailable: the server is away.
        DriverRejected: the server refuses it.
    """
    life, store = await life_of(connection, stream), lease_of(connection, stream, durable)
    if (await store.read())[1] is not None:
        return life
    floor = await consumers.floor(connection, stream, durable)  # it was shared before
    if floor is None:  # the server knows which message is the first; the first holder deletes this consumer
        config = _config(durable, 0, channel) | await first(life)
        info = await consumers.ensure(connection, stream, config)
        floor = consumers.floor_of(info)
    await store.write(ChannelLease(owner="", term=0, floor=floor, born=life.born), after=0)
    return life


def _config(durable: str, term: int, channel: str) -> dict[str, Any]:
    return consumers.config(
        term_durable(durable, term), channel, ack_wait_s=ACK_WAIT_S, max_ack_pending=-1, deliver_policy="all"
    )


def _from(floor: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}


def _furthest(floors: list[int | None], noted: int, last: int) -> int:
    """Up to where all is settled.

    A stream that lost its end gives numbers again; then its own consumers know better than the lease what is new.

    Args:
        floors: of the consumers that there are.
        noted: what the lease says.
        last: the last number of the stream.
    """
    believed = [floor for floor in floors if floor is not None and floor <= last]
    if noted <= last or not believed:
        believed.append(min(noted, last))
    return max(believed)


class OrderedConsumer:
    """One process's part in reading a channel in order.

    Args:
        connection: the way to the server.
        pull_consumer: what reads; it is paused while this process does not hold the lease.
        durable: the consumer's name, without a term.
        channel: what it reads.
        lost: called when the lease is somebody else's by now.
    """

    def __init__(
        self,
        connection: NatsConnection,
        pull_consumer: PullConsumer,
        durable: str,
        channel: str,
        lost: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._pull_consumer = pull_consumer
        self._durable = durable
        self._channel = channel
        self._lost = lost
        self._store = lease_of(connection, pull_consumer.stream, durable)
        self._me = secrets.token_hex(8)
        self._lease_s = pull_consumer.ack_wait_s
        self._sequence = 0
        self._lease: ChannelLease | None = None
        self._seen = (0, 0.0)  # sequence of somebody's lease, and since when
        self._generation = 0
        self._refusals = 0  # in a row
        self._born = ""  # the stream that the pull_consumer has read
        self._noted = 0  # of `OrderedTerm.postponed`: what the lease tells
        self._task: asyncio.Task[None] | None = None

    async def current_durable(self) -> str:
        """The consumer of whoever reads."""
        lease = self._lease or (await self._store.read())[1]
        return term_durable(self._durable, lease.term if lease is not None else 0)

    def start(self, run: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Take part from now on, in a task that `run` makes."""
        self._task = run(self._run())

    def kill(self) -> None:
        """Take part no more, without a word."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Leave the lease to others, at once if the server can be told."""
        self.kill()
        lease, self._lease = self._lease, None
        if lease is not None and self._connection.up:
            with suppress(DriverError, TimeoutError):
                async with asyncio.timeout(FREE_S):
                    await self._free(lease)

    async def _free(self, lease: ChannelLease) -> None:
        """Make the lease nobody's, with all that the next holder has to know."""
        pull_consumer, floor = self._pull_consumer, lease.floor
        with suppress(DriverError):
            floor = max(
                floor, await consumers.floor(self._connection, pull_consumer.stream, pull_consumer.durable) or 0
            )
        free = structs.replace(lease, owner="", floor=floor)
        if self._born == lease.born:
            term, limit = pull_consumer.term, self._connection.max_payload
            free = structs.replace(
                free, done=term.hand_over(floor, limit // 2), waiting=term.note_waiting(floor, limit // 4)
            )
        if await self._store.write(free, self._sequence) is None:
            sequence, found = await self._store.read()
            if found is not None and found.owner == self._me:  # a write was under way when we were stopped
                await self._store.write(structs.replace(free, term=found.term), sequence)

    async def _run(self) -> None:
        while True:
            try:
                if self._lease is None:
                    await self._acquire()
                elif self._pull_consumer.rewind_wanted or self._generation != self._connection.generation:
                    await self._begin_term(self._lease.term + 1)
                else:
                    await self._renew()
            except DriverError as error:
                if not isinstance(error, DriverUnavailable):
                    self._refused(error)
                self._expire()
                await asyncio.sleep(POLL_S)
                continue
            self._refusals = 0
            if self._lease is None:
                await asyncio.sleep(POLL_S)
            elif not self._pull_consumer.rewind_wanted:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(POLL_S, self._lease_s / 6)):
                        await self._pull_consumer.rewind_event.wait()

    def _refused(self, error: DriverError) -> None:
        """Have made again what may be missing; raise `error` if that was done and did not help."""
        log.warning("the lease of %s: %s", self._channel, error)
        if not self._pull_consumer.missing:
            self._refusals += 1
        if self._refusals > REFUSALS:
            raise error
        self._pull_consumer.mark_missing()

    async def _acquire(self) -> None:
        """Take the lease if it is nobody's, or was not renewed for its whole length."""
        sequence, lease = await self._store.read()
        now = monotonic()
        if self._seen[0] != sequence:
            # Only at first sight: what changes while we look was written just now.
            before_s = await self._store.idle_s() if lease is not None and not self._seen[0] else 0.0
            self._seen = (sequence, now - before_s)
        if lease is None or not lease.owner or lease.owner == self._me or now - self._seen[1] > self._lease_s:
            self._sequence, self._lease = sequence, lease or ChannelLease(owner="", term=0, floor=0)
            if self._lease.owner != self._me:
                self._pull_consumer.term.take_over(self._lease.done, self._lease.waiting)
            await self._begin_term(self._lease.term + 1)

    async def _begin_term(self, term: int) -> None:
        """Write down that the lease is ours, then read on through a consumer of our own.

        When it fails on the way, it is begun again: until the end a rewind is wanted.
        """
        lease = self._lease
        assert lease is not None  # noqa: S101 - the callers hold or take one
        pull_consumer = self._pull_consumer
        pull_consumer.want_rewind()
        self._generation = self._connection.generation
        if not await self._write(structs.replace(lease, owner=self._me, term=term)):
            return
        born, last = await life_of(self._connection, pull_consumer.stream)
        earlier = await self._consumers()
        # A subscription that was shared meanwhile has gone on in the durable without a term.
        floors = [
            await consumers.floor(self._connection, pull_consumer.stream, name) for name in (self._durable, *earlier)
        ]
        floor = _furthest(floors, lease.floor if born == lease.born else 0, last)
        if born != lease.born:
            pull_consumer.term.forget()
        if self._born not in {"", born}:
            pull_consumer.reset()
        self._born = born
        if not await self._write(structs.replace(self._settled_to(floor, lease), owner=self._me, term=term, born=born)):
            return
        for name in earlier:
            await consumers.delete(self._connection, pull_consumer.stream, name)
        config = _config(self._durable, term, self._channel) | _from(floor)
        await consumers.ensure(self._connection, pull_consumer.stream, config)
        if (
            await life_of(self._connection, pull_consumer.stream)
        ).born == born:  # or the next term begins at its beginning
            pull_consumer.resume(term_durable(self._durable, term))

    async def _consumers(self) -> list[str]:
        """Every consumer of an earlier term."""
        found: list[str] = []
        while True:
            try:
                page = await self._connection.api(f"CONSUMER.NAMES.{self._pull_consumer.stream}", offset=len(found))
            except ApiError as error:
                raise error.as_driver_error(f"list durables of stream {self._pull_consumer.stream!r}") from error
            names_here: list[str] = page.get("consumers") or []
            found += names_here
            if not names_here or len(found) >= int(page.get("total", 0)):
                break
        prefix = f"{self._durable}{names.MARK}t"
        return [name for name in found if name.startswith(prefix) and name[len(prefix) :].isdecimal()]

    async def _renew(self) -> None:
        """Say that we live, before it is late, and what waits, soon."""
        lease = self._lease
        early = monotonic() - self._pull_consumer.renewed_at < self._lease_s / 3
        if lease is None or (early and self._noted == self._pull_consumer.term.postponed):
            return
        floor = await consumers.floor(self._connection, self._pull_consumer.stream, self._pull_consumer.durable)
        if floor is None:
            self._pull_consumer.want_rewind()  # somebody deleted the consumer
            return
        self._pull_consumer.in_flight.passed(floor)
        await self._write(self._settled_to(max(floor, lease.floor), lease))

    def _settled_to(self, floor: int, lease: ChannelLease) -> ChannelLease:
        """The lease at a floor, with what is left of the note of the owner before."""
        handed_over = self._pull_consumer.term.handed_over = self._pull_consumer.term.handed_over.beyond(floor)
        return structs.replace(lease, floor=floor, done=lease.done if handed_over else NOTHING)

    async def _write(self, lease: ChannelLease) -> bool:
        """Write the lease; False, and it is lost, when others were faster."""
        sent_at, term = monotonic(), self._pull_consumer.term
        postponed = term.postponed
        lease = structs.replace(lease, waiting=term.note_waiting(lease.floor, self._connection.max_payload // 4))
        sequence = await self._store.write(lease, self._sequence)
        if sequence is None:
            sequence, found = await self._store.read()
            if found != lease:  # otherwise an earlier write of ours was not confirmed
                self._let_go()
                return False
        self._sequence, self._lease, self._noted = sequence, lease, postponed
        self._pull_consumer.renewed_at = sent_at
        return True

    def _expire(self) -> None:
        """Nobody could be told that we live: after the lease's length it is not ours."""
        if self._lease is not None and not self._pull_consumer.claims_hold:
            self._let_go()

    def _let_go(self) -> None:
        self._lease = None
        self._pull_consumer.pause()
        self._lost()
