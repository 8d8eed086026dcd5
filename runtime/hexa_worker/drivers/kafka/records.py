"""A record on Kafka's wire as a delivery, and a message as a record."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from hexa_worker.core.lineage import ATTEMPT
from hexa_worker.core.message import Delivery, Headers, Message, header

DUE_MS = "hexa-due-ms"
"""When a retry record is due; only believed of records in the subscription's own retry topics."""
DELAY_MS = "hexa-delay-ms"
"""How long before that the record was written, by the clock that the due time is of; brokers may stamp with theirs."""
TOMBSTONE = "hexa-tombstone"
"""Added to deliveries of records without a value, which show as an empty payload."""
OVERHEAD = 256 * 1024
"""What a record may take beyond its payload: key, headers, and the failure that a dead letter carries."""
RECORD_OVERHEAD = 128
"""More than a record's own fields and its share of the batch header take."""
_TIMES = frozenset({DUE_MS, DELAY_MS})
_TOMBSTONE: Headers = ((TOMBSTONE, b"1"),)


def record_headers(message: Message) -> list[tuple[str, bytes]]:
    """The headers that `message` has on the wire."""
    if not message.due_ms:
        return list(message.headers)
    headers = [pair for pair in message.headers if pair[0] not in _TIMES]
    headers.append((DUE_MS, b"%d" % message.due_ms))
    if 0 < message.timestamp_ms <= message.due_ms:
        headers.append((DELAY_MS, b"%d" % (message.due_ms - message.timestamp_ms)))
    return headers


def size_of(message: Message) -> int:
    """An upper bound of the bytes that `message` takes as the only record of a batch."""
    size = RECORD_OVERHEAD + len(message.payload) + len(message.key or b"")
    for name, value in message.headers:
        size += 4 * len(name) + len(value) + 10  # a character has at most four bytes
    return size


def deliveries_of(records: Iterable[Any], channel: str, source: str, attempt: int, token: Any) -> list[Delivery]:
    """Records of one partition as deliveries. The hot path: one expression per record."""
    return [
        Delivery(
            channel=channel,
            payload=record.value,
            key=record.key,
            headers=record.headers,
            timestamp_ms=record.timestamp,
            source=source,
            offset=record.offset,
            attempt=attempt,
            token=token,
        )
        if record.value is not None and not record.headers
        else delivery_of(record, channel, source, attempt, token)
        for record in records
    ]


def delivery_of(record: Any, channel: str, source: str, attempt: int, token: Any) -> Delivery:
    """One record as a delivery, whatever it holds. A due time is only read from retry records."""
    headers: Headers = record.headers
    due_ms = delay_ms = 0
    if headers:
        if None in [value for _, value in headers]:
            headers = tuple((name, value or b"") for name, value in headers)
        if attempt:
            headers, due_ms, delay_ms = _without_times(headers)
    if record.value is None:
        headers += _TOMBSTONE
    return Delivery(
        channel=channel,
        payload=record.value or b"",
        key=record.key,
        headers=headers,
        timestamp_ms=record.timestamp,
        due_ms=due_ms,
        source=source,
        offset=record.offset,
        delay_ms=delay_ms,
        attempt=attempt,
        token=token,
    )


def timed(deliveries: Iterable[Delivery], delays_ms: Sequence[int]) -> list[Delivery]:
    """Retry records with due times, also those that hexa-event wrote: it counts from a record's timestamp.

    What hexa-event wrote keeps the headers of the record before, whose due time is over: it is known by the attempt
    that they were written for. A due time before its record was written is believed where a delay stands beside it:
    a broker has stamped it whose clock is ahead.

    Args:
        deliveries: what was read from retry topics.
        delays_ms: how long the records of each retry topic wait.
    """
    return [
        one
        if one.attempt > len(delays_ms) or (_is_ours(one) and (one.delay_ms or one.due_ms >= one.timestamp_ms))
        else msgspec.structs.replace(one, due_ms=one.timestamp_ms + delays_ms[one.attempt - 1])
        for one in deliveries
    ]


def _is_ours(delivery: Delivery) -> bool:
    """Whether its headers were written for the retry topic that it lies in."""
    return header(delivery.headers, ATTEMPT) == b"%d" % delivery.attempt


def _without_times(headers: Headers) -> tuple[Headers, int, int]:
    times = dict.fromkeys(_TIMES, 0)
    for name, value in headers:
        if name in _TIMES and value.isdigit() and len(value) < 16:  # noqa: PLR2004 - later than any time that counts
            times[name] = int(value)
    return tuple(pair for pair in headers if pair[0] not in _TIMES), times[DUE_MS], times[DELAY_MS]
