"""What is remembered of deliveries, and how a batch of it is packed. Pure.

Almost everything that happens is a first delivery that succeeded, so that case is packed to little more than the
event's id; everything else is an `Entry`. Ids stay readable inside a pack: a search looks for their bytes and
unpacks only what it hits.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, ROOT_ID, lineage_of
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked, DeadLettered, Failure, Released, RetryAt, Settlement

Happening = Literal["acked", "dropped", "retried", "dead-lettered", "released", "redriven", "purged"]


class Entry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One thing that happened to one event in one subscription.

    Attributes:
        attempt: of the delivery it is about.
        outcome: what happened.
        at_ms: when it had taken effect.
        channel: the channel the delivery was read from.
        message_id: the delivery's; None where it was not kept.
        error: class and message of a failure; the reason of a drop.
        delay_s: seconds until the retry that was asked for.
        next: the channel the event went to: a retry channel or the dead letter.
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


class Successes(msgspec.Struct, frozen=True, array_like=True):
    """First deliveries of one channel that were acknowledged by one action in one batch.

    Attributes:
        ids: a line each: ``event``, or ``event root parent`` for an event that has a parent.
    """

    action: str
    channel: str
    at_ms: int
    ids: bytes


class Pack(msgspec.Struct, frozen=True, array_like=True):
    """What one process remembers of a short time."""

    successes: list[Successes]
    entries: list[Entry]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Pack).decode


class Gathering:
    """Gathers settlements until they are packed. Not for two threads at once."""

    __slots__ = ("_entries", "_sources", "_successes", "count")

    def __init__(self) -> None:
        self._successes: list[tuple[str, str, int, list[bytes]]] = []
        self._entries: list[Entry] = []
        self._sources: dict[str, bytes | None] = {}
        self.count = 0

    def add(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        """Remember a batch that took effect at `now_ms`. Paid per message: about half a microsecond."""
        ids: list[bytes] = []
        channel: str | None = None
        for settlement in settlements:
            delivery = settlement.delivery
            if type(settlement) is Acked and settlement.dropped is None and not delivery.attempt:
                line = _line(delivery) or self._line_of_place(delivery)
                if line is not None:
                    if delivery.channel != channel:
                        channel, ids = delivery.channel, []
                        self._successes.append((action, channel, now_ms, ids))
                    ids.append(line)
                    continue
            self._entries.append(entry_of(action, settlement, now_ms))
        self.count += len(settlements)

    def _line_of_place(self, delivery: Delivery) -> bytes | None:
        """The line of an event that nobody gave an id: its place in the broker."""
        for name, _ in delivery.headers:
            if name in _ID_HEADERS:
                return None
        source = delivery.source
        prefix = self._sources.get(source)
        if prefix is None:
            if source in self._sources:
                return None
            fits = source.isascii() and source.isprintable() and " " not in source
            prefix = self._sources[source] = source.encode() + b"-" if fits else None
            if prefix is None:
                return None
        return prefix + b"%d" % delivery.offset

    def put(self, entry: Entry) -> None:
        """Remember one thing."""
        self._entries.append(entry)
        self.count += 1

    def pack(self) -> bytes:
        """Everything gathered, packed."""
        successes = [Successes(action, channel, at, b"\n".join(ids)) for action, channel, at, ids in self._successes]
        return _encode(Pack(successes, self._entries))


_ID_HEADERS = frozenset({EVENT_ID, ROOT_ID, PARENT_ID})


def _line(delivery: Delivery) -> bytes | None:
    """The packed ids of a delivery whose headers begin as the emitter writes them; None for any other."""
    headers = delivery.headers
    if not headers or headers[0][0] != EVENT_ID:
        return None
    event_id = headers[0][1]
    if len(headers) > 1 and headers[1][0] == ROOT_ID:
        if len(headers) > 2 and headers[2][0] == PARENT_ID:  # noqa: PLR2004 - event, root, parent
            line = b"%b %b %b" % (event_id, headers[1][1], headers[2][1])
            return line if line.count(b" ") == 2 and b"\n" not in line else None  # noqa: PLR2004 - as above
        return None
    return None if b" " in event_id or b"\n" in event_id else event_id


def entry_of(action: str, settlement: Settlement, now_ms: int) -> Entry:
    """The entry of any settlement."""
    delivery = settlement.delivery
    outcome: Happening
    error = delay_s = following = None
    match settlement:
        case Acked():
            outcome = "acked" if settlement.dropped is None else "dropped"
            error = settlement.dropped
        case RetryAt():
            outcome, error, delay_s = "retried", error_text(settlement.failure), settlement.delay_s
            following = settlement.record.channel
        case DeadLettered():
            outcome, error, following = "dead-lettered", error_text(settlement.failure), settlement.record.channel
        case Released():
            outcome = "released"
    ids = lineage_of(delivery)
    return Entry(
        event_id=ids.event_id,
        root_id=ids.root_id,
        parent_id=ids.parent_id,
        action=action,
        attempt=delivery.attempt,
        outcome=outcome,
        at_ms=now_ms,
        channel=delivery.channel,
        message_id=delivery.message_id,
        error=error,
        delay_s=delay_s,
        next=following,
    )


def error_text(failure: Failure) -> str:
    """Class and message on one line."""
    text = " ".join(failure.message.split())
    return f"{failure.error}: {text}" if text else failure.error


def unpack(blob: bytes) -> Iterator[Entry]:
    """Everything in a pack.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is no pack.
    """
    pack = _decode(blob)
    for group in pack.successes:
        for line in group.ids.decode("ascii").split("\n"):
            event_id, *others = line.split(" ")
            root_id, parent_id = others or (event_id, None)
            yield Entry(event_id, root_id, group.action, 0, "acked", group.at_ms, group.channel, parent_id)
    yield from pack.entries


def emitted_ms(event_id: str) -> int | None:
    """When an event was emitted, as far as its id tells: see `hexa_worker.core.ids`."""
    parts = event_id.split("-")
    if len(parts) != 3 or [len(parts[0]), len(parts[1])] != [12, 16]:  # noqa: PLR2004 - the form of our ids
        return None
    try:
        return int(parts[0], 16)
    except ValueError:
        return None
