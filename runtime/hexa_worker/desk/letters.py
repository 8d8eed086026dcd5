"""Dead letters as values: read from records, chosen by filters, turned back into retry records. Pure.

A dead-letter channel may hold anything (its broker is shared with others), so nothing here trusts a header.
"""

import re

import msgspec

from hexa_worker.core import lineage
from hexa_worker.core.channels import retry_channel
from hexa_worker.core.message import Delivery, Headers, Message, header
from hexa_worker.core.settlement import (
    DEAD_AT,
    ERROR,
    ERROR_MESSAGE,
    FAILURE_HEADERS,
    FINGERPRINT,
    REASON,
    TRACEBACK,
)

REDRIVEN_FROM = lineage.REDRIVEN_FROM
_REWRITTEN = FAILURE_HEADERS | {REDRIVEN_FROM, lineage.ACTION, lineage.ATTEMPT}
_DECIMAL = re.compile(rb"[0-9]{1,18}")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a dead-letter channel, understood.

    Attributes:
        id: its message id in the dead-letter channel.
        source: the stretch of the broker's storage it is in.
        offset: its place in there.
        action: the subscription it belongs to.
        channel: where the event came from in the first place.
        origin_id: its message id there.
        attempts: how many deliveries were made, the first one included.
        error_class: class of the last error.
        error_message: what that said.
        reason: see `hexa_worker.core.settlement.Failure`.
        redriven_from: the dead letter it was before its last redrive.
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
    attempts: int
    error_class: str
    error_message: str
    reason: str
    fingerprint: str
    traceback: str
    first_failed_at_ms: int | None
    dead_at_ms: int
    redriven_from: str | None
    delivery: Delivery

    @property
    def error(self) -> str:
        """Class and message on one line."""
        text = " ".join(self.error_message.split())
        return f"{self.error_class}: {text}" if text else self.error_class

    @property
    def key(self) -> str | None:
        """The event's key; bytes that are not UTF-8 show as replacement characters."""
        key = self.delivery.key
        return None if key is None else key.decode(errors="replace")

    @property
    def user_headers(self) -> Headers:
        """The event's own headers."""
        return tuple(pair for pair in self.delivery.headers if not pair[0].startswith(lineage.PREFIX))


def read_letter(delivery: Delivery, action: str) -> DeadLetter:
    """The dead letter that `delivery` is.

    Args:
        delivery: a record of a dead-letter channel.
        action: the subscription whose dead-letter channel it is.
    """
    headers = delivery.headers
    ids = lineage.lineage_of(delivery)
    return DeadLetter(
        id=delivery.message_id,
        source=delivery.source,
        offset=delivery.offset,
        action=action,
        event_id=ids.event_id,
        root_id=ids.root_id,
        parent_id=ids.parent_id,
        channel=_text(headers, lineage.ORIGIN_CHANNEL) or delivery.channel,
        origin_id=_text(headers, lineage.ORIGIN_ID),
        attempts=(_number(headers, lineage.ATTEMPT) or 0) + 1,
        error_class=_text(headers, ERROR) or "unknown",
        error_message=_text(headers, ERROR_MESSAGE) or "",
        reason=_text(headers, REASON) or "unknown",
        fingerprint=_text(headers, FINGERPRINT) or "unknown",
        traceback=_text(headers, TRACEBACK) or "",
        first_failed_at_ms=_number(headers, lineage.FIRST_FAILED_AT),
        dead_at_ms=_number(headers, DEAD_AT) or delivery.timestamp_ms,
        redriven_from=_text(headers, REDRIVEN_FROM),
        delivery=delivery,
    )


def _text(headers: Headers, name: str) -> str | None:
    value = header(headers, name)
    return None if value is None else value.decode(errors="replace")


def _number(headers: Headers, name: str) -> int | None:
    value = header(headers, name)
    return int(value) if value is not None and _DECIMAL.fullmatch(value) else None


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that match everything that is set.

    Attributes:
        action: of this subscription.
        error: whose error has this class.
        reason: that died for this reason.
        fingerprint: whose failures look alike.
        root_id: of the tree of this event.
        older_than_ms: dead for longer than this.
        newer_than_ms: dead for less long than this.
        ids: exactly these; empty: any.
    """

    action: str | None = None
    error: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    root_id: str | None = None
    older_than_ms: int | None = None
    newer_than_ms: int | None = None
    ids: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether they let everything pass."""
        return self == Filters()

    def match(self, letter: DeadLetter, now_ms: int) -> bool:
        """Whether `letter` is meant."""
        age_ms = now_ms - letter.dead_at_ms
        return (
            (not self.ids or letter.id in self.ids)
            and self.action in {None, letter.action}
            and self.error in {None, letter.error_class, letter.error_class.rpartition(".")[2]}
            and self.reason in {None, letter.reason}
            and self.fingerprint in {None, letter.fingerprint}
            and self.root_id in {None, letter.root_id, letter.event_id}
            and (self.older_than_ms is None or age_ms > self.older_than_ms)
            and (self.newer_than_ms is None or age_ms < self.newer_than_ms)
        )


def redriven(letter: DeadLetter, retry_base: str, now_ms: int) -> Message:
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
        ),
        timestamp_ms=now_ms,
        due_ms=now_ms,
    )


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


class Group(msgspec.Struct, kw_only=True):
    """Dead letters that look alike, counted."""

    action: str
    fingerprint: str
    reason: str
    error: str
    count: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def add(self, letter: DeadLetter) -> None:
        """Count one more."""
        self.first_ms = min(self.first_ms, letter.dead_at_ms) if self.count else letter.dead_at_ms
        self.last_ms = max(self.last_ms, letter.dead_at_ms)
        self.count += 1


def count_into(groups: dict[tuple[str, str], Group], letter: DeadLetter) -> None:
    """Add `letter` to the group it belongs to."""
    group = groups.get((letter.action, letter.fingerprint))
    if group is None:
        group = groups[letter.action, letter.fingerprint] = Group(
            action=letter.action, fingerprint=letter.fingerprint, reason=letter.reason, error=letter.error
        )
    group.add(letter)
