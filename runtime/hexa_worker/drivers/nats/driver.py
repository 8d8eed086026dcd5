"""The nats driver: one process's connection to JetStream."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.nats import Nats, NatsSubscription
from hexa_worker.core.channels import retry_prefix
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import (
    Backlog,
    Capabilities,
    Finding,
    Revoked,
    SubscriptionSpec,
    confirmed,
    nothing_revoked,
)
from hexa_worker.drivers.kit.error_context import error_context
from hexa_worker.drivers.kit.later import AT_ONCE_MS
from hexa_worker.drivers.kit.mover import Movers
from hexa_worker.drivers.nats import bound_durable, browsing, consumers, errors, names, ordered_consumer, positions
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.inspection import NatsInspection, account_of, used
from hexa_worker.drivers.nats.ladders import NatsLadders
from hexa_worker.drivers.nats.leases import lease_of
from hexa_worker.drivers.nats.positions import Position, Positions
from hexa_worker.drivers.nats.publisher import HEADER_RESERVE, NatsPublisher
from hexa_worker.drivers.nats.source import ChannelPart, NatsSource
from hexa_worker.drivers.nats.streams import REMOVAL_S, Life, Streams, life_of
from hexa_worker.errors import DriverError, DriverRejected

SERVERS_MAX_PAYLOAD = 1024 * 1024
OLDEST = (2, 9)
log = logging.getLogger("hexa_worker.drivers.nats")
NOTES = (
    (
        "A channel is a subject; a subscription's that no stream keeps gets a stream of its own, or one of `streams`. "
        "An emit to any other is refused, unless create_emitted_channels is set."
    ),
    (
        "A channel whose order must hold is read by one process at a time; others stand by and take over at once when "
        "it stops, after ack_wait_s when it dies. What a dead one did out of order is repeated; one that stops hands "
        "on what that was (the last 20,000 events), so nothing is repeated."
    ),
    (
        "Retries of at least 1 s wait in the server where it can (2.12 and newer): they come at most 0.3 s late. "
        "Otherwise a worker sends them back until due; a restart of the server may delay those by ack_wait_s."
    ),
    (
        "A server that is killed forgets the acknowledgements of its last 0.1 s: other processes may get those "
        "again, the one that settled them does not run them again."
    ),
    (
        "Claims are renewed over the connection that deliveries come through: on a slow line ack_wait_s must be "
        "longer than a full mailbox takes to come (mailbox_bytes limits it), or what is in hand is lost and comes "
        "again."
    ),
    "Events for later wait in a stream beside their channel's, as retries do; a process that subscribes moves them.",
    "Deliveries that were sent to a process that froze wait for ack_wait_s.",
    "Patterns are regular expressions over the channels that streams keep; new ones are found within seconds.",
    "Payload and headers together must fit the server's max_payload; 64 KiB of it are kept for headers.",
)


def capabilities(options: Nats) -> Capabilities:
    """What the driver promises with these options, on a server with the default max_payload."""
    return Capabilities(
        name="nats",
        durable=True,
        shared=True,
        order=frozenset(OrderBy),
        delays_events=True,
        delay_accuracy_s=0.5,
        redelivery_s=options.ack_wait_s,
        counts_deliveries=False,
        keeps_attempts=True,
        patterns=True,
        max_payload=SERVERS_MAX_PAYLOAD - HEADER_RESERVE,
        notes=NOTES,
    )


class AsyncioNatsDriver:
    """A process's view of a NATS server or cluster.

    Args:
        options: the broker's table.
        clock: its wall clock decides what is due.
        folder: what files in `options` are relative to.
        channels: what subscriptions read that are not declared yet.
    """

    def __init__(
        self, options: Nats, clock: Clock | None = None, folder: Path | None = None, channels: Iterable[str] = ()
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._connection = NatsConnection(options, folder or Path())
        self._streams = Streams(self._connection, options)
        self._streams.read_by_us(channels)
        self._positions = Positions(self._connection, self._streams)
        self._publisher = NatsPublisher(self._connection, self._streams, options, self._clock)
        self._sources: list[NatsSource] = []
        self._retry_channels: set[str] = set()
        ladders = NatsLadders(
            self._connection, self._streams, self._publisher, self.declare, self._subscribe, self._backlog
        )
        self._movers = Movers(ladders, self._clock, AT_ONCE_MS, lambda: self._publisher.max_payload)

    @property
    def capabilities(self) -> Capabilities:
        """What it promises."""
        return msgspec.structs.replace(capabilities(self._options), max_payload=self._publisher.max_payload)

    async def open(self) -> None:
        """See `hexa_worker.drivers.base.Driver.open`."""
        await self._connection.open()
        if self._connection.version < OLDEST:
            found, where = self._connection.info.get("version"), errors.addresses(self._options.servers)
            await self._connection.close()
            raise DriverRejected(f"nats at {where}: server {found} is too old, 2.9 or newer is needed")

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Driver.close`."""
        await self._movers.close()
        for source in self._sources:
            await source.close()
        self._sources.clear()
        await self._connection.close()

    async def crash(self) -> None:
        """Vanish as a killed process does: for tests."""
        self._movers.abandon()
        for source in self._sources:
            source.abandon()
        self._sources.clear()
        self._connection.abort()

    async def stall(self) -> None:
        """Lose every claim, as a process does that was frozen for long: for tests."""
        for source in self._sources:
            await source.stall()

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        return confirmed(await self._movers.publish(messages))

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        """See `hexa_worker.drivers.base.Driver.declare`."""
        with error_context("nats", self._options.servers):
            for spec in specs:
                await self._declare(spec)

    async def _declare(
        self, spec: SubscriptionSpec, refused: Callable[[str, DriverRejected], None] | None = None
    ) -> list[ChannelPart]:
        """Make or check all that a subscription needs; returns what there is to read.

        Args:
            spec: the subscription.
            refused: told of channels that cannot be read, which are left out then; None: they are errors.
        """
        options = bound_durable.options_of(spec)
        self._streams.read_by_us(spec.channels, spec.pattern)
        self._retry_channels.update(spec.retry_channels)
        retries = await self._streams.retries(spec.retry_base)
        await self._streams.dead_letters(spec.retry_base)
        self._publisher.retry_bases[f"{spec.retry_base}.retry"] = retries
        ack_wait_s = options.ack_wait_s or self._options.ack_wait_s
        wanted = consumers.config(
            names.RETRY_DURABLE,
            f"{retry_prefix(spec.retry_base)}*",
            ack_wait_s=ack_wait_s,
            max_ack_pending=-1,  # records that wait for their time count here where the server cannot keep them
        )
        await consumers.ensure(self._connection, retries, wanted)
        life = await life_of(self._connection, retries)
        parts = [ChannelPart(stream=retries, durable=names.RETRY_DURABLE, channel=None, born=life.born)]
        if spec.order_by is not OrderBy.NONE:
            await self._streams.leases()
        await self._positions.first_start(spec)  # before it is asked what there is
        for channel in await self._channels(spec):
            try:
                parts.append(await self._declare_channel(spec, channel, options))
            except DriverRejected as error:
                if refused is None:
                    raise
                refused(channel, error)
        return parts

    async def _declare_channel(self, spec: SubscriptionSpec, channel: str, options: NatsSubscription) -> ChannelPart:
        stream = await self._streams.channel(channel)
        if options.stream is not None and stream != options.stream:
            raise DriverRejected(f"the channel {channel!r} is kept by stream {stream!r}, wanted {options.stream!r}")
        durable = bound_durable.name_of(spec, stream, channel)
        wanted = consumers.config_of(self._options, spec, durable, channel)
        if options.durable is not None:
            wanted = await self._take_over(spec, stream, channel, wanted)

        if spec.order_by is OrderBy.NONE:
            life = await self._attach(spec, stream, wanted)
            return ChannelPart(stream=stream, durable=durable, channel=channel, born=life.born)

        async def first(life: Life) -> dict[str, Any]:
            return await self._first_message(spec, await self._positions.of(stream, durable, life), life)

        life = await ordered_consumer.declare(self._connection, stream, durable, channel, first)
        return ChannelPart(stream=stream, durable=durable, channel=channel, born=life.born, exclusive=True)

    async def _take_over(
        self, spec: SubscriptionSpec, stream: str, channel: str, wanted: dict[str, Any]
    ) -> dict[str, Any]:
        """Make a durable fit that somebody else made; returns what it is to be like."""
        durable, life = wanted["durable_name"], await life_of(self._connection, stream)
        what, shared = f"durable {durable!r} of stream {stream!r}", spec.order_by is OrderBy.NONE
        if shared and not self._positions.knows(stream, durable):
            await self._drop_overtaken(stream, durable, life)
        noted = await self._positions.of(stream, durable, life)
        info = await consumers.look(self._connection, stream, durable)
        if info is None and noted is None:
            raise DriverRejected(f"{what} {bound_durable.MISSING}")
        if info is None:
            return wanted
        floor = consumers.floor_of(info)
        if not shared:  # it is read on through consumers of our own
            if noted is None and info["num_ack_pending"]:
                log.warning("%s: what was acknowledged behind message %d runs again", what, floor)
            return wanted
        config: dict[str, Any] = info["config"]
        subjects = (await self._streams.info(stream))["config"].get("subjects") or []
        unfit = bound_durable.problems(config, channel, subjects)
        if unfit:
            reasons = "; ".join(unfit)
            raise DriverRejected(f"{what} cannot be taken over: {reasons}; use start_sequence = {floor + 1} instead")
        if consumers.may_have_given_up(info):
            log.warning(
                "%s: what it has delivered max_deliver = %d times does not come again; to handle that, too, use "
                "start_sequence = %d instead of durable",
                *(what, config["max_deliver"], floor + 1),
            )
        await consumers.take_over(self._connection, stream, info, bound_durable.fitted(config))
        return {**wanted, "filter_subject": config.get("filter_subject")}

    async def _attach(self, spec: SubscriptionSpec, stream: str, wanted: dict[str, Any]) -> Life:
        """Make or check a shared durable; returns the life of its stream.

        One that has to be made goes on where the subscription stood, however it was lost.
        """
        durable, life = wanted["durable_name"], await life_of(self._connection, stream)
        if not self._positions.knows(stream, durable):
            await self._drop_overtaken(stream, durable, life)
        noted = await self._positions.of(stream, durable, life)
        made: list[str] = []

        async def first() -> dict[str, Any]:
            made.append(positions.told(f"durable {durable!r} of stream {stream!r}", noted, life))
            if noted is not None and noted.born == life.born:
                await asyncio.sleep(REMOVAL_S)
            return await self._first_message(spec, noted, life)

        info = await consumers.ensure(self._connection, stream, wanted, first)
        if any(made):
            log.warning("%s", made[0])
        if noted is None or noted.born != life.born:
            position = Position(born=life.born, floor=consumers.floor_of(info))
            await self._positions.note(stream, durable, position)
        return life

    async def _drop_overtaken(self, stream: str, durable: str, life: Life) -> None:
        """Delete a shared durable that has stood still while the channel was read in order."""
        lease = await lease_of(self._connection, stream, durable).look()
        if lease is None or lease.born != life.born:
            return
        floor = await consumers.floor(self._connection, stream, durable)
        if floor is not None and floor < min(lease.floor, life.last):
            await consumers.delete(self._connection, stream, durable)

    async def _first_message(self, spec: SubscriptionSpec, noted: Position | None, life: Life) -> dict[str, Any]:
        own = positions.chosen(bound_durable.options_of(spec), f"subscriptions.{spec.action}.nats")
        if noted is None and own is not None:
            return own
        since = await self._positions.first_start(spec) if noted is None else None
        return positions.first_message(noted, life, spec.start, since)

    async def _channels(self, spec: SubscriptionSpec) -> Sequence[str]:
        if spec.pattern is None:
            return spec.channels
        return spec.channels_among(await browsing.channels(self._connection, ladders=False))

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> NatsSource:
        """See `hexa_worker.drivers.base.Driver.subscribe`."""
        source = await self._subscribe(spec, revoked)
        source.with_later = partial(self._movers.with_later, spec)
        self._movers.watch(spec)
        return source

    async def _subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> NatsSource:
        with error_context("nats", self._options.servers):
            parts = await self._declare(spec)
        options = bound_durable.options_of(spec)

        told: set[str] = set()

        def left_out(channel: str, error: DriverRejected) -> None:
            if channel not in told:
                told.add(channel)
                log.warning("%s: not read though it matches the pattern: %s", channel, error)

        async def redeclare() -> list[ChannelPart]:
            self._streams.forget(spec.channels)
            return await self._declare(spec, None if spec.pattern is None else left_out)

        source = NatsSource(
            self._connection,
            self._publisher,
            self._positions,
            spec,
            options.ack or self._options.ack,
            self._clock,
            redeclare,
            revoked,
        )
        for part in parts:
            source.add_consumer(part, options.ack_wait_s or self._options.ack_wait_s)
        source.start()
        self._sources.append(source)
        return source

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
        return await browsing.browse(self._connection, self._streams, channel, after, limit, since_ms)

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """See `hexa_worker.drivers.base.Driver.remove`."""
        return await browsing.remove(self._connection, self._streams, channel, offsets)

    async def channels(self) -> Sequence[str]:
        """See `hexa_worker.drivers.base.Driver.channels`."""
        return sorted({*await browsing.channels(self._connection), *self._retry_channels})

    async def _looking(self, spec: SubscriptionSpec) -> NatsInspection:
        return NatsInspection(self._connection, self._streams, self._options, spec, await self._channels(spec))

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        return await self._movers.with_later(spec, await self._backlog(spec))

    async def _backlog(self, spec: SubscriptionSpec) -> Backlog:
        return await (await self._looking(spec)).backlog(self._clock.now_ms())

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        return await (await self._looking(spec)).preflight()

    async def inspect(self) -> Mapping[str, str]:
        """What is at the other end, for people."""
        await self._connection.wait_up(self._options.timeout_s)
        info, account = self._connection.info, await account_of(self._connection)
        return {
            "address": errors.addresses(self._options.servers),
            "versions": f"nats-py {version('nats-py')}, server {info.get('version', '')}",
            "server": str(info.get("server_name", "")),
            "jetstream": used(account) if account else "yes" if info.get("jetstream") else "no",
            "max payload": str(self._connection.max_payload),
        }
