"""Notes on finished work in commit metadata, and keys to partitions as other clients place them."""

from dataclasses import dataclass

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.watermark import Watermark
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.partitioner import fnv1a_partition, murmur2_partition
from hexa_worker.drivers.kafka.progress import (
    NOTE_LIMIT,
    Book,
    CommitPoint,
    Postponed,
    Progress,
    read_progress,
    write_note,
)
from hexa_worker.drivers.kafka.topic_ids import TopicIds
from hexa_worker.drivers.kit.offset_ranges import RangeSet, Run

HERE = Book("0a1b2c3d4e5f6g7h8i9j0k", "1x2y3z")


@dataclass
class Record:
    """A record as the client library gives it."""

    offset: int
    key: bytes | None = b"k"
    value: bytes = b"{}"
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = 1


def read_note(position: int, note: str) -> list[Run]:
    """The runs of a note that was committed with `position`."""
    return list(read_progress((position, note), Book()).runs)


def read_postponed(position: int, note: str) -> Postponed:
    """What waits according to a note that was committed with `position`."""
    return read_progress((position, note), Book()).postponed


def partition(committed: CommitPoint) -> Partition:
    """A partition that goes on from a commit."""
    return Partition("events", 0, 0, read_progress(committed, Book()), committed)


delivered = st.lists(st.integers(0, 50_000), unique=True, min_size=1, max_size=200).map(sorted)


@given(delivered, st.data())
def test_a_note_brings_back_exactly_what_was_finished(offsets: list[int], data: st.DataObject) -> None:
    finished = data.draw(st.sets(st.sampled_from(offsets)))
    watermark = Watermark(offsets[0])
    watermark.deliver(offsets, offsets[-1] + 1)
    watermark.finish(finished)
    position = watermark.position
    again = RangeSet(read_note(position, write_note(position, watermark.beyond)))
    assert {offset for offset in offsets if offset < position or offset in again} == finished


@given(delivered, st.data())
def test_who_takes_over_twice_does_nothing_again_however_little_was_read_between(
    offsets: list[int], data: st.DataObject
) -> None:
    finished = data.draw(st.sets(st.sampled_from(offsets), max_size=len(offsets) - 1))
    first = partition((0, ""))
    first.accept([Record(offset) for offset in offsets])
    first.finish(sorted(finished))
    point = first.commit_point() or (0, "")
    second = partition(point)
    left = [Record(offset) for offset in offsets if offset >= point[0]]
    second.accept(left[: data.draw(st.integers(1, len(left)))])
    point = second.commit_point() or point
    third = partition(point)
    again = third.accept([Record(offset) for offset in offsets if offset >= point[0]])
    assert {one.offset for one in again} == set(offsets) - finished


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)), max_size=3_000), st.integers(0, 2**62))
def test_a_note_that_is_cut_short_claims_nothing_that_is_not_finished(
    steps: list[tuple[int, int]], position: int
) -> None:
    runs: list[tuple[int, int]] = []
    at = position
    for gap, length in steps:
        runs.append((at + gap, at + gap + length))
        at += gap + length
    note = write_note(position, runs)
    assert len(note) <= NOTE_LIMIT
    assert read_note(position, note) == runs[: len(read_note(position, note))]


postponed = st.dictionaries(st.integers(0, 10**9), st.tuples(st.integers(0, 1000), st.integers(0, 2**45)), max_size=400)


@given(postponed, st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99)), max_size=900), st.integers(0, 2**40))
def test_a_note_brings_back_what_waits_beside_what_is_finished(
    waiting: dict[int, tuple[int, int]], steps: list[tuple[int, int]], position: int
) -> None:
    later = {position + offset: known for offset, known in waiting.items()}
    runs: list[tuple[int, int]] = []
    at = position
    for gap, length in steps:
        runs.append((at + gap, at + gap + length))
        at += gap + length
    note = write_note(position, runs, postponed=later)
    assert len(note) <= NOTE_LIMIT
    found = read_postponed(position, note)
    assert found == dict(sorted(later.items())[: len(found)])
    assert len(found) == len(later) or len(found) >= 75
    read = read_note(position, note)
    assert read == runs[: len(read)]
    assert len(read) == len(runs) or len(read) >= 150


@pytest.mark.parametrize(
    "note",
    ["hw2:a:::1.0", "hw2:a:::1.0;", "hw2:a:::;1.2", "hw2:a:::;1.-2.3", "hw2:a:::;x.y.z,", "hw1:;1.2.3", ";1.2.3"],
)
def test_notes_of_others_and_damaged_ones_count_as_nothing_postponed(note: str) -> None:
    assert read_postponed(10, note) == {}


def test_a_partition_hands_on_what_waits_until_it_is_finished() -> None:
    first = partition((0, ""))
    one, two = first.accept([Record(0), Record(1)])
    first.postpone(one.offset, 2, 9_000)
    first.finish([two.offset])
    point = first.commit_point()
    assert point is not None
    second = partition(point)
    (again,) = second.accept([Record(0), Record(1)])
    assert (again.offset, again.attempt, again.due_ms) == (0, 2, 9_000)
    second.finish([0])
    assert second.commit_point() == (2, write_note(2, []))


def test_what_waits_and_is_gone_from_the_broker_is_noted_no_longer() -> None:
    first = partition((0, ""))
    (one,) = first.accept([Record(0)])
    first.postpone(one.offset, 1, 9_000)
    point = first.commit_point()
    assert point is not None
    second = partition(point)
    second.skip_to(5)
    assert second.commit_point() == (5, write_note(5, []))


def test_a_note_holds_hundreds_of_runs() -> None:
    runs = [(offset, offset) for offset in range(1, 2_000, 2)]
    assert len(read_note(0, write_note(0, runs))) > 900


def test_a_note_names_its_offset_topic_and_cluster_also_when_nothing_is_done_beyond() -> None:
    assert write_note(37, [], book=HERE) == "hw2:11:0a1b2c3d4e5f6g7h8i9j0k:1x2y3z:"


@given(st.integers(0, 2**62), st.integers(0, 300), st.sets(st.integers(1, 500)))
def test_a_note_is_never_longer_than_brokers_take_it(position: int, limit: int, beyond: set[int]) -> None:
    runs = [(position + offset, position + offset) for offset in sorted(beyond)]
    note = write_note(position, runs, limit, {position: (1, 2)}, HERE)
    assert len(note) <= limit
    told = read_progress((position, note), HERE)
    assert told.doubt == ""
    assert list(told.runs) == runs[: len(told.runs)]


def test_brokers_that_take_no_notes_get_none_in_the_end() -> None:
    books = TopicIds()
    limits = [books.note_limit]
    while books.shorten_notes():
        limits.append(books.note_limit)
    assert limits == [4096, 2048, 1024, 512, 256, 128, 64, 0]
    assert write_note(2**40, [], 0, book=HERE) == ""


def test_brokers_that_tell_no_topic_ids_are_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(_: object) -> object:
        raise NotImplementedError("Support for the request v9 has not yet been added")

    async def look_twice() -> None:
        for _ in range(2):
            assert await books.look(ask, ["events"]) == {"events": Book()}

    books = TopicIds()
    anyio.run(look_twice)
    assert caplog.text.count("these brokers tell no topic ids") == 1


BELIEVED = write_note(20, [(22, 25)], postponed={20: (1, 2)}, book=HERE)


def test_a_note_is_believed_of_the_commit_that_it_was_written_for() -> None:
    found = read_progress((20, BELIEVED), HERE)
    assert found == Progress(20, [(22, 25)], {20: (1, 2)}, topic_id=HERE.topic_id)


@pytest.mark.parametrize(
    ("offset", "book", "doubt"),
    [
        (21, HERE, "another offset"),
        (20, Book(HERE.topic_id, "other"), "another cluster"),
        (20, Book("other", "other"), "another cluster"),
        (21, Book("other", HERE.cluster), "another offset"),
    ],
)
def test_of_another_commit_a_note_is_ignored_and_the_offset_counts(offset: int, book: Book, doubt: str) -> None:
    found = read_progress((offset, BELIEVED), book)
    assert (found.offset, list(found.runs), found.postponed) == (offset, [], {})
    assert doubt in found.doubt
    assert found.topic_id == book.topic_id


def test_of_a_topic_that_was_made_again_not_even_the_offset_counts() -> None:
    assert read_progress((20, BELIEVED), Book("other", HERE.cluster)) == Progress(topic_id=HERE.topic_id)


def test_while_the_topic_cannot_be_looked_at_the_offset_counts_as_that_of_the_noted_topic() -> None:
    found = read_progress((20, BELIEVED), Book())
    assert (found.offset, list(found.runs), found.topic_id) == (20, [], HERE.topic_id)


def test_a_note_of_the_first_version_is_ignored_with_a_word() -> None:
    found = read_progress((5, "hw1:1.n,2.i"), HERE)
    assert (found.offset, list(found.runs)) == (5, [])
    assert "hw1" in found.doubt


@pytest.mark.parametrize(
    "note",
    [
        *("", "hello", "hw1:1.0", "hw2:", "hw2:a:::", "hw2:a::1.0", "hw2:b:::1.0", "hw3:a:::1.0"),
        *("hw2:a:::x", "hw2:a:::1", "hw2:a:::-5.0", "hw2:a:::1.-3", "hw2:a:::1.0,,", "hw2:a:::é.1"),
    ],
)
def test_notes_of_others_and_damaged_ones_count_as_nothing_finished(note: str) -> None:
    assert read_note(10, note) == []


def test_offsets_that_do_not_exist_do_not_end_a_run() -> None:
    watermark = Watermark(3)
    watermark.deliver([3, 5, 9, 12], 13)
    watermark.finish([5, 9])
    assert watermark.beyond == [(4, 11)]


@pytest.mark.parametrize(("note_limit", "ahead"), [(NOTE_LIMIT, False), (60, False), (0, True)])
def test_one_unfinished_record_holds_its_partition_up_only_where_no_note_can_tell_the_rest(
    note_limit: int, ahead: bool
) -> None:
    one = partition((0, ""))
    for first in range(0, 1_000, 50):
        offsets = range(first, first + 50)
        one.accept([Record(offset) for offset in offsets])
        one.finish([offset for offset in offsets if offset])
        point = one.commit_point(note_limit)
        if point is not None:
            one.committed(point)
    assert one.is_ahead(500) is ahead
    assert partition(one.commit_point(note_limit) or (0, "")).is_ahead(500) is False


def test_more_unfinished_records_than_a_note_can_tell_hold_their_partition_up_until_they_end() -> None:
    one = partition((0, ""))
    one.accept([Record(offset) for offset in range(10_000)])
    one.finish(range(1, 10_000, 2))
    point = one.commit_point()
    assert point is not None
    one.committed(point)
    assert one.is_ahead(5_000)
    one.finish(range(0, 10_000, 2))
    assert not one.is_ahead(5_000)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(key: bytes, hashed: int) -> None:
    assert murmur2_partition(key, 1_000_003) == (hashed & 0x7FFFFFFF) % 1_000_003


@pytest.mark.parametrize(("key", "hashed"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)])
def test_fnv1a_is_that_of_sarama(key: bytes, hashed: int) -> None:
    signed = hashed - 2**32
    assert fnv1a_partition(key, 12) == abs(signed) % 12
