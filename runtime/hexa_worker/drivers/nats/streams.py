"""Streams: which one keeps a channel, made or checked."""

import logging
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from hexa_worker.config.nats import Nats, NatsStream
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import Connection
from hexa_worker.drivers.nats.failures import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, ApiError
from hexa_worker.errors import DriverRejected, UnknownChannel

NANOSECONDS = 1_000_000_000
SCHEDULES_SINCE = (2, 12)
log = logging.getLogger("hexa_worker.drivers.nats")


class Life(NamedTuple):
    """One life of a stream: one that is deleted and made again under its name is another one.

    Attributes:
        born: when it was made.
        last: its last sequence.
    """

    born: str
    last: int


EMITTED = "made by an emit of hexa-worker"
"""Description of the streams that are counted."""


async def streams_of(connection: Connection) -> AsyncIterator[dict[str, Any]]:
    """All about every stream. Raises DriverUnavailable, DriverRejected."""
    offset = 0
    while True:
        try:
            page = await connection.api("STREAM.LIST", offset=offset)
        except ApiError as error:
            raise error.as_driver_error("list streams") from error
        streams: list[dict[str, Any]] = page.get("streams") or []
        for one in streams:
            yield one
        offset += len(streams)
        if not streams or offset >= int(page.get("total", 0)):
            return


async def life_of(connection: Connection, stream: str) -> Life:
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

    def __init__(self, connection: Connection, options: Nats) -> None:
        self._connection = connection
        self._options = options
        self._of: dict[str, str] = {}
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
        elif not self._options.create_channels:
            raise DriverRejected(
                f"no stream keeps the channel {channel!r}; create one with this subject, or set create_channels = true"
            )
        elif emitted and channel not in self._read and self._named(channel) is None:
            stream = await self._create_emitted(channel)
        else:
            stream = await self._create_for(channel)
        self._of[channel] = stream
        return stream

    def retries_wanted(self, base: str) -> dict[str, Any]:
        """The configuration of the stream of the retry channels of `base`."""
        return self._config(names.retry_stream(base), (f"{base}.retry.>",), retention="workqueue")

    def dead_letters_wanted(self, base: str) -> dict[str, Any]:
        """The configuration of the stream of the dead letters of `base`."""
        return self._config(names.dead_letter_stream(base), (f"{base}.dlq",))

    async def retries(self, base: str) -> str:
        """The stream of the retry channels of `base`, made or checked."""
        stream, wanted = names.retry_stream(base), self.retries_wanted(base)
        scheduled = self._options.scheduled_retries and self._connection.version >= SCHEDULES_SINCE
        if scheduled:
            wanted["allow_msg_schedules"] = True
        names.check_channel(f"{base}.retry.1")
        config = await self._ensure(stream, wanted, create=self._options.create_retry_channels)
        if scheduled and not config.get("allow_msg_schedules"):  # made when the server was older
            config = await self._update({**config, "allow_msg_schedules": True})
        self._schedules[stream] = bool(config.get("allow_msg_schedules"))
        return stream

    async def dead_letters(self, base: str) -> str:
        """The stream of the dead letters of `base`, made or checked."""
        stream, channel = names.dead_letter_stream(base), f"{base}.dlq"
        names.check_channel(channel)
        await self._ensure(stream, self.dead_letters_wanted(base), create=self._options.create_retry_channels)
        self._of[channel] = stream
        return stream

    async def leases(self) -> str:
        """The stream of the leases of ordered subscriptions: the last word on each subject."""
        stream = names.LEASES_STREAM
        wanted = self._config(stream, (f"{names.LEASES_PREFIX}.>",))
        wanted |= {"max_msgs_per_subject": 1}
        await self._ensure(stream, wanted, create=True)
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
        wanted["description"] = description
        await self._ensure(name, wanted, create=True)
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

    async def _ensure(self, name: str, wanted: dict[str, Any], *, create: bool) -> dict[str, Any]:
        """The configuration of a stream: as it is if it does, made otherwise."""
        try:
            found = await self._connection.api(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.number != STREAM_NOT_FOUND:
                raise error.as_driver_error(f"look at stream {name!r}") from error
            if not create:
                raise DriverRejected(f"stream {name!r} does not exist, and creating it is switched off") from error
            try:
                found = await self._connection.api(f"STREAM.CREATE.{name}", **wanted)
                log.info("created stream %s for %s", name, ", ".join(wanted["subjects"]))
            except ApiError as second:
                if second.number != STREAM_NAME_IN_USE:
                    raise second.as_driver_error(f"create stream {name!r} for {wanted['subjects']}") from second
                found = await self.info(name)  # somebody else was faster
        config: dict[str, Any] = found["config"]
        _compare(f"stream {name!r}", wanted, config)
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
            _compare(f"stream {stream!r}", {"retention": "limits"}, config)

    async def _api(self, what: str, action: str, **body: Any) -> dict[str, Any]:
        try:
            return await self._connection.api(action, **body)
        except ApiError as error:
            raise error.as_driver_error(what) from error


_COMPARED = ("subjects", "retention", "storage", "num_replicas", "max_age", "max_bytes", "max_msgs_per_subject")


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In what the configuration of a stream differs from the wanted one, showing both."""
    return [
        f"{key} is {found.get(key)!r}, wanted {wanted[key]!r}"
        for key in _COMPARED
        if key in wanted and _plain(found.get(key)) != _plain(wanted[key])
    ]


def _compare(what: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise DriverRejected that shows both, where what is there differs from what is wanted."""
    differing = differences(wanted, found)
    if differing:
        raise DriverRejected(f"{what} exists with another configuration: {'; '.join(differing)}")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or 0
