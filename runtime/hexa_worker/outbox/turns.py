"""What the relay decides: which records are sent now, and what becomes of those that are refused. Pure."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.outbox.base import Line
from hexa_worker.outbox.records import HeldRecord, OutboxRecord


class Refusal(msgspec.Struct, frozen=True):
    """A record that the broker did not take.

    Attributes:
        record: which.
        reason: why, in the broker's words.
        counts: it is an attempt; false where its channel is away, which time may mend.
    """

    record: OutboxRecord
    reason: str
    counts: bool = True


def sort_out(
    records: Iterable[OutboxRecord], blocked: AbstractSet[Line], max_payload: int | None
) -> tuple[list[OutboxRecord], list[OutboxRecord], list[OutboxRecord]]:
    """Those to send now, those that the broker would refuse, and those that wait behind such a one.

    Args:
        records: in the order in which they are sent.
        blocked: the lines in which something waits already.
        max_payload: bytes of the largest payload that the broker takes; None: nobody knows.
    """
    send: list[OutboxRecord] = []
    too_large: list[OutboxRecord] = []
    behind: list[OutboxRecord] = []
    closed = set(blocked)
    for one in records:
        line = one.line
        if line is not None and line in closed:
            behind.append(one)
        elif max_payload is not None and len(one.message.payload) > max_payload:
            too_large.append(one)
            if line is not None:
                closed.add(line)
        else:
            send.append(one)
    return send, too_large, behind


def heads(refusals: Sequence[Refusal]) -> tuple[list[Refusal], list[Refusal]]:
    """Of records that were not taken the first one of each line, and those without a key; and the others."""
    first: list[Refusal] = []
    later: list[Refusal] = []
    seen = set[Line]()
    for one in sorted(refusals, key=lambda refusal: refusal.record.id):
        line = one.record.line
        (later if line in seen else first).append(one)
        if line is not None:
            seen.add(line)
    return first, later


def refused(refusal: Refusal, before: int, options: OutboxConfig, now_ms: int) -> HeldRecord:
    """What becomes of a record that had been refused `before` times already: it is tried again, or parked."""
    attempts = before + refusal.counts
    if attempts > options.maximum_retries:
        return HeldRecord(record=refusal.record, state="parked", attempts=attempts, reason=refusal.reason)
    due_ms = now_ms + round(options.retry_interval_s * 1000)
    return HeldRecord(record=refusal.record, state="refused", attempts=attempts, reason=refusal.reason, due_ms=due_ms)


def closes(held: Sequence[HeldRecord], on_refused: str) -> set[Line]:
    """The lines that records just held keep from going on."""
    keeps = [one for one in held if one.state != "parked" or on_refused == "hold"]
    return {line for one in keeps if (line := one.record.line) is not None}


def due_prefix(waiting: Sequence[HeldRecord]) -> list[HeldRecord]:
    """Of the records of a line those that may go at once: none may pass one that was refused before."""
    place = next((place for place, one in enumerate(waiting) if one.attempts), len(waiting))
    return list(waiting[: place + 1])


def first_of_lines(due: Sequence[HeldRecord]) -> list[HeldRecord]:
    """Of refused records those that may be sent at once: one of each line, and all without a key."""
    seen = set[Line]()
    found: list[HeldRecord] = []
    for one in due:
        line = one.record.line
        if line is None or line not in seen:
            found.append(one)
        if line is not None:
            seen.add(line)
    return found
