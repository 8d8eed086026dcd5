"""Dead letters as values: read from records, turned back into retry records. Pure.

A dead-letter channel may hold anything (its broker is shared with others), so nothing here trusts a header.
"""

import re

import msgspec

from hexa_worker.core import lineage
from hexa_worker.core.channels import retry_channel
from hexa_worker.core.failure_log import FAILURES, read_history
from hexa_worker.core.message import Delivery, Headers, Message, header
from hexa_worker.core.settlement import (
    CUT_CHANNEL,
    CUT_ID,
    CUT_SIZE,
    DEAD_AT,
    ERROR,
    ERROR_MESSAGE,
    FAILURE_HEADERS,
    FINGERPRINT,
    REASON,
    REFUSED,
    TRACEBACK,
)

REDRIVEN_FROM = lineage.REDRIVEN_FROM
REDRIVEN_FOR = lineage.REDRIVEN_FOR
_REWRITTEN = FAILURE_HEADERS | {REDRIVEN_FROM, REDRIVEN_FOR, lineage.ACTION, lineage.ATTEMPT, lineage.SNOOZES}
_DECIMAL = re.compile(rb"[0-9]{1,18}")


class Cut(msgspec.Struct, frozen=True):
    """What a dead letter lacks that was too large for its broker.

    Attributes:
        size: bytes of the whole payload.
        channel: where the whole lies, as long as the broker keeps it.
        id: its message id there.
    """

    size: int
    channel: str
    id: str


class StoredDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a dead-letter channel, understood.

    Attributes:
        id: its message id in the dead-letter channel.
        source: the stretch of the broker's storage it is in.
        offset: its place in there.
        action: the subscription it belongs to.
        channel: where the event came from in the first place.
        origin_id: its message id there.
        attempt: of its last delivery, as retry channels count.
        attempts: how many deliveries failed, the first one and those before redrives included.
        attempts_since_redrive: how many of them since its last redrive; None: it never was.
        failed_at_ms: when they failed, oldest first; of very many only the newest, of foreign letters none.
        error_class: class of the last error.
        error_message: what that said.
        reason: see `hexa_worker.core.settlement.Failure`.
        redriven_from: the dead letter it was before its last redrive.
        redriven_for: the fingerprint of what that had died of.
        refused: why the broker did not take what was to be stored in the first place; empty: it did.
        cut: what is missing; None: it is whole.
        delivery: the record itself.
    """

    id: str
    source: str
    offset: int
    action: str
    event_id: str
    root_id: str
    parent_id: str | None
    channel: str
    origin_id: str | None
    attempt: int
    attempts: int
    attempts_since_redrive: int | None
    failed_at_ms: tuple[int, ...]
    error_class: str
    error_message: str
    reason: str
    fingerprint: str
    traceback: str
    first_failed_at_ms: int | None
    dead_at_ms: int
    redriven_from: str | None
    redriven_for: str | None
    refused: str
    cut: Cut | None
    delivery: Delivery

    @property
    def given_up_by(self) -> str:
        """The action that gave it up: of a channel with several types that of its type."""
        return _text(self.delivery.headers, lineage.ACTION) or self.action

    @property
    def still_fails(self) -> bool:
        """Whether it was redriven and then died of the same failure again."""
        return self.redriven_for is not None and self.redriven_for == self.fingerprint

    @property
    def error(self) -> str:
        text = " ".join(self.error_message.split())
        return f"{self.error_class}: {text}" if text else self.error_class

    @property
    def key(self) -> str | None:
        """The event's key; bytes that are not UTF-8 show as replacement characters."""
        key = self.delivery.key
        return None if key is None else key.decode(errors="replace")

    @property
    def user_headers(self) -> Headers:
        return tuple(pair for pair in self.delivery.headers if not pair[0].startswith(lineage.PREFIX))


def read_letter(delivery: Delivery, action: str) -> StoredDeadLetter:
    """The dead letter that `delivery` is.

    Args:
        delivery: a record of a dead-letter channel.
        action: the subscription whose dead-letter channel it is.
    """
    headers = delivery.headers
    ids = lineage.lineage_of(delivery)
    attempt = _number(headers, lineage.ATTEMPT) or 0
    redriven_from = _text(headers, REDRIVEN_FROM)
    since_redrive = None if redriven_from is None else max(attempt, 1)  # a redrive begins at attempt 1
    history = read_history(header(headers, FAILURES))
    return StoredDeadLetter(
        id=delivery.message_id,
        source=delivery.source,
        offset=delivery.offset,
        action=action,
        event_id=ids.event_id,
        root_id=ids.root_id,
        parent_id=ids.parent_id,
        channel=_text(headers, lineage.ORIGIN_CHANNEL) or delivery.channel,
        origin_id=_text(headers, lineage.ORIGIN_ID),
        attempt=attempt,
        attempts=history.failures if history else since_redrive or attempt + 1,
        attempts_since_redrive=since_redrive,
        failed_at_ms=history.times_ms if history else (),
        error_class=_text(headers, ERROR) or "unknown",
        error_message=_text(headers, ERROR_MESSAGE) or "",
        reason=_text(headers, REASON) or "unknown",
        fingerprint=_text(headers, FINGERPRINT) or "unknown",
        traceback=_text(headers, TRACEBACK) or "",
        first_failed_at_ms=_number(headers, lineage.FIRST_FAILED_AT),
        dead_at_ms=_number(headers, DEAD_AT) or delivery.timestamp_ms,
        redriven_from=redriven_from,
        redriven_for=_text(headers, REDRIVEN_FOR),
        refused=_text(headers, REFUSED) or "",
        cut=_cut(headers),
        delivery=delivery,
    )


def _cut(headers: Headers) -> Cut | None:
    size = _number(headers, CUT_SIZE)
    return None if size is None else Cut(size, _text(headers, CUT_CHANNEL) or "", _text(headers, CUT_ID) or "")


def _text(headers: Headers, name: str) -> str | None:
    value = header(headers, name)
    return None if value is None else value.decode(errors="replace")


def _number(headers: Headers, name: str) -> int | None:
    value = header(headers, name)
    return int(value) if value is not None and _DECIMAL.fullmatch(value) else None


def redriven(letter: StoredDeadLetter, retry_base: str, now_ms: int) -> Message:
    """The record that sends `letter` round again: due at once in the subscription's own retry channel 1.

    Its siblings (other subscriptions of the origin channel) never see it. Event id, root, parent, origin, time of
    the first failure, key, payload and the user's headers stay; what the failure said goes.
    """
    headers = lineage.without(letter.delivery.headers, frozenset(_REWRITTEN))
    if lineage.read_id(headers, lineage.EVENT_ID) is None:
        headers = (*headers, (lineage.EVENT_ID, _bytes(letter.event_id)))
    return Message(
        channel=retry_channel(retry_base, 1),
        payload=letter.delivery.payload,
        key=letter.delivery.key,
        headers=(
            *headers,
            (lineage.ACTION, _bytes(letter.action)),
            (lineage.ATTEMPT, b"1"),
            (REDRIVEN_FROM, _bytes(letter.id)),
            (REDRIVEN_FOR, _bytes(letter.fingerprint)),
        ),
        timestamp_ms=now_ms,
        due_ms=now_ms,
    )


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
