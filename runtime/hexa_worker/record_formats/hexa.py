"""The form of Go's hexa-event: context headers, and the two root headers of retry and dead-letter records.

Source of the rules: records that the Go library wrote and read (tests/golden). A Go consumer panics without the
``_ctx_*`` headers and dead-letters what has no ``_payload_encoder``, so what leaves here has them. Our own control
headers travel beside them: Go keeps headers that it does not know. On Pulsar and NATS, Go puts its headers into the
value; ours stay headers of the broker.

Go's name for an event is where its first record lies (``orders-0-1``). `HEXA_ROOT_EVENT_ID` says it on the records
of a retry ladder, and only there it is believed: on a first record it would be a claim from outside.
"""

from typing import TypeVar

import msgspec

from hexa_worker.core.lineage import (
    ACTION,
    ATTEMPT,
    CORRELATION_ID,
    EVENT_ID,
    ORIGIN_CHANNEL,
    ORIGIN_ID,
    PREFIX,
    ROOT_ID,
    valid_id,
)
from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.core.propagated import GUEST, LOCALE, REPLY_TO, USER, is_whole_user, whole_user
from hexa_worker.record_formats import envelope

CORRELATION = "_ctx_correlation_id"
PAYLOAD_ENCODER = "_payload_encoder"
ROOT_EVENT_ID = "HEXA_ROOT_EVENT_ID"
ROOT_ACTION = "HEXA_ROOT_EVENT_HANDLER_ACTION_NAME"
ENVELOPED = frozenset({"nats", "pulsar"})
"""Drivers to whose brokers Go writes headers and payload as one JSON value."""

_NEEDED = frozenset({CORRELATION, LOCALE, USER, PAYLOAD_ENCODER})
_ROOTS = frozenset({ROOT_EVENT_ID, ROOT_ACTION})

M = TypeVar("M", bound=Message)


def encode(message: M, *, enveloped: bool, group: str = "") -> M:
    """A record as Go expects it. What a Go consumer would take already is left as it is.

    Args:
        message: a record of the runtime.
        enveloped: headers go into the value.
        group: whose retry or dead letter it is; Go calls a handler by its group.
    """
    found = dict(message.headers)
    headers = _with_roots(_with_context(message.headers, found), found, group)
    root = dict(headers).get(ROOT_EVENT_ID)
    if root is not None:
        known = _told_by(root)  # `decode` finds them again
        headers = tuple(pair for pair in headers if pair not in known)
    if not enveloped:
        return msgspec.structs.replace(message, headers=headers)
    inner = tuple(pair for pair in headers if not pair[0].startswith(PREFIX))
    outer = tuple(pair for pair in headers if pair[0].startswith(PREFIX))
    return msgspec.structs.replace(message, headers=outer, payload=envelope.pack(inner, message.payload))


def _without(headers: Headers, name: str) -> Headers:
    return tuple(pair for pair in headers if pair[0] != name)


def _with_context(headers: Headers, found: dict[str, bytes]) -> Headers:
    """`headers` with everything that a Go consumer needs."""
    ours = found.get(CORRELATION_ID)
    if ours is not None:
        headers = _without(headers, CORRELATION_ID)
    if USER in found and not is_whole_user(found[USER]):
        headers = (*_without(headers, USER), (USER, whole_user(found[USER])))
    if found.keys() >= _NEEDED:
        return headers
    correlation = ours or found.get(ROOT_ID) or found.get(EVENT_ID) or b""
    defaults = (
        (CORRELATION, correlation),
        (LOCALE, b""),
        (USER, GUEST),
        (REPLY_TO, b""),
        (PAYLOAD_ENCODER, b"json"),
    )
    return (*headers, *[pair for pair in defaults if pair[0] not in found])


def _with_roots(headers: Headers, found: dict[str, bytes], group: str) -> Headers:
    """`headers` with the root headers, if this is a retry or dead-letter record."""
    if ATTEMPT not in found:
        return headers
    event_id = found.get(ORIGIN_ID) or found.get(EVENT_ID) or b""
    roots = ((ROOT_EVENT_ID, event_id), (ROOT_ACTION, group.encode() or found.get(ACTION, b"")))
    return (*headers, *[pair for pair in roots if pair[0] not in found])


def _told_by(root: bytes | None) -> Headers:
    """The control headers that a root event id stands for."""
    if root is None or valid_id(root) is None:
        return ()
    channel, _, offset = root.rpartition(b"-")
    channel = channel.rpartition(b"-")[0]
    origin = ((ORIGIN_CHANNEL, channel), (ORIGIN_ID, root)) if channel and offset.isdigit() else ()
    return ((EVENT_ID, root), *origin)


def decode(delivery: Delivery, *, enveloped: bool, ladder: bool) -> Delivery:
    """A record as the runtime reads it. One without these headers is a plain producer's, and normal."""
    headers, payload = delivery.headers, delivery.payload
    if enveloped:
        unpacked = envelope.unpack(payload)
        if unpacked is not None:
            headers, payload = unpacked[0] + headers, unpacked[1]
    if not headers:
        return delivery
    found = dict(headers)
    derived: list[tuple[str, bytes]] = []
    if ladder:
        derived.extend(pair for pair in _told_by(found.get(ROOT_EVENT_ID)) if pair[0] not in found)
    elif not _ROOTS.isdisjoint(found):
        headers = tuple(pair for pair in headers if pair[0] not in _ROOTS)
    if found.get(CORRELATION):
        headers = _without(headers, CORRELATION_ID) if CORRELATION_ID in found else headers
        derived.append((CORRELATION_ID, found[CORRELATION]))
    if headers is delivery.headers and not derived:
        return delivery
    return msgspec.structs.replace(delivery, headers=(*headers, *derived), payload=payload)
