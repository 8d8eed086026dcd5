"""How far one assigned partition is finished, and the note about it in the commit's metadata. Pure.

A commit says "everything below this offset is done"; what is done beyond it is noted as runs of offsets, so
that whoever takes the partition over does not do it again. Behind them stands what waits for a retry in its place:
offset, next attempt, due time. The note may be cut short (brokers take 4096 bytes): what is left out is merely done
again, or tried again from the first attempt.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

Run = tuple[int, int]
"""First and last offset, inclusive."""
Postponed = Mapping[int, tuple[int, int]]
"""Next attempt and due time by offset."""

NOTE_LIMIT = 4096
_MARK = "hw1:"
_LATER = ";"
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


def write_note(position: int, runs: Iterable[Run], limit: int = NOTE_LIMIT, postponed: Postponed | None = None) -> str:
    """The metadata for a commit of `position`: empty if there is nothing to say, never longer than `limit`.

    What is postponed gets half of it at most.
    """
    later = _written(position, postponed, limit // 2) if postponed else ""
    parts: list[str] = []
    size, before = len(_MARK) + len(later), position
    for first, last in runs:
        part = f"{_base36(first - before)}.{_base36(last - first)}"
        size += len(part) + 1
        if size > limit:
            break
        parts.append(part)
        before = last
    return _MARK + ",".join(parts) + later if parts or later else ""


def _written(position: int, postponed: Postponed, limit: int) -> str:
    parts: list[str] = []
    size, before = 0, position
    for offset, (attempt, due_ms) in sorted(postponed.items()):
        part = f"{_base36(offset - before)}.{_base36(attempt)}.{_base36(due_ms)}"
        size += len(part) + 1
        if size > limit:
            break
        parts.append(part)
        before = offset
    return _LATER + ",".join(parts) if parts else ""


def read_postponed(position: int, note: str) -> Postponed:
    """What `note` says is postponed; nothing in a note that is not ours or is damaged."""
    _, found, later = note.partition(_LATER)
    if not (note.startswith(_MARK) and found):
        return {}
    postponed: dict[int, tuple[int, int]] = {}
    offset = position
    try:
        for part in later.split(","):
            gap, attempt, due_ms = (int(number, 36) for number in part.split("."))
            offset += gap
            if min(gap, attempt, due_ms) < 0:
                return {}
            postponed[offset] = (attempt, due_ms)
    except ValueError:
        return {}
    return postponed


def read_note(position: int, note: str) -> list[Run]:
    """The runs in `note`; none in a note that is not ours or is damaged."""
    if not note.startswith(_MARK):
        return []
    runs: list[Run] = []
    before = position
    written = note[len(_MARK) :].partition(_LATER)[0]
    try:
        for part in written.split(",") if written else ():
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
