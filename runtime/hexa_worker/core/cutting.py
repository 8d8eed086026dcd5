"""What is stored of an event whose retry or dead-letter record its broker refuses for its size. Pure.

A retry becomes a dead letter; a dead letter is cut, and says how large the whole was and where it lies; one that is
still refused keeps only what names the event and its failure. So every delivery can end.
"""

from msgspec.structs import replace

from hexa_worker.core import lineage
from hexa_worker.core.failure_log import FAILURES
from hexa_worker.core.message import Headers, Message, header
from hexa_worker.core.settlement import (
    CUT_CHANNEL,
    CUT_ID,
    CUT_SIZE,
    DEAD_AT,
    ERROR,
    ERROR_MESSAGE,
    FINGERPRINT,
    REASON,
    REFUSED,
    TRACEBACK,
    DeadLettered,
    RetryAt,
    Route,
    dead_letter_record,
)

KEPT_PAYLOAD = 16 * 1024
"""Bytes of the payload that a cut dead letter begins with, for whoever looks at it."""
KEPT_HEADERS = 16
KEPT_HEADER_BYTES = 4 * 1024
"""The event's own headers that it keeps, the first ones, if that is all they take."""
SHORTEST = 1024
"""No value is longer in a record that keeps only what it must."""
_STORY = frozenset({
    lineage.EVENT_ID, lineage.ROOT_ID, lineage.PARENT_ID, lineage.ACTION, lineage.ATTEMPT, lineage.ORIGIN_CHANNEL,
    lineage.ORIGIN_ID, lineage.ORIGIN_AT, lineage.SNOOZES,
    lineage.FIRST_FAILED_AT, FAILURES, ERROR, ERROR_MESSAGE, REASON, FINGERPRINT, DEAD_AT,
    CUT_SIZE, CUT_CHANNEL, CUT_ID, REFUSED,
})  # fmt: skip


def smaller(settlement: RetryAt | DeadLettered, route: Route, refusal: str, now_ms: int) -> DeadLettered | None:
    """What to store instead of a record that was refused as too large; None: it cannot become smaller.

    Args:
        settlement: the one that was refused.
        route: the subscription's channels.
        refusal: what the broker said.
        now_ms: wall clock, milliseconds since the epoch.
    """
    said = (REFUSED, refusal.encode(errors="backslashreplace")[:SHORTEST])
    if isinstance(settlement, RetryAt):
        record = dead_letter_record(settlement.delivery, route, settlement.failure, now_ms)
        return DeadLettered(settlement.delivery, replace(record, headers=(*record.headers, said)), settlement.failure)
    whole = settlement.record
    record = _cut(settlement, said) if header(whole.headers, CUT_SIZE) is None else _bare(whole)
    return None if record == whole else replace(settlement, record=record)


def _cut(settlement: DeadLettered, said: tuple[str, bytes]) -> Message:
    """The dead letter with the beginning of its payload and the first of its headers."""
    delivery, record = settlement.delivery, settlement.record
    room = KEPT_HEADER_BYTES
    own: list[tuple[str, bytes]] = []
    for name, value in record.headers:
        room -= len(name) + len(value)
        if name in _STORY or name == TRACEBACK:
            room += len(name) + len(value)
        elif len(own) < KEPT_HEADERS and room >= 0:
            own.append((name, value))
    story = tuple(pair for pair in record.headers if pair[0] in _STORY or pair[0] == TRACEBACK)
    cut: Headers = (
        (CUT_SIZE, b"%d" % len(record.payload)),
        (CUT_CHANNEL, delivery.channel.encode(errors="backslashreplace")),
        (CUT_ID, delivery.message_id.encode(errors="backslashreplace")),
    )
    told = () if header(story, REFUSED) is not None else (said,)
    return replace(
        record,
        payload=record.payload[:KEPT_PAYLOAD],
        key=_short(record.key),
        headers=(*own, *story, *cut, *told),
    )


def _bare(record: Message) -> Message:
    """The dead letter with what names the event and its failure, and nothing else; each header once."""
    headers = {name: value[:SHORTEST] for name, value in record.headers if name in _STORY}
    return replace(record, payload=b"", key=_short(record.key), headers=tuple(headers.items()))


def _short(key: bytes | None) -> bytes | None:
    return key if key is None or len(key) <= SHORTEST else None
