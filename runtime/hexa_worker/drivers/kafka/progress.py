"""How far one assigned partition is finished, and the note about it in the commit's metadata. Pure.

A commit says "everything below this offset is done"; what is done beyond it is noted as runs of offsets, so
that whoever takes the partition over does not do it again. Behind them stands what waits for a retry in its place:
offset, next attempt, due time. The note may be cut short (brokers take 4096 bytes): what is left out is merely done
again, or tried again from the first attempt.
"""

from collections.abc import Iterable, Mapping, Sequence

from hexa_worker.drivers.runs import Run, base36, read_runs, write_runs

Postponed = Mapping[int, tuple[int, int]]
"""Next attempt and due time by offset."""

NOTE_LIMIT = 4096
_MARK = "hw1:"
_LATER = ";"


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
    written = write_runs(position, runs, limit - len(_MARK) - len(later))
    return _MARK + written + later if written or later else ""


def _written(position: int, postponed: Postponed, limit: int) -> str:
    parts: list[str] = []
    size, before = 0, position
    for offset, (attempt, due_ms) in sorted(postponed.items()):
        part = f"{base36(offset - before)}.{base36(attempt)}.{base36(due_ms)}"
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
    return read_runs(position, note[len(_MARK) :].partition(_LATER)[0])
