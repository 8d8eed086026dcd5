"""The crash journal: what one process has in hand, in a mapped file that outlives the process.

Written on the hot path, read by the parent after the process is gone. Nothing is flushed: the file has to
survive the process, not the machine. A journal belongs to one process; the next one starts a new file.

The file is a row of segments, each ``kind, length`` and a body. A *names* segment interns the texts of actions
and sources: ``length, bytes`` each, number 1 is the first; a length of 0 ends it. A *cells* segment holds cells:

====== ====== ==================================================================================
bytes  field  meaning
====== ====== ==================================================================================
0-3    action number of a name; 0 ends the segment
4-11   offset of the delivery, signed
12-15  source number of a name
16     state  `FREE`, `IN_HAND` or `ACCUSED`; written last, so that a cell is never half-filled
====== ====== ==================================================================================
"""

import os
import struct
import sys
from mmap import ALLOCATIONGRANULARITY, mmap
from pathlib import Path
from typing import Final, NamedTuple

from hexa_worker.core.crash_attribution import InFlightId

MAGIC: Final = b"hexaJ1\0\0"
FREE: Final = 0
IN_HAND: Final = 1
ACCUSED: Final = 2
CELL_SIZE: Final = 24
SEGMENT_SIZE: Final = 64 * 1024

_KIND_CELLS: Final = 1
_KIND_NAMES: Final = 2
_HEAD = struct.Struct("<8sBB")
"""Magic, whether the process ended in an orderly way, and with which exit code."""
_HEAD_SIZE: Final = 16
_SEGMENT = struct.Struct("<II")
_U32 = struct.Struct("<I")
_CELL = struct.Struct("<IqIB")
_BEGIN = struct.Struct("<qIB").pack_into


class JournalCell:
    """The place of one delivery in hand. Made by `MappedJournal.cells`."""

    __slots__ = ("_journal", "_map", "_numbers", "_offset_at", "_state_at")

    def __init__(self, journal: "MappedJournal", segment: mmap, at: int, action: int) -> None:
        self._journal = journal
        self._numbers = journal.numbers
        self._map = segment
        self._offset_at = at + 4
        self._state_at = at + 16
        _U32.pack_into(segment, at, action)

    def begin(self, source: str, offset: int) -> None:
        """A handler is about to run with this delivery. The offset must fit in 64 bits, signed."""
        try:
            number = self._numbers.get(source) or self._journal.number_of(source)
            _BEGIN(self._map, self._offset_at, offset, number, IN_HAND)
        except ValueError:
            self._journal.require()
            raise

    def end(self) -> None:
        """The handler has ended, in whatever way."""
        try:
            self._map[self._state_at] = FREE
        except ValueError:
            self._journal.require()
            raise


class MappedJournal:
    """The journal of this process.

    Args:
        path: a file that does not exist yet, or whose content nobody needs any more.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.numbers: dict[str, int] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._given: dict[tuple[str, int], tuple[JournalCell, ...]] = {}
        self._segments: list[mmap] = []
        self._cells_at = self._cells_end = 0
        self._names, self._names_at = self._grow(_KIND_NAMES, 0)
        _HEAD.pack_into(self._segments[0], 0, MAGIC, 0, 0)
        self._disowned = False

    def cells(self, action: str, lane: int, count: int) -> tuple[JournalCell, ...]:
        """The cells of one lane of one subscription; the same ones when asked again."""
        given = self._given.get((action, lane), ())
        if len(given) < count:
            number = self.number_of(action)
            given += tuple(self._cell(number) for _ in range(count - len(given)))
            self._given[action, lane] = given
        return given

    def accuse(self, source: str, offset: int) -> None:
        """The process is about to end because of this delivery, whoever else is in hand."""
        wanted = (offset, self.numbers.get(source))
        for cells in self._given.values():
            for cell in cells:
                segment, at = cell._map, cell._state_at  # noqa: SLF001 - one concept
                _, in_cell, number, state = _CELL.unpack_from(segment, at - 16)
                if state == IN_HAND and (in_cell, number) == wanted:
                    segment[at] = ACCUSED

    def close_cleanly(self, code: int) -> None:
        """The process ends in an orderly way with exit code `code`: nothing that is in hand is to blame."""
        _HEAD.pack_into(self._segments[0], 0, MAGIC, 1, code)

    def disown(self) -> None:
        """This process is a fork of the journal's: it ends as soon as it would write to it.

        For then it has come back from the handler that forked it, and everything it did would be done twice.
        """
        self._disowned = True
        for segment in self._segments:
            segment.close()
        os.close(self._file)

    def require(self) -> None:
        """Something could not be written: end a fork, see `disown`."""
        if self._disowned:
            sys.stderr.write(f"process {os.getpid()} ends: a fork must not return from the handler that made it\n")
            sys.stderr.flush()
            os._exit(1)

    def number_of(self, name: str) -> int:
        """The number of a name, interned now if it is new."""
        number = self.numbers.get(name)
        if number is None:
            text = name.encode("utf-8", errors="surrogatepass")[: SEGMENT_SIZE // 2]
            if self._names_at + 8 + len(text) > len(self._names):
                self._names, self._names_at = self._grow(_KIND_NAMES, 0)
            at = self._names_at
            self._names[at + 4 : at + 4 + len(text)] = text
            _U32.pack_into(self._names, at, len(text))
            self._names_at = at + 4 + len(text)
            number = self.numbers[name] = len(self.numbers) + 1
        return number

    def _cell(self, action: int) -> JournalCell:
        if self._cells_at + CELL_SIZE > self._cells_end:
            segment, self._cells_at = self._grow(_KIND_CELLS, 0)
            self._cells_end = len(segment)
            self._cells = segment
        at = self._cells_at
        self._cells_at += CELL_SIZE
        return JournalCell(self, self._cells, at, action)

    def _grow(self, kind: int, size: int) -> tuple[mmap, int]:
        """A new segment at the end of the file, and where its body starts."""
        step = ALLOCATIONGRANULARITY
        size = -(-max(size, SEGMENT_SIZE) // step) * step
        start = self._size
        os.ftruncate(self._file, start + size)
        segment = mmap(self._file, size, offset=start)
        self._size += size
        self._segments.append(segment)
        at = 0 if start else _HEAD_SIZE
        _SEGMENT.pack_into(segment, at, kind, size)
        return segment, at + _SEGMENT.size


class Remains(NamedTuple):
    """What a journal says after its process is gone.

    Attributes:
        code: with which exit code the process ended in an orderly way; None: it did not.
        in_flight: what its handlers were running.
        accused: those of them that the process named as the reason of its end.
    """

    code: int | None
    in_flight: tuple[InFlightId, ...]
    accused: tuple[InFlightId, ...]

    @property
    def clean(self) -> bool:
        """Nothing that is in hand is to blame."""
        return self.code is not None


NOTHING: Final = Remains(code=None, in_flight=(), accused=())


def read_journal(path: Path) -> Remains:
    """Read the journal of a dead process. A missing or damaged file says as much as can be read of it."""
    try:
        data = path.read_bytes()
    except OSError:
        return NOTHING
    if len(data) < _HEAD_SIZE or not data.startswith(MAGIC):
        return NOTHING
    cells: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    start, at = 0, _HEAD_SIZE
    while at + _SEGMENT.size <= len(data):
        kind, size = _SEGMENT.unpack_from(data, at)
        end = start + size
        if not size or end > len(data):
            break
        at += _SEGMENT.size
        if kind == _KIND_NAMES:
            names += _read_names(data, at, end)
        elif kind == _KIND_CELLS:
            cells += _read_cells(data, at, end)
        start = at = end
    hands = [
        (InFlightId(names[action - 1], names[source - 1], offset), state)
        for action, offset, source, state in cells
        if 0 < action <= len(names) and 0 < source <= len(names)
    ]
    accused = tuple(hand for hand, state in hands if state == ACCUSED)
    return Remains(code=data[9] if data[8] else None, in_flight=tuple(hand for hand, _ in hands), accused=accused)


def _read_names(data: bytes, at: int, end: int) -> list[str]:
    names: list[str] = []
    while at + 4 <= end:
        (length,) = _U32.unpack_from(data, at)
        if not length or at + 4 + length > end:
            break
        names.append(data[at + 4 : at + 4 + length].decode("utf-8", errors="replace"))
        at += 4 + length
    return names


def _read_cells(data: bytes, at: int, end: int) -> list[tuple[int, int, int, int]]:
    """The cells in use: action, offset, source, state."""
    cells: list[tuple[int, int, int, int]] = []
    while at + CELL_SIZE <= end:
        cell = _CELL.unpack_from(data, at)
        if not cell[0]:
            break
        if cell[3] in (IN_HAND, ACCUSED):
            cells.append(cell)
        at += CELL_SIZE
    return cells
