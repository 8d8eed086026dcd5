"""Who an event is and where it came from: ids, and the control headers that carry them.

Words: the *event id* names what a user emitted; every delivery, retry and dead letter of it keeps that id.
The *root id* is the event id of the first event of the tree; `ctx.emit` makes children that share it and
name their parent. An effect is unique per (event id, action).

Headers on a first-hop record are claims from outside: a malformed id is ignored, and no header ever
shortens a retry ladder (the attempt comes from the channel a record was read from).
"""

import re
from typing import NamedTuple

from hexa_worker.core.message import Delivery, Headers, header

EVENT_ID = "hexa-event-id"
ROOT_ID = "hexa-root-id"
PARENT_ID = "hexa-parent-id"
CORRELATION_ID = "hexa-correlation-id"
ACTION = "hexa-action"
ATTEMPT = "hexa-attempt"
SNOOZES = "hexa-snoozes"
"""How often an event was snoozed, and with a colon the attempt that a snoozed record comes again as: ``3:0``."""
FIRST_FAILED_AT = "hexa-first-failed-at"
ORIGIN_CHANNEL = "hexa-origin-channel"
ORIGIN_ID = "hexa-origin-id"
ORIGIN_AT = "hexa-origin-at"
"""When the first record was written, milliseconds since the epoch."""
REDRIVEN_FROM = "hexa-redriven-from"
"""Names the dead letter that a redriven record was."""
REDRIVEN_FOR = "hexa-redriven-for"
"""The fingerprint of the failure that this dead letter had died of."""
PREFIX = "hexa-"
"""Every control header starts so; `ctx.headers` does not show them."""

_ID_LIMIT = 200
_TIMESTAMP_DIGITS = 15
LATEST_MS = 10**_TIMESTAMP_DIGITS - 1
"""No later time is read from a header."""
_ID = re.compile(rb"[!-~]{1,%d}" % _ID_LIMIT)


class Lineage(NamedTuple):
    """The ids of one event."""

    event_id: str
    root_id: str
    parent_id: str | None


class Origin(NamedTuple):
    """The record that an event was emitted as; a retry is another one.

    Attributes:
        channel: where it was emitted to.
        message_id: the broker's name for that record.
        timestamp_ms: when it was written, milliseconds since the epoch; 0 when nobody knows.
    """

    channel: str
    message_id: str
    timestamp_ms: int


def origin_of(delivery: Delivery) -> Origin:
    """Where a delivery comes from: of a first one itself, for what its headers say would be a claim from outside."""
    found = dict(delivery.headers) if delivery.comes_again else {}
    channel = found.get(ORIGIN_CHANNEL)
    if channel is None:
        return Origin(delivery.channel, delivery.message_id, delivery.timestamp_ms)
    at = found.get(ORIGIN_AT, b"")
    message_id = found.get(ORIGIN_ID, b"").decode("utf-8", errors="replace")
    known = at.isdigit() and len(at) <= _TIMESTAMP_DIGITS
    return Origin(channel.decode("utf-8", errors="replace"), message_id, int(at) if known else 0)


def read_id(headers: Headers, name: str) -> str | None:
    """The id in header `name`; None when it is absent or no `valid_id`."""
    return valid_id(header(headers, name))


def valid_id(value: bytes | None) -> str | None:
    """The id that a header's value spells; None when it is absent or not 1 to 200 visible ASCII characters."""
    return value.decode("ascii") if value is not None and _ID.fullmatch(value) is not None else None


def is_id(value: bytes | None) -> bool:
    """Whether a header's value is a `valid_id`."""
    return value is not None and _ID.fullmatch(value) is not None


def lineage_of(delivery: Delivery) -> Lineage:
    """The lineage of a delivery. A record without an event id is named by its place in the broker."""
    found = dict(delivery.headers)
    event_id = valid_id(found.get(EVENT_ID)) or id_by_place(delivery)
    root, parent = found.get(ROOT_ID), found.get(PARENT_ID)
    if root is None and parent is None:
        return Lineage(event_id, event_id, None)
    return Lineage(event_id, valid_id(root) or event_id, valid_id(parent))


def id_by_place(delivery: Delivery) -> str:
    """The id of a record that carries none: its message id, spelled so that a header can carry it on."""
    return spelled(delivery.message_id)


def spelled(name: str) -> str:
    """A name from outside as a valid id: itself, percent-encoded, or (when that is too long) its hash."""
    if _ID.fullmatch(name.encode(errors="replace")):
        return name
    # Rare, and hashlib loads OpenSSL, which would cost every process 3 MiB: hence imported here.
    from hashlib import blake2b  # noqa: PLC0415
    from urllib.parse import quote  # noqa: PLC0415

    quoted = quote(name, safe="", errors="replace")
    if quoted and len(quoted) <= _ID_LIMIT:
        return quoted
    return blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()


def origin_headers(event_id: str) -> Headers:
    """Control headers of an event that starts a tree: its root is itself and need not be said."""
    return ((EVENT_ID, event_id.encode("ascii")),)


def child_headers(event_id: str, parent: Lineage) -> Headers:
    """Control headers of an event emitted while handling `parent`."""
    return (
        (EVENT_ID, event_id.encode("ascii")),
        (ROOT_ID, parent.root_id.encode("ascii")),
        (PARENT_ID, parent.event_id.encode("ascii")),
    )


def without(headers: Headers, names: frozenset[str]) -> Headers:
    """`headers` less those called one of `names`, order kept."""
    return tuple(pair for pair in headers if pair[0] not in names)
