"""The embedded driver: one process's view of the file."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from msgspec.structs import replace

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.config.model import Embedded
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import Backlog, Capabilities, Finding, Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.embedded import browsing, forgetting, inspection, provisioning
from hexa_worker.drivers.embedded.leasing import members
from hexa_worker.drivers.embedded.loop.thread import BrokerThread
from hexa_worker.drivers.embedded.loop.turns import TICK_S
from hexa_worker.drivers.embedded.source import EmbeddedSource
from hexa_worker.drivers.embedded.storage.append import append
from hexa_worker.drivers.embedded.storage.later import append_events
from hexa_worker.drivers.embedded.storage.place import FileGone
from hexa_worker.drivers.embedded.storage.records import MAX_PAYLOAD, check_place
from hexa_worker.drivers.embedded.storage.retention import BATCH, trim
from hexa_worker.drivers.embedded.subscriber import Subscriber
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

CAPABILITIES = Capabilities(
    name="embedded",
    durable=True,
    shared=True,
    order=frozenset(OrderBy),
    delays_events=True,
    delay_accuracy_s=0.25,
    redelivery_s=TICK_S,
    counts_deliveries=False,
    keeps_attempts=True,
    patterns=True,
    max_payload=MAX_PAYLOAD,
    notes=(
        "All processes run on one machine and share one file on a local disk.",
        "A process that is killed is taken over within a second, one that hangs after lease_s.",
        "durability = normal survives the death of every process, full also a power cut.",
    ),
)


class EmbeddedDriver:
    """See `hexa_worker.drivers.base.Driver`.

    Args:
        path: the database file; folder and file are created when missing.
        options: durability and times.
        clock: says what is due; None: the machine's.
    """

    def __init__(self, path: Path, options: Embedded | None = None, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._options = options or Embedded()
        self._clock: Clock = clock or SystemClock()
        self._thread: BrokerThread | None = None
        self._sources: list[EmbeddedSource] = []
        self._reopening = anyio.Lock()
        self._declared: dict[str, SubscriptionSpec] = {}

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def open(self) -> None:
        """See `hexa_worker.drivers.base.Driver.open`."""
        if self._thread is None:
            thread = BrokerThread(self._path, self._options, self._clock)
            await thread.start()
            self._thread = thread

    async def close(self) -> None:
        """See `hexa_worker.drivers.base.Driver.close`."""
        sources, self._sources = self._sources, []
        for source in sources:
            await source.close()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await thread.stop()

    async def crash(self) -> None:
        """Die without a goodbye: what was in hand goes to others as if this process had been killed. For tests."""
        if self._thread is not None:
            await self._thread.crash()

    async def stall(self) -> None:
        """Lose all leases while living on, as a process does that stood still for too long. For tests."""
        thread = self._running
        await thread.write(lambda connection: members.remove(connection, thread.owner), wakes=lambda: True)

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        try:
            for message in messages:
                check_place(message)
            return await self._append(messages)
        except DriverRejected as error:
            if len(messages) == 1:
                return [error]
        return [(await self.publish([message]))[0] for message in messages]  # the others are not to blame

    async def _append(self, messages: Sequence[Message]) -> Sequence[str]:
        if not messages:
            return []
        messages = [self._stamped(message) if message.due_ms else message for message in messages]
        ids: Sequence[str]
        try:
            ids = await self._write_records(messages)
        except FileGone:  # and nothing was stored
            ids = await self._write_records(messages)
        return ids

    def _stamped(self, message: Message) -> Message:
        """With the time that its due time was counted from."""
        return message if message.timestamp_ms else replace(message, timestamp_ms=self._clock.now_ms())

    async def _write_records(self, messages: Sequence[Message]) -> Any:
        thread = await self._up()
        now_ms = thread.clock.now_ms()
        store = append_events if any(message.due_ms for message in messages) else append
        return await thread.write(lambda connection: store(connection, messages, now_ms), wakes=lambda: True)

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        """See `hexa_worker.drivers.base.Driver.declare`."""
        for spec in specs:
            await self._declare(spec)

    async def _declare(self, spec: SubscriptionSpec) -> tuple[int, int, bool]:
        thread = await self._up()
        self._declared[spec.group] = spec
        declared: tuple[int, int, bool] = await thread.write(lambda connection: provisioning.declare(connection, spec))
        if declared[2]:
            for channel, first in await thread.read(lambda connection: provisioning.unstriped_after(connection, spec)):
                await _stripe(thread, channel, first)
        return declared

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> EmbeddedSource:
        """See `hexa_worker.drivers.base.Driver.subscribe`."""
        del revoked  # what a living process has leased stays its own
        group, base, by_key = await self._declare(spec)
        source = EmbeddedSource(await self._up(), Subscriber(spec, group, base, by_key=by_key))
        self._sources.append(source)
        return source

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """See `hexa_worker.drivers.base.Driver.browse`."""
        found: list[Delivery] = await (await self._up()).read(
            lambda connection: browsing.browse(connection, channel, after, limit, since_ms)
        )
        return found

    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        """See `hexa_worker.drivers.base.Driver.remove`."""
        removed: int = await (await self._up()).write(lambda connection: browsing.remove(connection, channel, offsets))
        return removed

    async def channels(self) -> Sequence[str]:
        """See `hexa_worker.drivers.base.Driver.channels`."""
        names: list[str] = await (await self._up()).read(browsing.channels)
        return names

    async def backlog(self, spec: SubscriptionSpec) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        thread = await self._up()
        now_ms = thread.clock.now_ms()
        found: Backlog = await thread.read(lambda connection: inspection.backlog_of(connection, spec, now_ms))
        return found

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        found: list[Finding] = await (await self._up()).read(lambda connection: inspection.preflight(connection, spec))
        return found

    async def inspect(self) -> Mapping[str, str]:
        """See `hexa_worker.drivers.base.Driver.inspect`."""
        channels = await self.channels()
        return {
            "address": str(self._path),
            "versions": f"sqlite {sqlite3.sqlite_version}",
            "durability": self._options.durability,
            "channels": str(len(channels)),
        }

    async def groups(self) -> Sequence[forgetting.Group]:
        """Every group of the file. Raises DriverUnavailable."""
        found: list[forgetting.Group] = await (await self._up()).read(forgetting.groups)
        return found

    async def forget(self, group: str) -> int:
        """Drop a group, and the events that it alone had to read; returns how many. Its retries and dead letters stay.

        Raises:
            DriverRejected: there is none, or a process has events of it in flight.
        """
        thread = await self._up()
        alone = await thread.write(lambda connection: forgetting.forget(connection, group))
        for channel, first, end in alone:
            for upto in (*range(first + BATCH, end, BATCH), end):  # others get their turn
                await thread.write(partial(trim, channel=channel, upto=upto))
        return sum(end - first for _, first, end in alone)

    async def _up(self) -> BrokerThread:
        """The broker thread; another one when it has ended by itself, for whatever file is there now."""
        thread = self._running
        if thread.lost is None:
            return thread
        async with self._reopening:
            if self._running is thread:
                another = BrokerThread(self._path, self._options, self._clock)
                await another.start()
                try:
                    await self._declare_again(another)
                except DriverError:
                    await another.stop()
                    raise
                self._thread = another
            return self._running

    async def _declare_again(self, thread: BrokerThread) -> None:
        """Make all subscriptions known at once: none may miss what another one is done with before it comes back."""
        specs = tuple(self._declared.values())

        def declare_all(connection: sqlite3.Connection) -> None:
            for spec in specs:
                connection.execute("SAVEPOINT one")
                try:
                    provisioning.declare(connection, spec)
                except DriverRejected:  # told to the subscription that it concerns, when it subscribes
                    connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")

        await thread.write(declare_all)

    @property
    def _running(self) -> BrokerThread:
        if self._thread is None:
            raise DriverUnavailable(f"{self._path} is not open")
        return self._thread


async def _stripe(thread: BrokerThread, channel: int, first: int) -> None:
    """Give a channel's older records their stripes, a few thousand at a time, so that others get their turn."""
    start: int | None = first

    def some(connection: sqlite3.Connection) -> int | None:
        return provisioning.stripe_some(connection, channel, start or 0)

    while start is not None:
        start = await thread.write(some, wakes=lambda: True)
