"""Events for later on brokers that cannot keep them: they wait in channels beside their own, and a worker moves them.

A channel has a ladder of such channels, made with its first event for later. They are read as retry channels are, so
an event waits in the broker, survives whoever reads it, and comes to another process when its reader dies. What is
due is published to its channel first and acknowledged after that: a crash in between moves it twice, with one id.

A broker that hands out the records of a channel in the order of writing needs *levels*: each holds what is due after
at least so long, for just that long, and hands on what is left of the wait to a lower level. Then the records of a
level are over in the order in which they were written, and none stands behind one that is due later.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from hexa_worker.core.channels import LATER, parse, retry_channel
from hexa_worker.core.message import Delivery, Message
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.errors import DriverError

_TIMES = "hexa-later"
"""Last header of a record that waits: when its event is due, and when it was emitted."""
LEVELS_MS = (0, 2_000, 16_000, 128_000, 1_024_000, 8_192_000)
"""What waits longer than the last one passes through it several times: no record gets old."""
AT_ONCE_MS = (0,)
"""For brokers that find what is due first by themselves."""
_DIGITS = 15


def ladder_of(channel: str, levels_ms: Sequence[int]) -> SubscriptionSpec:
    """Where the events for later of a channel wait, and who reads them."""
    base = LATER + channel
    return SubscriptionSpec(
        action=base, group=base, channels=(), retry_base=base, retry_count=len(levels_ms), ladder=True
    )


def waits(message: Message) -> bool:
    """Whether a record that is published has a due time, and is none of a retry channel."""
    return bool(message.due_ms) and parse(message.channel) is None


def waiting_record(event: Message, now_ms: int, levels_ms: Sequence[int]) -> Message:
    """What an event that is not due leaves in its ladder."""
    left_ms = event.due_ms - now_ms
    level = max(place for place, least_ms in enumerate(levels_ms) if least_ms <= left_ms)
    written_ms = event.timestamp_ms or now_ms
    return replace(
        event,
        channel=retry_channel(LATER + event.channel, level + 1),
        headers=(*event.headers, (_TIMES, b"%d %d" % (event.due_ms, written_ms))),
        timestamp_ms=now_ms,
        due_ms=now_ms + levels_ms[level] if level else event.due_ms,
    )


def next_record(record: Delivery, channel: str, now_ms: int, levels_ms: Sequence[int]) -> Message:
    """What becomes of a record whose wait is over: its event in its channel, or the rest of the wait."""
    due_ms, written_ms, headers = 0, record.timestamp_ms, record.headers
    if headers and headers[-1][0] == _TIMES:
        due_ms, written_ms = _times(headers[-1][1], written_ms)
        headers = headers[:-1]
    event = Message(channel=channel, payload=record.payload, key=record.key, headers=headers, timestamp_ms=written_ms)
    if record.attempt <= 1 or due_ms <= now_ms:
        return event  # at the lowest level it was measured by a clock that does not jump
    if record.attempt < len(levels_ms):  # or it would be a level higher; if it seems so, the wall clock was put back
        due_ms = min(due_ms, now_ms + levels_ms[record.attempt])
    return waiting_record(replace(event, due_ms=due_ms), now_ms, levels_ms)


def _times(value: bytes, written_ms: int) -> tuple[int, int]:
    due, _, written = value.partition(b" ")
    if all(part.isdigit() and len(part) <= _DIGITS for part in (due, written)):
        return int(due), int(written)
    return 0, written_ms


def answers_in_place(
    count: int, refused: dict[int, DriverError], answers: Sequence[str | DriverError]
) -> list[str | DriverError]:
    """`answers`, with the refusals where they belong among `count` messages."""
    rest = iter(answers)
    return [refused[place] if place in refused else next(rest) for place in range(count)]
