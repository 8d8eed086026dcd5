"""What a `Harness` shows of a run: small records with decoded payloads."""

from collections.abc import Mapping
from typing import Any

import msgspec

from hexa_worker.core.lineage import PREFIX, Lineage, lineage_of
from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, RetryAt, Settlement
from hexa_worker.subscriptions.plan import Decode


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery, and what became of it.

    Attributes:
        action: the subscription.
        event_id: the event; the same on every retry.
        root_id: the first event of its tree.
        parent_id: the event whose handler emitted it, or None.
        attempt: 0 on the first delivery, n on retry n.
        channel: where it was read from.
        key: its key, as text.
        payload: as the handler gets it; the bytes, when they do not decode.
        headers: its own headers, as text.
        error: class of the error or verdict; empty for a success.
        message: what the error said; of a dropped delivery the reason.
        reason: ``failed``, ``timeout``, ``undecodable``, ``crashed`` or ``asked``; ``dropped``; empty for a success.
        delay_s: how long a retry waits; None for other ends.
        at_ms: when it was settled, in virtual milliseconds since the epoch.
    """

    action: str
    event_id: str
    root_id: str
    parent_id: str | None
    attempt: int
    channel: str
    key: str | None
    payload: Any
    headers: Mapping[str, str]
    error: str = ""
    message: str = ""
    reason: str = ""
    delay_s: float | None = None
    at_ms: int = 0


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """One event that a handler emitted.

    Attributes:
        channel: where to.
        event_id: the event.
        root_id: the first event of its tree.
        parent_id: the event whose handler emitted it.
        key: its key, as text.
        payload: JSON decoded, or the bytes.
        headers: its own headers, as text.
    """

    channel: str
    event_id: str
    root_id: str
    parent_id: str | None
    key: str | None
    payload: Any
    headers: Mapping[str, str]


def settled(action: str, decode: Decode, settlement: Settlement, at_ms: int) -> Settled:
    """The record of one settlement."""
    delivery = settlement.delivery
    ids = lineage_of(delivery)
    record = Settled(
        action=action,
        event_id=ids.event_id,
        root_id=ids.root_id,
        parent_id=ids.parent_id,
        attempt=delivery.attempt,
        channel=delivery.channel,
        key=_text(delivery.key),
        payload=_decoded(decode, delivery.payload),
        headers=_own(delivery.headers),
        at_ms=at_ms,
    )
    return msgspec.structs.replace(record, **_end(settlement))


def _end(settlement: Settlement) -> dict[str, Any]:
    if isinstance(settlement, RetryAt | Postponed | DeadLettered):
        failure = settlement.failure
        end: dict[str, Any] = {"error": failure.error, "message": failure.message, "reason": failure.reason}
        if isinstance(settlement, RetryAt | Postponed):
            end["delay_s"] = settlement.delay_s
        return end
    if isinstance(settlement, Acked) and settlement.dropped is not None:
        return {"message": settlement.dropped, "reason": "dropped"}
    return {}


def emitted(message: Message) -> Emitted:
    """The record of one published event."""
    ids = _lineage(message)
    return Emitted(
        channel=message.channel,
        event_id=ids.event_id,
        root_id=ids.root_id,
        parent_id=ids.parent_id,
        key=_text(message.key),
        payload=_decoded(msgspec.json.decode, message.payload),
        headers=_own(message.headers),
    )


def _lineage(message: Message) -> Lineage:
    """The lineage in a message's headers; an emitted event always has an id there."""
    fields = {name: getattr(message, name) for name in Message.__struct_fields__}
    return lineage_of(Delivery(**fields, source=message.channel, offset=0))


def _decoded(decode: Decode, payload: bytes) -> Any:
    try:
        return decode(payload)
    except Exception:  # noqa: BLE001 - any decoder of a user's type; a test shall see what came
        return payload


def _own(headers: Headers) -> Mapping[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers if not name.startswith(PREFIX)}


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="replace")
