"""Streams: which one keeps a channel, made or checked."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from hexa_worker.config.nats import Nats, NatsStream
from hexa_worker.core.channels import dead_letter_channel, retry_channel, retry_prefix
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.errors import SIZE_REQUIRED, STREAM_NAME_IN_USE, STREAM_NOT_FOUND, ApiError
from hexa_worker.errors import DriverRejected, DriverUnavailable, UnknownChannel

NANOSECONDS = 1_000_000_000
SCHEDULES_SINCE = (2, 12)
REMOVAL_S = 0.25
"""A server says that a stream or durable is deleted before it has removed the folder. One that is created under the
name meanwhile loses its own folder: it stores nothing, or a restart forgets it. So what was there is created later."""
log = logging.getLogger("hexa_worker.drivers.nats")


class StreamAway(DriverUnavailable):
    """The stream of one channel is not there; other channels' may be."""


class Life(NamedTuple):
    """One life of a stream: one that is deleted and made again under its name is another one.

    Attributes:
        born: when it was made.
        last: its last sequence.
    """

    born: str
    last: int


COMPARED = ("subjects", "retention")
"""What a stream must have as it is wanted; other limits are an operator's, see `losses`."""
EMITTED = "made by an emit of hexa-worker"
"""Description of the streams that are counted."""


async def streams_of(connection: NatsConnection, **query: str) -> AsyncIterator[dict[str, Any]]:
    """All about every stream that answers the query. Raises DriverUnavailable, DriverRejected."""
    offset = 0
    while True:
        try:
            page = await connection.api("STREAM.LIST", offset=offset, **query)
        except ApiError as error:
            raise error.as_driver_error("list streams") from error
        streams: list[dict[str, Any]] = page.get("streams") or []
        for one in streams:
            yield one
        offset += len(streams)
        if not streams or offset >= int(page.get("total", 0)):
            return


async def life_of(connection: NatsConnection, stream: str) -> Life:
    """The life of a stream. Raises DriverRejected when there is none, DriverUnavailable."""
    try:
        info = await connection.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        raise error.as_driver_error(f"look at stream {stream!r}") from error
    return Life(str(info["created"]), int(info["state"]["last_seq"]))


class Streams:
    """What is known of the streams of one server.

    Args:
        connection: asks and creates.
        options: the broker's table.
    """

    def __init__(self, connection: NatsConnection, options: Nats) -> None:
        self._connection = connection
        self._options = options
        self._of: dict[str, str] = {}
        self._seen: set[str] = set()
        self._existed: set[str] = set()
        self._read: set[str] = set()
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._schedules: dict[str, bool] = {}

    def known(self, channel: str) -> str | None:
        """The stream of a channel that was looked up before."""
        return self._of.get(channel)

    def read_by_us(self, channels: Iterable[str], pattern: str | None = None) -> None:
        """Subscriptions of ours read these: emits may make their streams."""
        self._read.update(channels)
        if pattern is not None:
            self._patterns[pattern] = re.compile(pattern)

    def forget(self, channels: Iterable[str]) -> None:
        """Look these up again: the server says that nobody keeps them."""
        for channel in channels:
            self._of.pop(channel, None)

    def schedules(self, stream: str) -> bool:
        """Whether the server keeps records of this retry stream until they are due."""
        return self._schedules.get(stream, False)

    async def find(self, subject: str) -> str | None:
        """The stream that keeps a subject, or None."""
        answer = await self._api(f"look up the stream of {subject!r}", "STREAM.NAMES", subject=subject)
        found: list[str] = answer.get("streams") or []
        return found[0] if found else None

    async def channel(self, channel: str, *, emitted: bool = False) -> str:
        """The stream of a channel, made where that is allowed.

        Args:
            channel: what it keeps.
            emitted: somebody emits to it, which is no reason to make a stream: the channel may be mistyped, or one
                of very many.

        Raises:
            DriverRejected: none keeps it, or the one that does cannot be used.
            DriverUnavailable: the server is away.
        """
        known = self._of.get(channel)
        if known is not None:
            return known
        names.check_channel(channel)
        stream = await self.find(channel)
        if stream is not None:
            await self.usable(stream, channel)
            self._existed.add(stream)
        elif channel in self._seen and not self._may_make(channel, emitted=emitted):
            raise StreamAway(f"nats: the stream of the channel {channel!r} was deleted; waiting until it is back")
        elif not self._options.create_channels:
            raise DriverRejected(
                f"no stream keeps the channel {channel!r}; create one with this subject, or set create_channels = true"
            )
        elif emitted and channel not in self._read and self._named(channel) is None:
            stream = await self._create_emitted(channel)
        else:
            stream = await self._create_for(channel)
        self._of[channel] = stream
        self._seen.add(channel)
        return stream

    def _may_make(self, channel: str, *, emitted: bool) -> bool:
        """Whether the stream of a channel can be made again."""
        options = self._options
        asked = not emitted or options.create_emitted_channels or channel in self._read
        return options.create_channels and (asked or self._named(channel) is not None)

    def retries_wanted(self, base: str) -> dict[str, Any]:
        """The configuration of the stream of the retry channels of `base`."""
        wanted = self._config(names.retry_stream(base), (f"{retry_prefix(base)}>",), retention="workqueue")
        return wanted | _full_at(self._options.retry_max_bytes)

    def dead_letters_wanted(self, base: str) -> dict[str, Any]:
        """The configuration of the stream of the dead letters of `base`."""
        wanted = self._config(names.dead_letter_stream(base), (dead_letter_channel(base),))
        return wanted | _full_at(self._options.dead_letter_max_bytes)

    async def retries(self, base: str) -> str:
        """The stream of the retry channels of `base`, made or checked."""
        stream, wanted, options = names.retry_stream(base), self.retries_wanted(base), self._options
        scheduled = options.scheduled_retries and self._connection.version >= SCHEDULES_SINCE
        scheduled = scheduled and not options.retry_max_bytes  # servers refuse schedules where a full stream refuses
        if scheduled:
            wanted["allow_msg_schedules"] = True
        names.check_channel(retry_channel(base, 1))
        config = await self._ensure(stream, wanted, create=options.create_retry_channels, size_key="retry_max_bytes")
        if scheduled and not config.get("allow_msg_schedules") and config.get("discard") != "new":
            config = await self._update({**config, "allow_msg_schedules": True})  # made when the server was older
        self._schedules[stream] = bool(config.get("allow_msg_schedules"))
        return stream

    async def dead_letters(self, base: str) -> str:
        """The stream of the dead letters of `base`, made or checked."""
        stream, channel, wanted = (
            names.dead_letter_stream(base),
            dead_letter_channel(base),
            self.dead_letters_wanted(base),
        )
        names.check_channel(channel)
        create = self._options.create_retry_channels
        await self._ensure(stream, wanted, create=create, size_key="dead_letter_max_bytes")
        self._of[channel] = stream
        return stream

    async def leases(self) -> str:
        """The stream of leases and positions: the last word on each subject, and for ever."""
        stream = names.LEASES_STREAM
        wanted = self._config(stream, (f"{names.LEASES_PREFIX}.>",)) | _full_at(self._options.lease_max_bytes)
        wanted["max_msgs_per_subject"] = 1
        await self._ensure(stream, wanted, create=True, size_key="lease_max_bytes", compared=(*COMPARED, "max_age"))
        return stream

    async def info(self, stream: str, **body: Any) -> dict[str, Any]:
        """All about a stream."""
        return await self._api(f"look at stream {stream!r}", f"STREAM.INFO.{stream}", **body)

    def _named(self, channel: str) -> NatsStream | None:
        """The configured stream of a channel."""
        return next(
            (one for one in self._options.streams if any(names.covers(subject, channel) for subject in one.subjects)),
            None,
        )

    async def _create_emitted(self, channel: str) -> str:
        options = self._options
        if not options.create_emitted_channels and not any(one.fullmatch(channel) for one in self._patterns.values()):
            raise UnknownChannel(
                f"no stream keeps the channel {channel!r}: is it spelled right? Start a worker that subscribes to it "
                "first, put its subject into broker.streams, or set broker.create_emitted_channels = true"
            )
        made = len([one async for one in streams_of(self._connection) if one["config"].get("description") == EMITTED])
        if made >= options.max_emitted_channels:
            raise DriverRejected(
                f"no stream keeps the channel {channel!r}, and emits have made {made} streams already "
                f"(broker.max_emitted_channels = {options.max_emitted_channels}): put a subject that covers many "
                'channels, like "results.>", into broker.streams'
            )
        return await self._create_for(channel, EMITTED)

    async def _create_for(self, channel: str, description: str = "") -> str:
        options, named = self._options, self._named(channel)
        name = names.channel_stream(channel) if named is None else named.name
        wanted = self._config(name, (channel,) if named is None else named.subjects)
        wanted["max_age"] = int(options.max_age_s * NANOSECONDS)
        wanted["max_bytes"] = options.max_bytes or -1
        if options.max_age_s:
            wanted["duplicate_window"] = min(wanted["duplicate_window"], wanted["max_age"])
        wanted["description"] = description
        await self._ensure(name, wanted, create=True, size_key="max_bytes")
        return name

    def _config(self, name: str, subjects: tuple[str, ...], retention: str = "limits") -> dict[str, Any]:
        options = self._options
        return {
            "name": name,
            "subjects": list(subjects),
            "retention": retention,
            "storage": options.storage,
            "num_replicas": options.replicas,
            "duplicate_window": int(options.dedup_window_s * NANOSECONDS),
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": -1,
            "max_consumers": -1,
            "discard": "old",
        }

    async def _ensure(
        self,
        name: str,
        wanted: dict[str, Any],
        *,
        create: bool,
        size_key: str,
        compared: Sequence[str] = COMPARED,
    ) -> dict[str, Any]:
        """The configuration of a stream: as it is if it does, made otherwise.

        Args:
            name: what it is called.
            wanted: its configuration, if it has to be made.
            create: whether it may be made.
            size_key: the option that limits its size.
            compared: what must be as it is wanted.
        """
        try:
            found = await self._connection.api(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.number != STREAM_NOT_FOUND:
                raise error.as_driver_error(f"look at stream {name!r}") from error
            if not create:
                raise DriverRejected(f"stream {name!r} does not exist, and creating it is switched off") from error
            if name in self._existed:
                await asyncio.sleep(REMOVAL_S)
            try:
                found = await self._connection.api(f"STREAM.CREATE.{name}", **wanted)
                log.info("created stream %s for %s", name, ", ".join(wanted["subjects"]))
            except ApiError as second:
                if second.number == SIZE_REQUIRED:
                    raise DriverRejected(f"create stream {name!r}: {second}: set broker.{size_key}") from second
                if second.number != STREAM_NAME_IN_USE:
                    raise second.as_driver_error(f"create stream {name!r} for {wanted['subjects']}") from second
                found = await self.info(name)  # somebody else was faster
        self._existed.add(name)
        config: dict[str, Any] = found["config"]
        _compare(f"stream {name!r}", wanted, config, compared)
        return config

    async def _update(self, config: dict[str, Any]) -> dict[str, Any]:
        name = config["name"]
        answer = await self._api(f"update stream {name!r}", f"STREAM.UPDATE.{name}", **config)
        updated: dict[str, Any] = answer["config"]
        return updated

    async def usable(self, stream: str, channel: str) -> None:
        """Refuse a foreign stream that cannot keep the promises. Raises DriverRejected."""
        config = (await self.info(stream))["config"]
        if config.get("no_ack"):
            raise DriverRejected(f"stream {stream!r} keeps {channel!r} but confirms nothing (no_ack)")
        if config.get("sealed"):
            raise DriverRejected(f"stream {stream!r} keeps {channel!r} but is sealed")
        ours = names.channel_stream(channel)
        if stream == ours:
            _compare(f"stream {stream!r}", {"retention": "limits"}, config, COMPARED)

    async def _api(self, what: str, action: str, **body: Any) -> dict[str, Any]:
        try:
            return await self._connection.api(action, **body)
        except ApiError as error:
            raise error.as_driver_error(what) from error


def _full_at(max_bytes: int) -> dict[str, Any]:
    """A limit of the size of what must not be forgotten: beyond it nothing more is taken, and nothing old goes."""
    return {"max_bytes": max_bytes, "discard": "new"} if max_bytes else {}


def differences(wanted: dict[str, Any], found: dict[str, Any], compared: Sequence[str] = COMPARED) -> list[str]:
    """In what the configuration of a stream differs from the wanted one so that it cannot be used, showing both."""
    return [
        f"{key} is {found.get(key)!r}, wanted {wanted[key]!r}"
        for key in compared
        if key in wanted and _plain(found.get(key)) != _plain(wanted[key])
    ]


def losses(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a stream of retries or dead letters will lose by what an operator made of it; it is used all the same."""
    lost: list[str] = []
    if found.get("max_age"):
        lost.append(f"what is older than {found['max_age'] / NANOSECONDS:g} s is dropped (max_age)")
    if found.get("discard") != "new":
        limits = ("max_bytes", "max_msgs", "max_msgs_per_subject")
        lost += [f"the oldest are dropped beyond {key} = {found[key]}" for key in limits if found.get(key, -1) > 0]
    if found.get("storage") == "memory" != wanted["storage"]:
        lost.append("all are lost when the server restarts (memory storage)")
    if found.get("num_replicas", 1) < wanted["num_replicas"]:
        lost.append(f"{found.get('num_replicas', 1)} of {wanted['num_replicas']} wanted replicas are kept")
    return lost


def _compare(what: str, wanted: dict[str, Any], found: dict[str, Any], compared: Sequence[str]) -> None:
    """Raise DriverRejected that shows both, where what is there differs from what is wanted."""
    differing = differences(wanted, found, compared)
    if differing:
        raise DriverRejected(f"{what} exists with another configuration: {'; '.join(differing)}")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or 0
