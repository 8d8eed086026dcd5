"""How what is remembered of deliveries is gathered and packed. Pure.

Almost everything that happens is a first delivery that succeeded, so that case is packed to little more than the
event's id. The same happening to many deliveries, a failing subscription's retries, is told once with their ids;
everything else is a `LineageEntry`. Ids stay readable inside a pack: a search looks for their bytes and unpacks
only what it hits.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, REDRIVEN_FROM, ROOT_ID
from hexa_worker.core.message import Delivery, Headers
from hexa_worker.core.settlement import Acked, DeadLettered, Postponed, RetryAt, Settlement
from hexa_worker.lineage.entries import LineageEntry, entry_of


class Successes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """First deliveries of one channel that were acknowledged by one action in one batch.

    Attributes:
        ids: a line each: ``event``, or ``event root parent`` for an event that has a parent.
    """

    action: str
    channel: str
    at_ms: int
    ids: bytes


class Alike(msgspec.Struct, frozen=True, array_like=True):
    """Deliveries of one source to which the same happened in one batch.

    Attributes:
        example: the entry of one of them; the others differ in their ids.
        ids: a line each: ``event offset``, or ``event root parent offset`` for an event that has a parent.
    """

    example: LineageEntry
    source: str
    ids: bytes


class Pack(msgspec.Struct, frozen=True, array_like=True):
    """What one process remembers of a short time."""

    successes: list[Successes]
    entries: list[LineageEntry]
    alike: list[Alike] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Pack).decode


class Gathering:
    """Gathers settlements until they are packed. Not for two threads at once."""

    __slots__ = ("_alike", "_entries", "_prefixes", "_successes", "count")

    def __init__(self) -> None:
        self._successes: list[Successes] = []
        self._entries: list[LineageEntry] = []
        self._alike: list[Alike] = []
        self._prefixes: dict[str, bytes] = {}
        self.count = 0

    def add(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        """Remember a batch that took effect at `now_ms`. Paid per message: less than a microsecond."""
        groups: dict[tuple[str, bool], list[bytes]] = {}
        others: list[Settlement] = []
        channel, group = None, [b""]  # of the event id alone, which is the usual case
        for settlement in settlements:
            delivery = settlement.delivery
            if type(settlement) is not Acked or settlement.dropped is not None or delivery.attempt or delivery.snoozes:
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
        packed = [_successes(action, channel, now_ms, lines, kin=kin) for (channel, kin), lines in groups.items()]
        whole = [one for one in packed if one is not None]
        if len(whole) != len(packed):  # somebody else's ids, with bytes that ours never have
            whole, others = [], list(settlements)
        self._successes += whole
        if others:
            self._add_others(action, others, now_ms)
        self.count += len(settlements)

    def _add_others(self, action: str, settlements: Sequence[Settlement], now_ms: int) -> None:
        """Remember what is no successful first delivery: a failing subscription pays for it twice per event."""
        groups: dict[tuple[Any, ...], tuple[list[Settlement], list[bytes]]] = {}
        alone: list[Settlement] = []
        for settlement in settlements:
            delivery = settlement.delivery
            ids = _ids(delivery.headers)
            if ids is None:
                alone.append(settlement)
                continue
            kin = b" " in ids
            key = (*_what(settlement), delivery.attempt, delivery.channel, delivery.source, kin)
            group = groups.get(key)
            if group is None:
                group = groups[key] = [], []
            group[0].append(settlement)
            group[1].append(b"%b %d" % (ids, delivery.offset))
        for key, (members, lines) in groups.items():
            text = _text(lines, KIN if key[-1] else 1)
            if text is None:
                alone += members
            else:
                self._alike.append(Alike(entry_of(action, members[0], now_ms), members[0].delivery.source, text))
        self._entries += [entry_of(action, one, now_ms) for one in alone]

    def put(self, entry: LineageEntry) -> None:
        self._entries.append(entry)
        self.count += 1

    def pack(self) -> bytes:
        return _encode(Pack(self._successes, self._entries, self._alike))

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


def _ids(headers: Headers) -> bytes | None:
    """Event, or event, root and parent, as headers tell them; None when they are not as an emitter writes them."""
    found = dict(headers)
    event_id = found.get(EVENT_ID)
    if not event_id or len(event_id) > ID_LIMIT or REDRIVEN_FROM in found:
        return None
    root_id, parent_id = found.get(ROOT_ID), found.get(PARENT_ID)
    if root_id is None and parent_id is None:
        return event_id
    if not root_id or not parent_id or max(len(root_id), len(parent_id)) > ID_LIMIT:
        return None
    return b"%b %b %b" % (event_id, root_id, parent_id)


def _what(settlement: Settlement) -> tuple[Any, ...]:
    """The same for settlements that say the same, as far as that is seen at once: they outlive the comparison."""
    if isinstance(settlement, RetryAt):
        return RetryAt, id(settlement.failure), settlement.delay_s, settlement.record.channel
    if isinstance(settlement, Postponed):
        return Postponed, id(settlement.failure), settlement.delay_s, None
    if isinstance(settlement, DeadLettered):
        return DeadLettered, id(settlement.failure), None, settlement.record.channel
    return type(settlement), settlement.dropped if isinstance(settlement, Acked) else None, None, None


def _successes(action: str, channel: str, at_ms: int, lines: Sequence[bytes], *, kin: bool) -> Successes | None:
    text = _text(lines, KIN - 1 if kin else 0)
    return None if text is None else Successes(action, channel, at_ms, text)


def _text(lines: Sequence[bytes], spaces: int) -> bytes | None:
    """Lines of words with so many spaces between them as one text.

    None when some word holds more than visible ASCII, for then it could not be read back.
    """
    text = b"\n".join(lines)
    rest = text.translate(None, _VISIBLE)
    breaks, spaces = len(lines) - 1, spaces * len(lines)
    if len(rest) != breaks + spaces or rest.count(b" ") != spaces or rest.count(b"\n") != breaks:
        return None
    return text


def unpack(blob: bytes) -> Iterator[LineageEntry]:
    """Everything in a pack.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is no pack.
    """
    pack = _decode(blob)
    for group in pack.successes:
        for line in group.ids.decode("ascii").split("\n"):
            event_id, *others = line.split(" ")
            root_id, parent_id = others or (event_id, None)
            yield LineageEntry(event_id, root_id, group.action, 0, "acked", group.at_ms, group.channel, parent_id)
    yield from pack.entries
    for one in pack.alike:
        for line in one.ids.decode("ascii").split("\n"):
            event_id, *others, offset = line.split(" ")
            root_id, parent_id = others or (event_id, None)
            yield replace(
                one.example,
                event_id=event_id,
                root_id=root_id,
                parent_id=parent_id,
                message_id=f"{one.source}-{offset}",
            )
