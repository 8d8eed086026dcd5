"""How far one assigned partition is finished, and the note about it in the commit's metadata. Pure.

A commit says "everything below this offset is done"; what is done beyond it is noted as runs of offsets, so
that whoever takes the partition over does not do it again. The note may be cut short (brokers take 4096
bytes): what is left out is merely done again.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Run = tuple[int, int]
"""First and last offset, inclusive."""

NOTE_LIMIT = 4096
_MARK = "hw1:"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def runs_of(offsets: Sequence[int], delivered: Sequence[int]) -> list[Run]:
    """`offsets` (ascending, all in `delivered`) as runs; offsets that exist for nobody do not end a run.

    Args:
        offsets: finished offsets beyond the watermark.
        delivered: every delivered offset from the watermark on, ascending.
    """
    runs: list[Run] = []
    finished = set(offsets)
    first: int | None = None
    last = 0
    for offset in delivered:
        if offset in finished:
            first = offset if first is None else first
            last = offset
        elif first is not None:
            runs.append((first, last))
            first = None
    if first is not None:
        runs.append((first, last))
    return runs


def write_note(position: int, runs: Iterable[Run], limit: int = NOTE_LIMIT) -> str:
    """The metadata for a commit of `position`: empty without runs, never longer than `limit`."""
    parts: list[str] = []
    size, before = len(_MARK), position
    for first, last in runs:
        part = f"{_base36(first - before)}.{_base36(last - first)}"
        size += len(part) + 1
        if size > limit:
            break
        parts.append(part)
        before = last
    return _MARK + ",".join(parts) if parts else ""


def read_note(position: int, note: str) -> list[Run]:
    """The runs in `note`; none in a note that is not ours or is damaged."""
    if not note.startswith(_MARK):
        return []
    runs: list[Run] = []
    before = position
    try:
        for part in note[len(_MARK) :].split(","):
            gap, _, length = part.partition(".")
            first = before + int(gap, 36)
            last = first + int(length, 36)
            if first < before or last < first:
                return []
            runs.append((first, last))
            before = last
    except ValueError:
        return []
    return runs


class Finished:
    """Runs that were finished by somebody before, to be asked in ascending order or any other."""

    __slots__ = ("_firsts", "_runs")

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)
        self._firsts = [first for first, _ in runs]

    @property
    def end(self) -> int:
        """Nothing at or above it is in here."""
        return self._runs[-1][1] + 1 if self._runs else 0

    @property
    def count(self) -> int:
        """How many offsets are in the runs."""
        return sum(last - first + 1 for first, last in self._runs)

    def above(self, offset: int) -> list[Run]:
        """The runs that begin above `offset`."""
        return self._runs[bisect_right(self._firsts, offset) :]

    def __contains__(self, offset: int) -> bool:
        place = bisect_right(self._firsts, offset) - 1
        return place >= 0 and offset <= self._runs[place][1]


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits
