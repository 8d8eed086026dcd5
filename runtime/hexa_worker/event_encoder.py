"""Emitting: an event becomes a message with its lineage, and is published with confirmation."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hexa_worker.clock import Clock
from hexa_worker.codecs.annotations import is_protobuf
from hexa_worker.core.child_ids import Handled
from hexa_worker.core.expiry import expiry_header
from hexa_worker.core.ids import IdSource
from hexa_worker.core.lineage import PREFIX, Lineage, child_headers, origin_headers, valid_id
from hexa_worker.core.message import Headers, Message
from hexa_worker.core.propagated import (
    REPLY_TO,
    USER,
    User,
    carried_headers,
    is_whole_user,
    read_user,
    unless_said,
    user_bytes,
)
from hexa_worker.errors import ConfigError, DriverError
from hexa_worker.faults import fault
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.event_times import due_ms, expires_ms

Encode = Callable[[Any], bytes]
_PAYLOAD_ENCODER = "_payload_encoder"
_ENCODERS = ("json", "protobuf")
"""hexa-event's."""


class Preparer:
    """Makes finished records of events.

    Args:
        clock: stamps records and ids.
        encode: payload to bytes.
    """

    def __init__(self, clock: Clock, encode: Encode) -> None:
        self._clock = clock
        self._encode = encode
        self._ids = IdSource(secrets.randbits(64))

    def prepare(self, event: Event, parent: Lineage | None) -> tuple[str, Message]:
        """The event id and the finished record of an event."""
        if not _bytes("a channel", event.channel):
            raise ConfigError("an event needs a channel")
        now_ms = self._clock.now_ms()
        payload, key, own = self._encode(event.payload), _key(event.key), _own_headers(event)
        if event.id:
            event_id = _said_id(event)
        elif isinstance(parent, Handled):
            event_id = parent.child_id(event.channel, key, own + _said(event), payload)
        else:
            event_id = self._ids.new(now_ms)
        due = due_ms(event.after, event.at, now_ms)
        control = origin_headers(event_id) if parent is None else child_headers(event_id, parent)
        expiry = expiry_header(expires_ms(event.expires_in, due or now_ms))
        message = Message(
            channel=event.channel,
            payload=payload,
            key=key,
            headers=control + expiry + _carried(event) + own + _encoder(event) + _reply(event),
            timestamp_ms=now_ms,
            due_ms=due,
        )
        return event_id, message


class Publishing(Protocol):
    """What an emitter needs of a driver."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        ...


class EventEncoder(Preparer):
    """Publishes events through a driver.

    Args:
        driver: an open driver.
        clock: stamps records and ids.
        encode: payload to bytes.
    """

    def __init__(self, driver: Publishing, clock: Clock, encode: Encode) -> None:
        super().__init__(clock, encode)
        self._driver = driver

    async def emit(self, event: Event, parent: Lineage | None = None) -> str:
        """Publish one event; returns its event id once the broker has confirmed it.

        Args:
            event: what to emit.
            parent: lineage of the event being handled; None starts a new tree.

        Raises:
            ConfigError: the event itself is wrong (no channel, a reserved header, a key that is a number).
            DriverUnavailable: not confirmed; it may have been stored.
            DriverRejected: the broker refuses it.

        Cancellation: whether it was stored is then unknown.
        """
        event_id, message = self.prepare(event, parent)
        answer = (await self._publish([message]))[0]
        if isinstance(answer, DriverError):
            raise answer
        return event_id

    async def emit_many(self, events: Sequence[Event], parent: Lineage | None = None) -> list[str | DriverError]:
        """Publish events in their order; for each its event id, or the error that refused it.

        Raises: as `emit`, when nothing is known of any of them.
        """
        prepared = [self.prepare(event, parent) for event in events]
        answers = await self._publish([message for _, message in prepared])
        return [
            answer if isinstance(answer, DriverError) else event_id
            for (event_id, _), answer in zip(prepared, answers, strict=True)
        ]

    async def _publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        await fault("before-publish")
        answers = await self._driver.publish(messages)
        await fault("after-publish")
        return answers


def _key(key: object) -> bytes | None:
    """A key as it is sent; a number, which no type checker saw, must not reach a driver's batch."""
    if isinstance(key, str):
        return _bytes("a key", key)
    if key is None or isinstance(key, bytes):
        return key
    raise ConfigError(f"a key must be str or bytes, not {type(key).__name__}", hint="write key=str(…)")


def _carried(event: Event) -> Headers:
    """Correlation id, user, locale and trace: what the event says itself, and what it took over."""
    if event.correlation_id is not None:
        _text("correlation_id", event.correlation_id)
    if event.locale is not None:
        _text("locale", event.locale)
    if event.user is not None:
        _check_user(event.user)
    said = carried_headers(correlation_id=event.correlation_id, user=event.user, locale=event.locale)
    if not event.carried:
        return said
    return unless_said(event.carried, {*event.headers, *[name for name, _ in said]}) + said


def _said(event: Event) -> Headers:
    """What an event says itself beside its own headers, where that makes it another event."""
    if (event.correlation_id, event.user, event.locale, event.at) == (None, None, None, None):
        return ()
    _carried(event)  # which refuses what is no text
    said = carried_headers(correlation_id=event.correlation_id, user=event.user, locale=event.locale)
    return said if event.at is None else (*said, ("at", str(event.at).encode()))


def _check_user(user: object) -> None:
    """A user whose fields no type checker saw would leave as one that nobody can read."""
    if not isinstance(user, User):
        raise ConfigError(f"user must be a User, not {type(user).__name__}")
    try:
        whole = is_whole_user(user_bytes(user))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ConfigError("user has a field of another type", hint="all are str, is_active is bool, roles are of str")


def _said_id(event: Event) -> str:
    """The id that an event was given, if a header can carry it."""
    event_id = valid_id(str(event.id).encode(errors="replace"))
    if event_id is None:
        raise ConfigError("an event id that nobody could read", hint="use 1 to 200 visible ASCII characters")
    return event_id


def _encoder(event: Event) -> Headers:
    """hexa-event reads protobuf messages from JSON in protobuf's own way only, so it must be told."""
    if not is_protobuf(type(event.payload)) or _PAYLOAD_ENCODER in event.headers:
        return ()
    return ((_PAYLOAD_ENCODER, b"protobuf"),)


def _reply(event: Event) -> Headers:
    if event.reply_to is None or REPLY_TO in event.headers:
        return ()
    return ((REPLY_TO, _bytes("reply_to", event.reply_to)),)


def _own_headers(event: Event) -> Headers:
    if not event.headers:
        return ()
    pairs = tuple(
        (_text("a header's name", name), _bytes(f"header {name!r}", value)) for name, value in event.headers.items()
    )
    for name, _ in pairs:
        if name.lower().startswith(PREFIX):
            raise ConfigError(f"header {name!r} is reserved", hint=f"names that start with {PREFIX} are the runtime's")
    _check_hexa(event.headers)
    return pairs


def _check_hexa(headers: Mapping[str, str]) -> None:
    """What hexa-event, in Go, would not take."""
    user, encoder = headers.get(USER), headers.get(_PAYLOAD_ENCODER)
    if isinstance(user, str) and read_user(user.encode(errors="replace")) is None:
        raise ConfigError(f"header {USER!r} says no user", hint="give user=User(…)")
    if encoder is not None and encoder not in _ENCODERS:
        raise ConfigError(f"header {_PAYLOAD_ENCODER!r} must be {' or '.join(_ENCODERS)}, not {encoder!r}")


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise ConfigError(f"{name} must be str, not {type(value).__name__}")


def _bytes(name: str, value: object) -> bytes:
    try:
        return _text(name, value).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} is no text that UTF-8 can say: {value!a}") from None
