"""Where each subscription stands in its channels, noted beside the durables that know it best.

A durable can be deleted, and it goes with its stream. What is known of its position then says where to go on: never at
the end, and never at the beginning of what was settled. A position is noted when a durable is made or found, now and
then while it moves, and when its reader stops. It may be a little behind the durable: what is between comes again.

A position tells nothing of a stream that was made anew, but that all messages of that one are new.
"""

import hashlib
import logging
from contextlib import suppress
from datetime import UTC
from typing import Any

import msgspec

from hexa_worker.config.nats import NatsSubscription
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kit.start_time import start_time
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.leases import lease_of
from hexa_worker.drivers.nats.registers import Register
from hexa_worker.drivers.nats.streams import Life, Streams
from hexa_worker.errors import DriverError, DriverRejected

log = logging.getLogger("hexa_worker.drivers.nats")


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a durable stands.

    Attributes:
        born: when its stream was made.
        floor: everything up to this sequence is settled, as far as was known.
    """

    born: str
    floor: int


class FirstStart(msgspec.Struct, frozen=True, kw_only=True):
    """Written when a subscription starts for the first time; what counts is when.

    Attributes:
        pattern: what it reads.
    """

    pattern: str


def first_message(noted: Position | None, life: Life, start: str, since: str | None) -> dict[str, Any]:
    """Where a durable that has to be made begins, as the server wants to be told.

    Args:
        noted: its position as far as is known; None: it never had one.
        life: its stream.
        start: ``earliest`` or ``latest``, for a subscription without a position.
        since: when it started for the first time, where what appears later is read from its beginning.
    """
    if noted is not None and noted.born == life.born:
        # A stream that lost its end gives numbers again.
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": min(noted.floor, life.last) + 1}
    if noted is not None or start == "earliest":
        return {"deliver_policy": "all"}
    if since is not None:
        return {"deliver_policy": "by_start_time", "opt_start_time": since}
    return {"deliver_policy": "new"}


def chosen(options: NatsSubscription, where: str) -> dict[str, Any] | None:
    """Where a durable without a position begins by its subscription's own table; None: that does not say it.

    Args:
        options: the table.
        where: its key. Raises ConfigError.
    """
    if options.start_sequence is not None:
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": options.start_sequence}
    if options.start_at is not None:
        moment = start_time(options.start_at, f"{where}.start_at").astimezone(UTC)
        return {"deliver_policy": "by_start_time", "opt_start_time": f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"}
    return None


def told(what: str, noted: Position | None, life: Life) -> str:
    """What people should know of a durable that is made though it was there before; empty: it was not."""
    if noted is None:
        return ""
    if noted.born != life.born:
        return f"{what}: the stream was deleted and made again; all of its messages are new"
    return f"{what} was deleted; made again, it goes on behind message {min(noted.floor, life.last)}"


def position_of(connection: NatsConnection, stream: str, durable: str) -> Register[Position]:
    """Where a durable's position is noted."""
    return Register(connection, f"{stream}.{durable}.position", Position)


class Positions:
    """What is noted of positions.

    Args:
        connection: the way to the server.
        streams: makes the stream for the notes.
    """

    def __init__(self, connection: NatsConnection, streams: Streams) -> None:
        self._connection = connection
        self._streams = streams
        self._known: dict[tuple[str, str], Position] = {}
        self._made = False
        self._refused = False

    async def of(self, stream: str, durable: str, life: Life) -> Position | None:
        """The position of a durable as far as is known, best of this life of its stream. Raises DriverUnavailable."""
        found = [self._known.get((stream, durable))]
        with suppress(DriverRejected):
            found.append(await self._register(stream, durable).look())
            lease = await lease_of(self._connection, stream, durable).look()  # it was read in order before
            found.append(None if lease is None else Position(born=lease.born, floor=lease.floor))
        there = [one for one in found if one is not None]
        best = max(there, key=lambda one: (one.born == life.born, one.floor), default=None)
        if best is not None:
            self._known[stream, durable] = best
        return best

    def knows(self, stream: str, durable: str) -> bool:
        """Whether the position of a durable was looked for before, and found."""
        return (stream, durable) in self._known

    async def note(self, stream: str, durable: str, position: Position) -> None:
        """Note a position, if that can be done now; a later one takes its place."""
        self._known[stream, durable] = position
        if self._refused:
            return
        try:
            if not self._made:
                await self._streams.leases()
                self._made = True
            await self._register(stream, durable).write(position, after=None)
        except DriverRejected as error:
            self._refused = True
            log.warning("positions are not noted, so a durable that is deleted while no worker runs is lost: %s", error)
        except DriverError as error:
            self._made = False
            log.debug("position of %s in %s not noted: %s", durable, stream, error)

    def _register(self, stream: str, durable: str) -> Register[Position]:
        return position_of(self._connection, stream, durable)

    async def first_start(self, spec: SubscriptionSpec) -> str | None:
        """When a subscription started for the first time, by the server's clock: now, if it never did.

        None for one that does not need it: only those that begin at the end of what their pattern matches do.

        Raises:
            DriverUnavailable, DriverRejected: it cannot be noted.
        """
        register = self._first(spec)
        if register is None:
            return None
        await self._streams.leases()
        at = await register.written_at()
        if at is None:
            await register.write(FirstStart(pattern=spec.pattern or ""), after=0)
            at = await register.written_at()
        return at

    def _first(self, spec: SubscriptionSpec) -> Register[FirstStart] | None:
        if spec.pattern is None or spec.start == "earliest":
            return None
        digest = hashlib.blake2b(spec.pattern.encode(), digest_size=12).hexdigest()
        return Register(self._connection, f"{names.MARK}first.{names.token(spec.group)}.{digest}", FirstStart)
