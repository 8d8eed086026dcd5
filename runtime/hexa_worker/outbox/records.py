"""What an outbox keeps of an event: the finished record, as the driver sends it. Pure."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from hexa_worker.core.message import Headers, Message
from hexa_worker.outbox.errors import OutboxError

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode

COLUMNS = ("event_id", "channel", "key", "headers", "payload", "timestamp_ms")
"""Of every table that keeps records: an event's id, and its record; the headers are packed."""

_DUE = "hexa-due-ms"
"""Stands last among the headers of an event for later, in the table only."""

HELD_COLUMNS = ("id", *COLUMNS, "state", "attempts", "reason", "due_ms")
State = Literal["refused", "behind", "parked"]
"""``refused``: tried again later; ``behind``: waits for an earlier one of its key; ``parked``: given up."""


class Prepared(msgspec.Struct, frozen=True):
    """An event that is ready to be written.

    Attributes:
        event_id: what `Outbox.emit` returns, and what the record carries in its headers.
        message: the record, in its channel's wire format.
    """

    event_id: str
    message: Message


class OutboxRecord(msgspec.Struct, frozen=True):
    """A row of the outbox.

    Attributes:
        id: orders the events: of two transactions that waited for each other the later one has the higher ids.
        event_id: of the event.
        message: what is sent.
    """

    id: int
    event_id: str
    message: Message

    @property
    def line(self) -> tuple[str, bytes] | None:
        """Channel and key, within which records keep their order; None without a key."""
        key = self.message.key
        return None if key is None else (self.message.channel, key)


class HeldRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be sent in its turn.

    Attributes:
        record: which.
        state: see `State`.
        attempts: how often the broker has refused it.
        reason: why, in the broker's words.
        due_ms: when it is tried again, milliseconds since the epoch.
    """

    record: OutboxRecord
    state: State
    attempts: int = 0
    reason: str = ""
    due_ms: int = 0


def columns(event_id: str, message: Message) -> tuple[Any, ...]:
    """The values of `COLUMNS`."""
    due = ((_DUE, b"%d" % message.due_ms),) if message.due_ms else ()
    headers = _encode_headers(message.headers + due)
    return event_id, message.channel, message.key, headers, message.payload, message.timestamp_ms


def held_columns(held: HeldRecord) -> tuple[Any, ...]:
    """The values of a row of held records: its id, `COLUMNS`, and what became of it."""
    one = held.record
    written = columns(one.event_id, one.message)
    return one.id, *written, held.state, held.attempts, held.reason, held.due_ms


def held_record(row: Sequence[Any]) -> HeldRecord:
    """What `held_columns` wrote."""
    *written, state, attempts, reason, due_ms = row
    return HeldRecord(record=record(written), state=state, attempts=attempts, reason=reason, due_ms=due_ms)


def record(row: Sequence[Any]) -> OutboxRecord:
    """A row's id and `COLUMNS` as a record.

    Raises:
        OutboxError: the row was not written by `Outbox.emit`.
    """
    number, event_id, channel, key, packed, payload, timestamp_ms = row
    try:
        headers, due_ms = _without_due(_decode_headers(packed))
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise OutboxError(f"row {number} of the outbox was not written by Outbox.emit: its headers: {error}") from error
    message = Message(
        channel=channel, payload=payload, key=key, headers=headers, timestamp_ms=timestamp_ms, due_ms=due_ms
    )
    return OutboxRecord(number, event_id, message)


def _without_due(headers: Headers) -> tuple[Headers, int]:
    if headers and headers[-1][0] == _DUE:
        return headers[:-1], int(headers[-1][1])
    return headers, 0
