"""Looking at a subscription from outside: what it has left to do, what of it is there, what stands in its way.

Only asks: nothing is made, no consumer is disturbed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from hexa_worker.config.nats import Nats
from hexa_worker.core.channels import dead_letter_channel, retry_prefix
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import Backlog, Finding, SubscriptionSpec
from hexa_worker.drivers.nats import bound_durable, browsing, consumers, names, ordered_consumer
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.errors import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from hexa_worker.drivers.nats.leases import lease_of
from hexa_worker.drivers.nats.positions import position_of
from hexa_worker.drivers.nats.streams import Streams, differences, losses
from hexa_worker.errors import DriverError, DriverRejected

PEEK = 500
"""So many retries are looked at for their due time; the others count as due."""
_MISSING = frozenset({CONSUMER_NOT_FOUND, STREAM_NOT_FOUND})
_USER_INFO = "$SYS.REQ.USER.INFO"


class NatsInspection:
    """Asks about one subscription.

    Args:
        connection: the way to the server.
        streams: what is known of its streams.
        options: the broker's table.
        spec: the subscription.
        channels: what it reads.
    """

    def __init__(
        self,
        connection: NatsConnection,
        streams: Streams,
        options: Nats,
        spec: SubscriptionSpec,
        channels: Sequence[str],
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._options = options
        self._spec = spec
        self._channels = channels
        self._account: Mapping[str, Any] = {}

    async def _info(self, what: str, name: str) -> dict[str, Any] | None:
        """About a stream (``STREAM``) or consumer (``CONSUMER``); None: there is none."""
        try:
            return await self._connection.api(f"{what}.INFO.{name}")
        except ApiError as error:
            if error.number in _MISSING:
                return None
            raise error.as_driver_error(f"look at {what.lower()} {name!r}") from error

    # -- what is left to do

    async def backlog(self, now_ms: int) -> Backlog:
        """See `hexa_worker.drivers.base.Driver.backlog`."""
        ready = leased = 0
        for channel in self._channels:
            pending, in_flight = await self._left(channel)
            ready += pending
            leased += in_flight
        retries = await self._retries(now_ms)
        letters = await self._info("STREAM", names.dead_letter_stream(self._spec.retry_base))
        return Backlog(
            ready=ready + retries.ready,
            delayed=retries.delayed,
            leased=leased + retries.leased,
            next_due_ms=retries.next_due_ms,
            dead_letters=0 if letters is None else int(letters["state"]["messages"]),
        )

    async def _left(self, channel: str) -> tuple[int, int]:
        """What nobody has in hand of a channel, and what somebody has."""
        stream = await self._streams.find(channel)
        if stream is None:
            return 0, 0
        durable, floor = bound_durable.name_of(self._spec, stream, channel), 0
        if self._spec.order_by is not OrderBy.NONE:
            lease = await lease_of(self._connection, stream, durable).look()
            if lease is not None:
                durable, floor = ordered_consumer.term_durable(durable, lease.term), lease.floor
        info = await self._info("CONSUMER", f"{stream}.{durable}")
        if info is not None:
            return int(info["num_pending"]), int(info["num_ack_pending"])
        if self._spec.start == "latest" and not floor:
            return 0, 0
        state = (await self._streams.info(stream, subjects_filter=channel))["state"]
        return (0 if floor >= state["last_seq"] else int((state.get("subjects") or {}).get(channel, 0))), 0

    async def _retries(self, now_ms: int) -> Backlog:
        """What is left of the retry ladder."""
        stream = names.retry_stream(self._spec.retry_base)
        if await self._info("STREAM", stream) is None:
            return Backlog(ready=0, delayed=0, leased=0)
        scheduled = await browsing.schedules(self._connection, stream, self._spec.retry_base)
        info = await self._info("CONSUMER", f"{stream}.{names.RETRY_DURABLE}") or {}
        total = int(info.get("num_pending", 0)) + int(info.get("num_ack_pending", 0))
        waiting = [due_ms for due_ms in await self._dues(total) if due_ms > now_ms]  # sent back until they are due
        leased = max(int(info.get("num_ack_pending", 0)) - len(waiting), 0)
        return Backlog(
            ready=max(total - len(waiting) - leased, 0),
            delayed=len(scheduled) + len(waiting),
            leased=leased,
            next_due_ms=min([*scheduled, *waiting], default=None),
        )

    async def _dues(self, total: int) -> list[int]:
        """When the retries that the consumer counts are due."""
        dues: list[int] = []
        for channel in self._spec.retry_channels:
            if len(dues) < min(total, PEEK):
                room = min(total, PEEK) - len(dues)
                dues += await browsing.dues(self._connection, names.retry_stream(self._spec.retry_base), channel, room)
        return dues

    # -- what is there

    async def preflight(self) -> list[Finding]:
        """See `hexa_worker.drivers.base.Driver.preflight`."""
        permissions = await self._permissions()
        self._account = await account_of(self._connection)
        found: list[Finding] = []
        for channel in self._channels:
            found += await self._channel(channel, permissions)
        base = self._spec.retry_base
        ladder = (
            ("retry channel", f"{retry_prefix(base)}*", self._streams.retries_wanted(base)),
            ("dead letter", dead_letter_channel(base), self._streams.dead_letters_wanted(base)),
        )
        for kind, name, wanted in ladder:
            one = await self._stream(kind, name, wanted, permissions)
            found.append(structs.replace(one, rights=_rights(permissions, name.replace("*", "1"))))
        return found

    async def _channel(self, channel: str, permissions: Mapping[str, Any] | None) -> list[Finding]:
        """A channel and the durable that keeps the subscription's progress in it."""
        rights = _rights(permissions, channel)
        try:
            stream = await self._streams.find(channel)
        except DriverRejected as error:
            return [Finding(kind="channel", name=channel, exists=None, rights=rights, problem=str(error))]
        if stream is None:
            size, made = self._options.max_bytes or -1, self._options.create_channels
            problem = self._unmade(permissions, names.channel_stream(channel), size) if made else _NO_STREAM
            return [Finding(kind="channel", name=channel, exists=False, rights=rights, problem=problem)]
        problem = ""
        try:
            await self._streams.usable(stream, channel)
        except DriverRejected as error:
            problem = str(error)
        one = Finding(
            kind="channel", name=channel, exists=True, rights=rights, problem=problem, note=f"stream {stream}"
        )
        return [one, await self._durable(stream, channel, permissions)]

    async def _durable(self, stream: str, channel: str, permissions: Mapping[str, Any] | None) -> Finding:
        name = bound_durable.name_of(self._spec, stream, channel)
        if self._spec.order_by is not OrderBy.NONE:
            lease = await lease_of(self._connection, stream, name).look()
            held = lease is not None and bool(lease.owner)
            note = "somebody reads it" if held else "nobody reads it" if lease is not None else ""
            missing = await self._missing(stream, name) if lease is None else ""
            return Finding(kind="durable", name=name, exists=lease is not None, note=note, problem=missing)
        asks = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        problem = "" if allowed(permissions, asks) else f"this login may not publish to {asks!r}"
        try:
            info = await self._info("CONSUMER", f"{stream}.{name}")
        except DriverRejected as error:
            return Finding(kind="durable", name=name, exists=None, problem=problem or str(error))
        if info is None:
            return Finding(
                kind="durable", name=name, exists=False, problem=problem or await self._missing(stream, name)
            )
        config: dict[str, Any] = info["config"]
        if bound_durable.options_of(self._spec).durable is None:
            differing = consumers.differences(consumers.config_of(self._options, self._spec, name, channel), config)
        else:
            subjects = (await self._streams.info(stream))["config"].get("subjects") or []
            differing = bound_durable.problems(config, channel, subjects)
        note = f"{info['num_waiting']} waiting pulls, {info['num_ack_pending']} in hand"
        return Finding(kind="durable", name=name, exists=True, problem=problem or "; ".join(differing), note=note)

    async def _missing(self, stream: str, durable: str) -> str:
        """What is wrong with a durable that does not exist; empty: it is made."""
        if bound_durable.options_of(self._spec).durable is None:
            return ""
        known = await position_of(self._connection, stream, durable).look()
        return "" if known or await consumers.look(self._connection, stream, durable) else bound_durable.MISSING

    async def _stream(
        self, kind: str, name: str, wanted: dict[str, Any], permissions: Mapping[str, Any] | None
    ) -> Finding:
        try:
            info = await self._info("STREAM", wanted["name"])
        except DriverRejected as error:
            return Finding(kind=kind, name=name, exists=None, problem=str(error))
        if info is None:
            made = self._options.create_retry_channels
            missing = "its stream does not exist, and create_retry_channels = false"
            problem = self._unmade(permissions, wanted["name"], wanted["max_bytes"]) if made else missing
            return Finding(kind=kind, name=name, exists=False, problem=problem)
        problem = "; ".join(differences(wanted, info["config"]))
        lost = "; ".join(losses(wanted, info["config"]))
        warning = f"stream {wanted['name']} loses {_PLURAL[kind]}: {lost}" if lost else ""
        note = f"stream {wanted['name']}"
        return Finding(kind=kind, name=name, exists=True, problem=problem, warning=warning, note=note)

    def _unmade(self, permissions: Mapping[str, Any] | None, stream: str, max_bytes: int) -> str:
        """Why a worker could not make a stream; empty: it can, as far as the server told."""
        asks, limits = f"$JS.API.STREAM.CREATE.{stream}", self._account.get("limits") or {}
        if not allowed(permissions, asks):
            return f"it does not exist, and this login may not publish to {asks!r}"
        if limits.get("max_bytes_required") and max_bytes < 0:
            return f"its stream cannot be made: the account asks for a size ({', '.join(SIZE_KEYS)} of [broker])"
        if 0 <= limits.get("max_streams", -1) <= int(self._account.get("streams", 0)):
            return f"its stream cannot be made: the account has all of the {limits['max_streams']} streams it may have"
        return ""

    async def _permissions(self) -> Mapping[str, Any] | None:
        """What the server says of this login; None: nothing (it is too old, or the login may not ask)."""
        try:
            answer = json.loads((await self._connection.request(_USER_INFO, b""))[3])
        except (DriverError, ValueError):
            return None
        data: Mapping[str, Any] | None = answer.get("data")
        return data


_PLURAL = {"retry channel": "retries", "dead letter": "dead letters"}
SIZE_KEYS = ("max_bytes", "retry_max_bytes", "dead_letter_max_bytes", "lease_max_bytes")


async def account_of(connection: NatsConnection) -> Mapping[str, Any]:
    """What the account may use of JetStream and uses; empty where it is not told. Raises DriverUnavailable."""
    try:
        return await connection.api("INFO")
    except (ApiError, DriverRejected):
        return {}


def used(account: Mapping[str, Any]) -> str:
    """What an account uses of what it may use, for people."""
    limits = account.get("limits") or {}
    parts: list[str] = []
    for name, key, limit, unit in (
        ("streams", "streams", "max_streams", 1),
        ("durables", "consumers", "max_consumers", 1),
        ("MB in files", "storage", "max_storage", 1_000_000),
        ("MB in memory", "memory", "max_memory", 1_000_000),
    ):
        most = limits.get(limit, -1)
        has = f"{int(account.get(key, 0)) / unit:.{0 if unit == 1 else 1}f}"
        parts.append(f"{has} {name}" if most < 0 else f"{has} of {most / unit:g} {name}")
    if limits.get("max_bytes_required"):
        parts.append("every stream needs a size")
    return ", ".join(parts)


_NO_STREAM = "no stream keeps it: create one with this subject, or set create_channels = true in [broker]"


def allowed(permissions: Mapping[str, Any] | None, subject: str) -> bool:
    """Whether a login may publish to a subject, as far as the server told."""
    told = (permissions or {}).get("permissions") or {}
    publish = told.get("publish") or {}
    allow, deny = publish.get("allow"), publish.get("deny") or ()
    if any(names.covers(one, subject) for one in deny):
        return False
    return not allow or any(names.covers(one, subject) for one in allow)


def _rights(permissions: Mapping[str, Any] | None, channel: str) -> tuple[str, ...] | None:
    if permissions is None:
        return None
    return ("publish",) if allowed(permissions, channel) else ()
