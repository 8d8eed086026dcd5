"""A message as a broker keeps it, and a delivery of it as a worker receives it.

Both are flat structs because one of each lives and dies per message on the hot path.
"""

from typing import Any

import msgspec

Headers = tuple[tuple[str, bytes], ...]
"""Header pairs in the order of the wire; a name may repeat, the last one wins."""


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One record of one channel.

    Attributes:
        channel: where it is (to be) stored: a topic, a subject, a channel of the embedded broker.
        payload: the encoded payload; any bytes.
        key: the event's key, or None.
        headers: see `Headers`.
        timestamp_ms: when it was written, milliseconds since the epoch; 0 lets the broker choose.
        due_ms: not to be delivered before this time; 0 means at once. Retry records carry it, and events that are
            emitted for later; what is read from a channel of events has 0.
    """

    channel: str
    payload: bytes
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int = 0
    due_ms: int = 0


class Delivery(Message, frozen=True, gc=False, kw_only=True):
    """One attempt to hand a message to a subscription.

    Attributes:
        source: the stretch of broker storage it was read from (``orders-3``: topic and partition,
            stream, channel); the same string object for every delivery of that stretch.
        offset: its position in `source`. ``(source, offset)`` names the message for ever.
        delay_ms: how long before `due_ms` it was written, by its writer's clock; 0: not known.
        attempt: 0 on the first delivery, n when read from retry channel n. Taken from the channel,
            never from a header: headers from outside are claims. As a source hands it out; see
            `hexa_worker.core.settlement.counted` for what a worker makes of a snoozed one.
        snoozes: how often it was snoozed; sources leave it at 0.
        crashes: how many worker processes died with this delivery in hand, as far as is known.
        token: the driver's own handle. It must not refer back to a delivery (no gc on this struct).
    """

    source: str
    offset: int
    delay_ms: int = 0
    attempt: int = 0
    snoozes: int = 0
    crashes: int = 0
    token: Any = None

    @property
    def comes_again(self) -> bool:
        """Whether it failed or was snoozed, so that its headers are a worker's; of a first one they are claims."""
        return self.attempt > 0 or self.snoozes > 0

    @property
    def message_id(self) -> str:
        """The broker's name for the message: ``{source}-{offset}`` (hexa-event's Kafka event id)."""
        return f"{self.source}-{self.offset}"


def header(headers: Headers, name: str) -> bytes | None:
    """The value of the last header called `name`, or None."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None
