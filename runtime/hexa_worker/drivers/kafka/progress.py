"""How far one assigned partition is finished, and the note about it in the commit's metadata. Pure.

A commit says "everything below this offset is done"; what is done beyond it is noted as runs of offsets, so
that whoever takes the partition over does not do it again. Behind them stands what waits for a retry in its place:
offset, next attempt, due time. The note may be cut short (brokers take 4096 bytes): what is left out is merely done
again, or tried again from the first attempt.

A note is believed only of the commit that it was written for: it begins with its offset, its topic's id and its
cluster. Tools commit other offsets and keep the note, mirrors carry commits to other clusters, and a topic that is
deleted and made again has other records at the same offsets: then even the offset itself means nothing.
Notes of older versions (``hw1``) do not say any of this: they are not believed.
"""

from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

import msgspec

from hexa_worker.drivers.kit.offset_ranges import Run, base36, read_runs, write_runs

Postponed = Mapping[int, tuple[int, int]]
"""Next attempt and due time by offset."""
CommitPoint = tuple[int, str]
"""Offset and note."""

NOTE_LIMIT = 4096
_MARK = "hw2"
_OURS = "hw"
_LATER = ";"
_FIELDS = 5


class Book(msgspec.Struct, frozen=True):
    """What offsets count: one life of one topic. A topic that is deleted and made again begins another.

    Attributes:
        topic_id: as the brokers know it; empty: it cannot be known.
        cluster: a short name of the cluster; empty: as above.
    """

    topic_id: str = ""
    cluster: str = ""

    @classmethod
    def of(cls, topic_id: str, cluster_id: str | None) -> "Book":
        """The book of a topic, by what the brokers say of it."""
        return cls(topic_id, base36(crc32(cluster_id.encode())) if cluster_id else "")


class Progress(msgspec.Struct, frozen=True):
    """What a commit tells of a partition.

    Attributes:
        offset: everything below it is done; None: nothing is known.
        runs: what is done beyond it.
        postponed: what of the rest waits for a retry in its place.
        doubt: why the note, or all of the commit, is not believed; empty: it is, or there is none.
        topic_id: of the topic that `offset` is of, as far as is known. Where it is not the present one's, that topic
            was deleted and made again since, and nothing else is told.
    """

    offset: int | None = None
    runs: Sequence[Run] = ()
    postponed: Postponed = {}
    doubt: str = ""
    topic_id: str = ""


def write_note(
    position: int,
    runs: Iterable[Run],
    limit: int = NOTE_LIMIT,
    postponed: Postponed | None = None,
    book: Book | None = None,
) -> str:
    """The metadata for a commit of `position`: never longer than `limit`, empty where not even the book fits.

    What is postponed gets half of the room at most.
    """
    book = book or Book()
    head = f"{_MARK}:{base36(position)}:{book.topic_id}:{book.cluster}:"
    room = limit - len(head)
    if room < 0:
        return ""
    later = _written(position, postponed, room // 2) if postponed else ""
    return head + write_runs(position, runs, room - len(later)) + later


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


def read_progress(committed: CommitPoint | None, book: Book) -> Progress:
    """What a commit means for the partition of a topic that is `book` now."""
    if committed is None:
        return Progress(topic_id=book.topic_id)
    position, note = committed
    mark, *fields = note.split(":", _FIELDS - 1)
    if mark != _MARK or len(fields) != _FIELDS - 1:
        ours = mark.startswith(_OURS) and mark[len(_OURS) :].isdigit()
        doubt = f"it is damaged, or of another version of the worker ({mark})" if ours else ""
        return Progress(position, doubt=doubt, topic_id=book.topic_id)
    offset, topic_id, cluster, told = fields
    elsewhere = bool(cluster and book.cluster and cluster != book.cluster)
    if elsewhere or offset != base36(position):
        doubt = "it was written " + ("in another cluster" if elsewhere else "for another offset")
        return Progress(position, doubt=doubt, topic_id=book.topic_id)
    if topic_id and not book.topic_id:
        doubt = "nobody knows whether the topic is still the same"
        return Progress(position, doubt=doubt, topic_id=topic_id)
    if topic_id and topic_id != book.topic_id:
        return Progress(topic_id=topic_id)
    runs, _, later = told.partition(_LATER)
    postponed = _read_postponed(position, later)
    return Progress(position, read_runs(position, runs), postponed, topic_id=book.topic_id)


def _read_postponed(position: int, later: str) -> Postponed:
    """What a note says is postponed; nothing where it is damaged."""
    postponed: dict[int, tuple[int, int]] = {}
    offset = position
    try:
        for part in later.split(",") if later else ():
            gap, attempt, due_ms = (int(number, 36) for number in part.split("."))
            offset += gap
            if min(gap, attempt, due_ms) < 0:
                return {}
            postponed[offset] = (attempt, due_ms)
    except ValueError:
        return {}
    return postponed
