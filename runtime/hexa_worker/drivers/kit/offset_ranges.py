"""What is finished beyond the position that a broker keeps: runs of numbers, short enough to be noted there. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Run = tuple[int, int]
"""First and last number, inclusive."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def write_runs(position: int, runs: Iterable[Run], limit: int) -> str:
    """Ascending runs above `position` as text, cut short at `limit` characters."""
    parts: list[str] = []
    size, before = 0, position
    for first, last in runs:
        part = f"{base36(first - before)}.{base36(last - first)}"
        size += len(part) + 1
        if size > limit:
            break
        parts.append(part)
        before = last
    return ",".join(parts)


def read_runs(position: int, text: str) -> list[Run]:
    """The runs in what `write_runs` wrote; none in what is damaged."""
    runs: list[Run] = []
    before = position
    try:
        for part in text.split(",") if text else ():
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


def merged(runs: Iterable[Run]) -> list[Run]:
    """Runs in any order as few ascending ones."""
    whole: list[Run] = []
    for first, last in sorted(runs):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(last, whole[-1][1]))
        else:
            whole.append((first, last))
    return whole


class RangeSet:
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
        """How many numbers are in the runs."""
        return sum(last - first + 1 for first, last in self._runs)

    def above(self, offset: int) -> list[Run]:
        """The runs above `offset`, the first maybe as the rest of one that begins below."""
        place = bisect_right(self._firsts, offset)
        rest = [(offset + 1, self._runs[place - 1][1])] if place and self._runs[place - 1][1] > offset else []
        return rest + self._runs[place:]

    def __contains__(self, offset: int) -> bool:
        place = bisect_right(self._firsts, offset) - 1
        return place >= 0 and offset <= self._runs[place][1]


def base36(number: int) -> str:
    """A number ≥ 0 in few characters."""
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits
