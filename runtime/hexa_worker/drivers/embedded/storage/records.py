"""Rows to deliveries and messages to rows.

Whatever bytes a row holds, it becomes a delivery: SQL casts every column to what it should be, and headers that
do not decode are left out (and logged), because a row that cannot be read could never be finished either.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from hexa_worker.core.channels import retry_channel
from hexa_worker.core.message import Delivery, Headers, Message
from hexa_worker.drivers.embedded.storage.schema import SEQUENCE_MASK
from hexa_worker.errors import DriverRejected, RecordTooLarge

MAX_PAYLOAD = 64 * 1024 * 1024
MAX_NAME = 255

COLUMNS = "id, CAST(key AS BLOB), CAST(headers AS BLOB), CAST(payload AS BLOB), CAST(at_ms AS INTEGER)"
"""What `deliveries` needs of a row, of the log or of the delayed records."""

Row = tuple[int, bytes | None, bytes | None, bytes, int]
DelayedRow = tuple[int, bytes | None, bytes | None, bytes, int, int, int]
"""A row, its due_ms and its attempt."""

_log = logging.getLogger("hexa_worker.drivers.embedded")
_decode = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_headers(headers: Headers) -> bytes | None:
    """Headers as they are stored; None for none."""
    return _encode(headers) if headers else None


def checked_headers(message: Message) -> bytes | None:
    """The headers of a message as they are stored; refuses what could not be stored.

    Raises:
        RecordTooLarge: payload too large.
        DriverRejected: a channel name that is no name, headers that do not encode.
    """
    check_place(message)
    try:
        return encode_headers(message.headers)
    except (TypeError, ValueError) as error:
        raise DriverRejected(f"headers cannot be stored: {error}") from error


def check_place(message: Message) -> None:
    """Refuse a channel name that is no name and a payload that is too large; the quick part of `checked_headers`."""
    check_name(message.channel)
    if len(message.payload) > MAX_PAYLOAD:
        raise RecordTooLarge(f"payload of {len(message.payload)} bytes is over the limit of {MAX_PAYLOAD}")


@lru_cache(maxsize=1024)
def check_name(name: str) -> None:
    """Refuse what is no channel name.

    Raises:
        DriverRejected: empty, too long, or not printable.
    """
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise DriverRejected(f"{name[:80]!r} is no channel name: 1 to {MAX_NAME} printable characters are allowed")


def log_deliveries(rows: Sequence[Row], channel: str, token: Any) -> list[Delivery]:
    """Rows of a log as first deliveries."""
    try:
        return [
            Delivery(
                channel=channel,
                payload=payload,
                key=key,
                headers=_decode(headers) if headers else (),
                timestamp_ms=at_ms,
                source=channel,
                offset=id_ & SEQUENCE_MASK,
                token=token,
            )
            for id_, key, headers, payload, at_ms in rows
        ]
    except (msgspec.MsgspecError, UnicodeError):
        return [_careful(row, channel, token) for row in rows]


def _careful(row: Row, channel: str, token: Any) -> Delivery:
    id_, key, headers, payload, at_ms = row
    offset = id_ & SEQUENCE_MASK
    return Delivery(
        channel=channel,
        payload=payload,
        key=key,
        headers=_readable(headers, channel, offset),
        timestamp_ms=at_ms,
        source=channel,
        offset=offset,
        token=token,
    )


def _readable(headers: bytes | None, channel: str, offset: int) -> Headers:
    if not headers:
        return ()
    try:
        return _decode(headers)
    except (msgspec.MsgspecError, UnicodeError):
        _log.warning("the headers of %s-%d are damaged; it is delivered without them", channel, offset)
        return ()


def delayed_deliveries(rows: Sequence[DelayedRow], base: str, token: Any) -> list[Delivery]:
    """Rows of delayed records as deliveries of their retry channels."""
    names = {attempt: retry_channel(base, attempt) for attempt in {row[6] for row in rows}}
    try:
        return [
            Delivery(
                channel=names[attempt],
                payload=payload,
                key=key,
                headers=_decode(headers) if headers else (),
                timestamp_ms=at_ms,
                due_ms=due_ms,
                source=names[attempt],
                offset=id_ & SEQUENCE_MASK,
                attempt=attempt,
                token=token,
            )
            for id_, key, headers, payload, at_ms, due_ms, attempt in rows
        ]
    except (msgspec.MsgspecError, UnicodeError):
        return [replace(_careful(row[:5], names[row[6]], token), due_ms=row[5], attempt=row[6]) for row in rows]
