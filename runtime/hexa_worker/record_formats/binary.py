"""CloudEvents 1.0, binary mode: attributes in headers, the payload as it is.

Source of the rules: the Kafka protocol binding (``ce_`` and ``content-type``), and the headers of the NATS binding
(``ce-``, percent-encoded). Pulsar has no binding of its own: its properties follow Kafka's names. The runtime reads
attributes by Kafka's names on every broker.

Extensions that mean something here: ``correlationid`` and ``causationid`` (the parent's id), ``traceparent`` and
``tracestate``, ``partitionkey`` where the broker has no key.
"""

from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from hexa_worker.core.lineage import CORRELATION_ID, EVENT_ID, ORIGIN_CHANNEL, PARENT_ID, spelled, valid_id
from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.core.propagated import TRACE_PARENT, TRACE_STATE

PREFIX = "ce_"
CONTENT_TYPE = "content-type"
NATS_PREFIX = "ce-"
NATS_CONTENT_TYPE = "ce-datacontenttype"
PARTITION_KEY = "ce_partitionkey"
_MIRRORED = (
    (CORRELATION_ID, "ce_correlationid"),
    (TRACE_PARENT, "ce_traceparent"),
    (TRACE_STATE, "ce_tracestate"),
)
"""Headers of the runtime that are attributes on the wire."""
_LAST_MS = 253_402_300_799_999
_UNQUOTED = "!#$&'()*+,/:;<=>?@[\\]^`{|}"

M = TypeVar("M", bound=Message)
_is_json = msgspec.json.Decoder(msgspec.Raw).decode


def complete(message: M, source: str, *, keyed: bool) -> M:
    """A record with all attributes as headers; itself, when nothing names its event.

    Args:
        message: a record of the runtime.
        source: the ``source`` of events that we emit.
        keyed: say the key as an attribute, too.
    """
    found = dict(message.headers)
    event_id = found.get("ce_id") or found.get(EVENT_ID)
    if event_id is None:
        return message
    dropped = {name for name, attribute in _MIRRORED if name in found}
    if found.get(EVENT_ID) == _derived_id(found):
        dropped.add(EVENT_ID)
    headers = tuple(pair for pair in message.headers if pair[0] not in dropped) if dropped else message.headers
    attributes: list[tuple[str, bytes]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id),
        ("ce_source", source.encode(errors="replace")),
        ("ce_type", found.get(ORIGIN_CHANNEL) or message.channel.encode(errors="replace")),
    ]
    if 0 < message.timestamp_ms <= _LAST_MS and "ce_id" not in found:
        attributes.append(("ce_time", _time(message.timestamp_ms)))
    attributes.extend((attribute, found[name]) for name, attribute in _MIRRORED if name in found)
    if PARENT_ID in found:
        attributes.append(("ce_causationid", found[PARENT_ID]))
    if keyed and message.key is not None:
        attributes.append((PARTITION_KEY, message.key))
    if message.payload and "ce_id" not in found:
        attributes.append((CONTENT_TYPE, content_type_of(message.payload)))
    added = tuple(pair for pair in attributes if pair[0] not in found)
    return msgspec.structs.replace(message, headers=headers + added)


def _time(timestamp_ms: int) -> bytes:
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z").encode("ascii")


def content_type_of(payload: bytes) -> bytes:
    if is_json(payload):
        return b"application/json"
    try:
        payload.decode()
    except UnicodeDecodeError:
        return b"application/octet-stream"
    return b"text/plain; charset=utf-8"


def is_json(payload: bytes) -> bool:
    """Whether a payload is JSON text."""
    try:
        _is_json(payload)
        payload.decode()
    except (ValueError, RecursionError):
        return False
    return True


def _derived_id(found: dict[str, bytes]) -> bytes | None:
    """The event id of somebody else's event: ``id`` is unique within ``source`` only."""
    if not found.get("ce_id") or not found.get("ce_source"):
        return None
    text = (found["ce_source"] + b"#" + found["ce_id"]).decode("utf-8", errors="replace")
    return spelled(text).encode("ascii")


def understood(delivery: Delivery) -> Delivery:
    """A record with attributes, and with the runtime's headers that follow from them."""
    found = dict(delivery.headers)
    if "ce_specversion" not in found:
        return delivery
    derived: list[tuple[str, bytes]] = []
    if valid_id(found.get(EVENT_ID)) is None:
        event_id = _derived_id(found)
        if event_id is not None:
            derived.append((EVENT_ID, event_id))
    derived.extend((name, found[attribute]) for name, attribute in _MIRRORED if attribute in found)
    replaced = {name for name, _ in derived}
    headers = tuple(pair for pair in delivery.headers if pair[0] not in replaced)
    key = found.get(PARTITION_KEY) if delivery.key is None else delivery.key
    return msgspec.structs.replace(delivery, headers=(*headers, *derived), key=key)


def to_nats(message: M) -> M:
    """A complete record with the names and the spelling of the NATS binding."""
    return msgspec.structs.replace(message, headers=tuple(_to_nats(name, value) for name, value in message.headers))


def _to_nats(name: str, value: bytes) -> tuple[str, bytes]:
    if name == CONTENT_TYPE:
        return NATS_CONTENT_TYPE, value
    if not name.startswith(PREFIX):
        return name, value
    return NATS_PREFIX + name[len(PREFIX) :], quote_from_bytes(value, safe=_UNQUOTED).encode("ascii")


def from_nats(delivery: Delivery) -> Delivery:
    """A record with Kafka's names instead of the ones of the NATS binding."""
    headers: Headers = tuple(_from_nats(name, value) for name, value in delivery.headers)
    return delivery if headers == delivery.headers else msgspec.structs.replace(delivery, headers=headers)


def _from_nats(name: str, value: bytes) -> tuple[str, bytes]:
    lower = name.lower()
    if not lower.startswith(NATS_PREFIX):
        return name, value
    if lower == NATS_CONTENT_TYPE:
        return CONTENT_TYPE, value
    return PREFIX + lower[len(NATS_PREFIX) :], unquote_to_bytes(value)
