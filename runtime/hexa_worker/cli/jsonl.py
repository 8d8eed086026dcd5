"""Events as JSON lines: ``{"channel": …, "key": …, "headers": {…}, "payload": …}``, one event a line.

The payload is passed on as the bytes of its text, so numbers keep their digits. Memory stays flat whatever
the length of the input: a line longer than allowed is an error, not a buffer.
"""

import os
import re
import select
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from hexa_worker.core.lineage import PREFIX
from hexa_worker.subscriptions.api import Event

BATCH = 500
BATCH_BYTES = 4 * 1024 * 1024
CHUNK = 1024 * 1024
LINE_OVERHEAD = 1024 * 1024
"""A line may be this much longer than the largest payload: channel, key, headers, escapes."""
DEFAULT_MAX_PAYLOAD = 64 * 1024 * 1024
T = TypeVar("T")
_BOM = b"\xef\xbb\xbf"
_ID = re.compile(r"[!-~]{1,200}")


class EventLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line, as written."""

    payload: msgspec.Raw
    channel: str | None = None
    key: str | None = None
    headers: Mapping[str, str] | None = None
    id: str | None = None


_decode = msgspec.json.Decoder(EventLine).decode


class BadLine(Exception):
    """A line that is no event.

    Args:
        number: of the line, from 1.
        reason: what is wrong with it.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"line {number}: {reason}")
        self.number = number
        self.reason = reason


@dataclass(frozen=True, slots=True)
class EventBatch(Generic[T]):
    """What some lines spell, the numbers of those lines, and the bad line that ended them (None: none did)."""

    items: list[T]
    numbers: list[int]
    read_to: int
    bad: BadLine | None = None


def parse_line(line: bytes, number: int, channel: str | None, max_payload: int) -> Event:
    """The event that `line` spells.

    Args:
        line: one line of the input, without its newline.
        number: of the line, for errors.
        channel: for lines that name none.
        max_payload: bytes of the largest payload the broker takes.

    Raises:
        BadLine: it spells none.
    """
    try:
        line.decode()
        parsed = _decode(line)
    except UnicodeDecodeError as error:
        raise BadLine(number, f"not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}") from None
    except msgspec.ValidationError as error:
        raise BadLine(number, f"not an event: {error}") from None
    except msgspec.DecodeError as error:
        raise BadLine(number, f"not JSON: {error}") from None
    except RecursionError:
        raise BadLine(number, "not JSON: nested too deeply") from None
    return event_of(parsed, number, channel, max_payload)


def event_of(line: EventLine, number: int, channel: str | None, max_payload: int) -> Event:
    """As `parse_line`, for a line that is decoded."""
    name = line.channel if line.channel is not None else channel
    if not name:
        raise BadLine(number, "names no channel; write one in the line or on the command")
    if line.id is not None and _ID.fullmatch(line.id) is None:
        raise BadLine(number, f"id {line.id!r} is not 1 to 200 visible ASCII characters")
    for header in line.headers or ():
        if header.lower().startswith(PREFIX):
            raise BadLine(number, f"header {header!r} is reserved: names that start with {PREFIX} are the runtime's")
    payload = bytes(line.payload)
    if len(payload) > max_payload:
        raise BadLine(number, f"payload of {len(payload):,} bytes is over the broker's limit of {max_payload:,}")
    return Event(channel=name, payload=payload, key=line.key, headers=line.headers or {}, id=line.id)


def event_lines(descriptor: int, channel: str | None, max_payload: int | None, first: int = 1) -> "LineReader[Event]":
    """Reads an input of events.

    Args:
        descriptor: of the open file or pipe.
        channel: for lines that name none.
        max_payload: bytes of the largest payload the broker takes; None: no limit of its own.
        first: the number of the first line that is wanted.
    """
    limit = max_payload or DEFAULT_MAX_PAYLOAD
    return LineReader(
        descriptor, lambda line, number: parse_line(line, number, channel, limit), limit + LINE_OVERHEAD, first
    )


class LineReader(Generic[T]):
    """Reads an input in batches of lines.

    Args:
        descriptor: of the open file or pipe.
        parse: what a line with this number spells; raises `BadLine`.
        max_line: bytes of the longest line; a longer one is bad.
        first: the number of the first line that is wanted; lines before it are passed over unread.
    """

    def __init__(self, descriptor: int, parse: Callable[[bytes, int], T], max_line: int, first: int = 1) -> None:
        self._descriptor = descriptor
        self._parse = parse
        self._max_line = max_line
        self._first = first
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._buffer = bytearray()
        self._place = 0
        self._ended = False
        self.number = 0
        self._read = 0

    @property
    def place(self) -> int:
        """How many bytes of the input are behind us."""
        return self._read - len(self._buffer) + self._place

    @property
    def size(self) -> int | None:
        """Bytes of the whole input, where that is known."""
        return os.fstat(self._descriptor).st_size if self._regular else None

    def read_batch(self) -> EventBatch[T] | None:
        """The next lines; fewer than a full batch when a pipe has no more to offer just now. None is the end.

        Blocks while there is nothing at all.
        """
        items: list[T] = []
        numbers: list[int] = []
        size = 0
        try:
            while len(items) < BATCH and size < BATCH_BYTES:
                if items and not self._regular and not self._at_hand():
                    break
                line = self._next()
                if line is None:
                    break
                if self.number < self._first or not line.strip():
                    continue
                items.append(self._parse(line, self.number))
                numbers.append(self.number)
                size += len(line)
        except BadLine as bad:
            return EventBatch(items, numbers, bad.number - 1, bad)
        return EventBatch(items, numbers, self.number) if items else None

    def _at_hand(self) -> bool:
        """Whether something can be read without waiting."""
        if self._ended or self._buffer.find(b"\n", self._place) >= 0:
            return True
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def _next(self) -> bytes | None:
        """The next line, or None at the end."""
        searched = self._place
        while (end := self._buffer.find(b"\n", searched)) < 0:
            if len(self._buffer) - self._place > self._max_line:
                raise BadLine(self.number + 1, f"longer than {self._max_line:,} bytes")
            searched = len(self._buffer) - self._place
            if not self._fill():
                end = len(self._buffer)
                break
        if self._place >= len(self._buffer):
            return None
        line = bytes(self._buffer[self._place : end])
        self._place = end + 1
        self.number += 1
        return line.removeprefix(_BOM) if self.number == 1 else line

    def _fill(self) -> bool:
        """Read a chunk; False at the end of the input."""
        if self._ended:
            return False
        chunk = os.read(self._descriptor, CHUNK)
        self._ended = not chunk
        self._read += len(chunk)
        del self._buffer[: self._place]
        self._place = 0
        self._buffer += chunk
        return not self._ended
