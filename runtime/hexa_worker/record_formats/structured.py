"""CloudEvents 1.0, structured mode: attributes and data in one JSON object (the JSON event format).

Our control headers and the user's own stay headers of the broker. Batches (``cloudevents-batch+json``) are no event
of ours: they are left as they are.
"""

from base64 import b64decode, b64encode
from typing import Any, TypeVar

import msgspec

from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.record_formats.binary import CONTENT_TYPE, PREFIX, is_json

MEDIA_TYPE = b"application/cloudevents+json"
_REQUIRED = ("specversion", "id", "source", "type")
_DATA = frozenset({"data", "data_base64", "datacontenttype"})

M = TypeVar("M", bound=Message)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.decode


def encode(message: M) -> M:
    """A record whose headers say all attributes, as one with a JSON object for a value."""
    event: dict[str, Any] = {}
    rest: list[tuple[str, bytes]] = []
    for name, value in message.headers:
        if name.startswith(PREFIX):
            event[_text(name[len(PREFIX) :].encode(errors="replace"))] = _text(value)
        elif name == CONTENT_TYPE:
            event["datacontenttype"] = _text(value)
        else:
            rest.append((name, value))
    if message.payload:
        event |= _data(message.payload, event.get("datacontenttype", "application/json"))
    headers = (*rest, (CONTENT_TYPE, MEDIA_TYPE + b"; charset=utf-8"))
    return msgspec.structs.replace(message, headers=headers, payload=msgspec.json.encode(event))


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace")


def _data(payload: bytes, content_type: str) -> dict[str, Any]:
    """The member that carries a payload so that the same bytes come out again."""
    if _means_json(content_type):
        if payload == payload.strip(b" \t\r\n") and is_json(payload):
            return {"data": msgspec.Raw(payload)}
    elif content_type.startswith("text/"):
        try:
            return {"data": payload.decode()}
        except UnicodeDecodeError:
            pass  # said to be text, and is none
    return {"data_base64": b64encode(payload).decode("ascii")}


def _means_json(content_type: str) -> bool:
    """The JSON format's rule: the subtype is json, or ends in +json."""
    subtype = content_type.partition(";")[0].strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def decode(delivery: Delivery, *, bare: bool) -> Delivery:
    """A record with attributes as headers and the data as payload; itself, when it is no structured event.

    Args:
        delivery: any record.
        bare: believe the value alone, without its content type (the NATS binding before headers).
    """
    said = dict(delivery.headers).get(CONTENT_TYPE)
    if said is None:
        if not bare or delivery.payload[:1] != b"{":
            return delivery
    elif said.partition(b";")[0].strip().lower() != MEDIA_TYPE:
        return delivery
    try:
        opened = _opened(_members(delivery.payload))
    except (ValueError, RecursionError):
        return delivery
    if opened is None:
        return delivery
    attributes, payload = opened
    names = {name for name, _ in attributes} | {CONTENT_TYPE}
    headers = tuple(pair for pair in delivery.headers if pair[0] not in names)
    return msgspec.structs.replace(delivery, headers=headers + attributes, payload=payload)


def _opened(members: dict[str, msgspec.Raw]) -> tuple[Headers, bytes] | None:
    """The attributes and the data of an event's members; None when a required one is missing."""
    attributes: list[tuple[str, bytes]] = []
    for name, raw in members.items():
        if name in _DATA:
            continue
        value = _value(raw)
        if isinstance(value, str | int):  # bool is an int, and spelled as JSON spells it
            text = value if isinstance(value, str) else bytes(raw).decode()
            attributes.append((PREFIX + name, text.encode(errors="replace")))
    if not {name for name, value in attributes if value} >= {PREFIX + name for name in _REQUIRED}:
        return None
    content_type = _value(members["datacontenttype"]) if "datacontenttype" in members else "application/json"
    if not isinstance(content_type, str):
        return None
    attributes.append((CONTENT_TYPE, content_type.encode(errors="replace")))
    return tuple(attributes), _payload(members, content_type)


def _payload(members: dict[str, msgspec.Raw], content_type: str) -> bytes:
    if "data_base64" in members:
        return b64decode(_value(members["data_base64"], type=str), validate=True)
    if "data" not in members:
        return b""
    raw = members["data"]
    if not _means_json(content_type):
        value = _value(raw)
        if isinstance(value, str):
            return value.encode(errors="replace")
    return bytes(raw)
