"""The names of effects: what makes two deliveries the same thing to do for one action.

By default the event id, which all retries and copies of an event share; where a subscription says so, a header or a
field of the payload. Two children of one event have ids of their own, so they are two effects.

Ids from outside are claims: an id that a producer wrote and one that a record got from its place never meet, or a
forged ``orders-3-18`` would suppress the real record there. The payload's checksum and the time at which it was
written belong to a name by place, for a recreated channel counts its places from 0 again. A dead letter that is sent
round again by hand is a new effect; only its own copies are duplicates.
"""

from collections.abc import Callable
from typing import Any
from zlib import crc32

import msgspec

from hexa_worker.core import lineage
from hexa_worker.core.message import Delivery, header

EffectKey = Callable[[Delivery], str]
SHOWN_LIMIT = 100
"""Values longer than this are named by their digest."""


def by_event(delivery: Delivery) -> str:
    """The effect of a delivery that is named by its event."""
    found = dict(delivery.headers)
    event_id = lineage.valid_id(found.get(lineage.EVENT_ID))
    if event_id is None:
        return _by_place(lineage.id_by_place(delivery), delivery)
    if not delivery.comes_again:
        return "e:" + event_id
    origin = found.get(lineage.ORIGIN_ID, b"").decode("utf-8", errors="replace")
    name = _by_place(event_id, delivery) if origin and lineage.spelled(origin) == event_id else "e:" + event_id
    return name + _round(found.get(lineage.REDRIVEN_FROM))


def by_header(name: str) -> EffectKey:
    """Effects that are named by the value of a header; without it, by their event."""

    def key(delivery: Delivery) -> str:
        value = header(delivery.headers, name)
        return _by_value(value, delivery) if value else by_event(delivery)

    return key


def by_field(path: str, codec: str) -> EffectKey:
    """Effects that are named by a field of the payload (``order.id``); where it is missing, by their event.

    Args:
        path: names of fields, from the outside in.
        codec: ``json`` or ``msgpack``.
    """
    names = path.split(".")
    fields: Any = Any
    for name in reversed(names):
        fields = msgspec.defstruct("Fields", [("value", fields, msgspec.UNSET)], rename={"value": name})
    decoder: Any = msgspec.json.Decoder(fields) if codec == "json" else msgspec.msgpack.Decoder(fields)

    def key(delivery: Delivery) -> str:
        try:
            value = decoder.decode(delivery.payload)
            for _ in names:
                value = value.value
            text = b"" if value is msgspec.UNSET else msgspec.json.encode(value)
        except (msgspec.MsgspecError, AttributeError, TypeError, RecursionError):
            return by_event(delivery)
        return by_event(delivery) if text in _NOTHING else _by_value(text, delivery)

    return key


_NOTHING = (b"", b"null", b'""')


def _by_value(value: bytes, delivery: Delivery) -> str:
    again = _round(header(delivery.headers, lineage.REDRIVEN_FROM)) if delivery.comes_again else ""
    return f"k:{_shown(value)}{again}"


def _by_place(place: str, delivery: Delivery) -> str:
    at_ms = lineage.origin_of(delivery).timestamp_ms
    known = 0 < at_ms <= lineage.LATEST_MS  # what a retry record does not carry on names nothing
    return f"p:{place}:{crc32(delivery.payload):08x}:{at_ms if known else 0}"


def _round(redriven_from: bytes | None) -> str:
    return "" if redriven_from is None else f">{_shown(redriven_from)}"


def _shown(value: bytes) -> str:
    if len(value) <= SHOWN_LIMIT and value.isascii() and value.decode("ascii").isprintable():
        return value.decode("ascii")
    # Rare, and hashlib loads OpenSSL, which would cost every process 3 MiB: hence imported here.
    from hashlib import blake2b  # noqa: PLC0415

    return "#" + blake2b(value, digest_size=16).hexdigest()
