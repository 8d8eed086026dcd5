"""What is remembered of one delivery. Pure."""

from typing import Literal

import msgspec

from hexa_worker.core.lineage import REDRIVEN_FROM, lineage_of
from hexa_worker.core.message import header
from hexa_worker.core.settlement import (
    Acked,
    DeadLettered,
    Failure,
    Postponed,
    Released,
    RetryAt,
    Settlement,
    is_snooze,
)

Happening = Literal["acked", "dropped", "retried", "snoozed", "dead-lettered", "released", "redriven", "purged"]


class LineageEntry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One thing that happened to one event in one subscription.

    Attributes:
        attempt: of the delivery it is about.
        outcome: what happened.
        at_ms: when it had taken effect.
        channel: the channel the delivery was read from.
        message_id: the delivery's; None where it was not kept.
        error: class and message of a failure; the reason of a drop.
        delay_s: seconds until the retry that was asked for, or until it comes again.
        next: the channel the event went to: a retry channel, its own (a retry in its place), or the dead letter.
        redriven_from: the dead letter that an acknowledged delivery once was.
    """

    event_id: str
    root_id: str
    action: str
    attempt: int
    outcome: Happening
    at_ms: int
    channel: str
    parent_id: str | None = None
    message_id: str | None = None
    error: str | None = None
    delay_s: float | None = None
    next: str | None = None
    redriven_from: str | None = None


def entry_of(action: str, settlement: Settlement, now_ms: int) -> LineageEntry:
    delivery = settlement.delivery
    outcome: Happening
    error = delay_s = following = before = None
    match settlement:
        case Acked():
            outcome = "acked" if settlement.dropped is None else "dropped"
            error = None if settlement.dropped is None else _writable(settlement.dropped)
            before = header(delivery.headers, REDRIVEN_FROM) if delivery.comes_again else None
        case RetryAt() | Postponed():
            outcome, delay_s = "snoozed" if is_snooze(settlement) else "retried", settlement.delay_s
            error = error_text(settlement.failure)
            following = settlement.record.channel if isinstance(settlement, RetryAt) else delivery.channel
        case DeadLettered():
            outcome, error, following = "dead-lettered", error_text(settlement.failure), settlement.record.channel
        case Released():
            outcome = "released"
    event_id, root_id, parent_id = lineage_of(delivery)
    place, message_id = delivery.channel, delivery.message_id
    return LineageEntry(  # in the order of its fields: a failing subscription pays for it twice per event
        event_id, root_id, action, delivery.attempt, outcome, now_ms, place, parent_id, message_id, error, delay_s,
        following, None if before is None else before.decode(errors="replace"),
    )  # fmt: skip


def error_text(failure: Failure) -> str:
    text = _writable(" ".join(failure.message.split()))
    return f"{failure.error}: {text}" if text else failure.error


def _writable(text: str) -> str:
    """A text that can be encoded; file names that are no UTF-8 come into errors as what cannot."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def emitted_ms(event_id: str) -> int | None:
    """When an event was emitted, as far as its id tells: see `hexa_worker.core.ids`."""
    parts = event_id.split("-")
    if len(parts) != 3 or [len(parts[0]), len(parts[1])] != [12, 16]:  # noqa: PLR2004 - the form of our ids
        return None
    try:
        return int(parts[0], 16)
    except ValueError:
        return None
