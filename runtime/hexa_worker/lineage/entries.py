"""What is remembered of deliveries, and how a batch of it is packed. Pure.

Almost everything that happens is a first delivery that succeeded, so that case is packed to little more than the
event's id; everything else is an `Entry`. Ids stay readable inside a pack: a search looks for their bytes and
unpacks only what it hits.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, REDRIVEN_FROM, ROOT_ID, lineage_of
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.settlement import Acked, DeadLettered, Failure, Postponed, Released, RetryAt, Settlement

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


class Successes(msgspec.Struct, frozen=True, array_like=True, gc=False):
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

    __slots__ = ("_entries", "_prefixes", "_successes", "count")

    def __init__(self) -> None:
        self._successes: list[Successes] = []
        self._entries: list[Entry] = []
        self._prefixes: dict[str, bytes] = {}
        self.count = 0

    def add(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        """Remember a batch that took effect at `now_ms`. Paid per message: less than a microsecond."""
        groups: dict[tuple[str, bool], list[bytes]] = {}
        others: list[Settlement] = []
        channel, group = None, [b""]  # of the event id alone, which is the usual case
        for settlement in settlements:
            delivery = settlement.delivery
            if type(settlement) is not Acked or settlement.dropped is not None or delivery.attempt:
                others.append(settlement)
                continue
            headers = delivery.headers
            if len(headers) == 1 and headers[0][0] == EVENT_ID and 0 < len(headers[0][1]) <= ID_LIMIT:
                if delivery.channel is not channel:
                    channel = delivery.channel
                    group = groups.setdefault((channel, False), [])
                group.append(headers[0][1])
                continue
            line = self._line(delivery)
            if line is None:
                others.append(settlement)
            else:
                groups.setdefault((delivery.channel, b" " in line), []).append(line)
        packed = [_join(action, channel, now_ms, lines, kin=kin) for (channel, kin), lines in groups.items()]
        whole = [one for one in packed if one is not None]
        if len(whole) != len(packed):  # somebody else's ids, with bytes that ours never have
            whole, others = [], list(settlements)
        self._successes += whole
        self._entries += [entry_of(action, one, now_ms) for one in others]
        self.count += len(settlements)

    def put(self, entry: Entry) -> None:
        """Remember one thing."""
        self._entries.append(entry)
        self.count += 1

    def pack(self) -> bytes:
        """Everything gathered, packed."""
        return _encode(Pack(self._successes, self._entries))

    def _line(self, delivery: Delivery) -> bytes | None:
        """The ids of a delivery whose control headers are as the emitter writes them, or that has none."""
        headers = delivery.headers
        if not headers or headers[0][0] not in _ID_HEADERS:
            if _any_ids(headers, 0):
                return None
            prefix = self._prefixes.get(delivery.source)
            if prefix is None:
                prefix = self._prefixes[delivery.source] = delivery.source.encode() + b"-"
            return prefix + b"%d" % delivery.offset
        event_id = headers[0][1]
        if headers[0][0] != EVENT_ID or not 0 < len(event_id) <= ID_LIMIT:
            return None
        if len(headers) == 1 or headers[1][0] not in _ID_HEADERS:
            return None if _any_ids(headers, 1) else event_id
        if len(headers) < KIN or headers[1][0] != ROOT_ID or headers[2][0] != PARENT_ID or _any_ids(headers, KIN):
            return None
        root_id, parent_id = headers[1][1], headers[2][1]
        fits = 0 < len(root_id) <= ID_LIMIT and 0 < len(parent_id) <= ID_LIMIT
        return b"%b %b %b" % (event_id, root_id, parent_id) if fits else None


KIN = 3
"""Event, root and parent: the ids of an event that was emitted by a handler."""
ID_LIMIT = 200
_ID_HEADERS = frozenset({EVENT_ID, ROOT_ID, PARENT_ID})
_VISIBLE = bytes(range(0x21, 0x7F))


def _any_ids(headers: Headers, start: int) -> bool:
    return len(headers) > start and any(name in _ID_HEADERS for name, _ in headers[start:])


def _join(action: str, channel: str, at_ms: int, lines: Sequence[bytes], *, kin: bool) -> Successes | None:
    """Lines as one text; None when some id holds more than visible ASCII, for then it could not be read back."""
    text = b"\n".join(lines)
    rest = text.translate(None, _VISIBLE)
    spaces = (KIN - 1) * len(lines) if kin else 0
    if len(rest) != len(lines) - 1 + spaces or rest.count(b" ") != spaces or rest.count(b"\n") != len(lines) - 1:
        return None
    return Successes(action, channel, at_ms, text)


def entry_of(action: str, settlement: Settlement, now_ms: int) -> Entry:
    """The entry of any settlement."""
    delivery = settlement.delivery
    outcome: Happening
    error = delay_s = following = before = None
    match settlement:
        case Acked():
            outcome = "acked" if settlement.dropped is None else "dropped"
            error = settlement.dropped
            before = header(delivery.headers, REDRIVEN_FROM) if delivery.attempt else None
        case RetryAt():
            outcome, error, delay_s = "retried", error_text(settlement.failure), settlement.delay_s
            following = settlement.record.channel
        case Postponed():
            outcome, error, delay_s = "retried", error_text(settlement.failure), settlement.delay_s
            following = delivery.channel
        case DeadLettered():
            outcome, error, following = "dead-lettered", error_text(settlement.failure), settlement.record.channel
        case Released():
            outcome = "released"
    event_id, root_id, parent_id = lineage_of(delivery)
    place, message_id = delivery.channel, delivery.message_id
    return Entry(  # in the order of its fields: a failing subscription pays for it twice per event
        event_id, root_id, action, delivery.attempt, outcome, now_ms, place, parent_id, message_id, error, delay_s,
        following, None if before is None else before.decode(errors="replace"),
    )  # fmt: skip


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
