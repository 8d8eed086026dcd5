"""Messages on the wire: keys and headers of any bytes in Pulsar's texts, and back.

A header that can go as a property goes as one, so that others understand it. Any other (bytes that are no UTF-8, a
repeated name, a name that is used here) goes percent-encoded into the property ``hexa-more``. A key that is text is the
partition key; any other key is kept in the property ``hexa-key``, its encoded form is the partition key.
"""

from collections.abc import Mapping
from typing import Any

from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.drivers.kit.header_escaping import quoted, quoted_pair, unquoted, unquoted_pair
from hexa_worker.drivers.pulsar.client_internals import new_builder
from hexa_worker.drivers.pulsar.names import place
from hexa_worker.errors import DriverRejected, RecordTooLarge

KEY = "hexa-key"
DUE = "hexa-due-ms"
MORE = "hexa-more"
MARKER = "hexa-marker"
_OURS = frozenset({KEY, DUE, MORE, MARKER})
_EMPTY_KEY = "%"
ENTRY_LIMIT = 5 * 1024 * 1024 - 16 * 1024
"""What a message may have of everything, on brokers with their default ``maxMessageSize``."""


def properties_of(message: Message) -> tuple[dict[str, str], str | None]:
    """The properties and the partition key of a message.

    Raises:
        DriverRejected: a header's name is no text.
    """
    properties: dict[str, str] = {}
    more: list[str] = []
    names = [name for name, _ in message.headers]
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    try:
        for name, value in message.headers:
            text = None if name in _OURS or name in repeated else _text(value)
            if text is None:
                more.append(quoted_pair(name, value))
            else:
                name.encode()
                properties[name] = text
    except UnicodeEncodeError as error:
        raise DriverRejected("a header's name is not valid text") from error
    if more:
        properties[MORE] = "&".join(more)
    if message.due_ms:
        properties[DUE] = str(message.due_ms)
    if message.key is None:
        return properties, None
    key = _text(message.key)
    if key:
        return properties, key
    properties[KEY] = quoted(message.key)
    return properties, properties[KEY] or _EMPTY_KEY


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def build(message: Message, delay_tick_ms: int, now_ms: int) -> Any:
    """A message as the client library wants it.

    Args:
        message: what to write.
        delay_tick_ms: a delayed message is asked for so much before it is due.
        now_ms: the wall clock.

    Raises:
        RecordTooLarge: it is too large.
        DriverRejected: it is not valid.
    """
    properties, key = properties_of(message)
    size = len(message.payload) + sum(map(len, properties)) + sum(map(len, properties.values())) + len(key or "")
    if size > ENTRY_LIMIT:
        raise RecordTooLarge(f"a message of {size} bytes with its headers is over the limit of {ENTRY_LIMIT}")
    builder = new_builder()
    builder.content(message.payload)
    if properties:
        builder.properties(properties)
    if key is not None:
        builder.partition_key(key)
    if message.timestamp_ms:
        builder.event_timestamp(message.timestamp_ms)
    if message.due_ms - delay_tick_ms > now_ms:
        builder.deliver_at(message.due_ms - delay_tick_ms)
    return builder.build()


def said_of(message: Any) -> tuple[dict[str, str], str]:
    """Properties and sorting key of a message; empty where they are no text, against the protocol."""
    try:
        properties: dict[str, str] = message.properties()
    except UnicodeDecodeError:
        properties = {}
    try:
        sorted_by: str = message.partition_key() or message.ordering_key()
    except UnicodeDecodeError:
        sorted_by = ""
    return properties, sorted_by


def headers_of(properties: Mapping[str, str]) -> Headers:
    if MORE not in properties and DUE not in properties and KEY not in properties:
        return tuple([(name, value.encode()) for name, value in properties.items()])
    pairs = [(name, value.encode()) for name, value in properties.items() if name not in _OURS]
    if more := properties.get(MORE):
        pairs += [unquoted_pair(pair) for pair in more.split("&")]
    return tuple(pairs)


def key_of(properties: Mapping[str, str], partition_key: str) -> bytes | None:
    quoted_key = properties.get(KEY)
    if quoted_key is not None:
        return unquoted(quoted_key)
    return partition_key.encode() if partition_key else None


def due_of(properties: Mapping[str, str]) -> int:
    """When it is due; 0: at once. What is no number is 0."""
    text = properties.get(DUE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0  # noqa: PLR2004 - no time is longer


class PulsarOrigin:
    """What all messages of one topic (or partition) have in common.

    Args:
        source: `Delivery.source`.
        channel: `Delivery.channel`.
        attempt: `Delivery.attempt`.
    """

    __slots__ = ("attempt", "channel", "source")

    def __init__(self, source: str, channel: str, attempt: int) -> None:
        self.source = source
        self.channel = channel
        self.attempt = attempt


def read_one(message: Any, origin: PulsarOrigin) -> Delivery:
    """A message that is looked at and not consumed, as a delivery; `Delivery.token` is its id."""
    message_id = message.message_id()
    addition, offset = place(message_id.ledger_id(), message_id.entry_id(), message_id.batch_index())
    properties, sorted_by = said_of(message)
    return Delivery(
        channel=origin.channel,
        payload=message.data(),
        key=key_of(properties, sorted_by),
        headers=headers_of(properties),
        timestamp_ms=message.event_timestamp() or message.publish_timestamp(),
        due_ms=due_of(properties),
        source=origin.source + addition,
        offset=offset,
        attempt=origin.attempt,
        token=message_id,
    )
