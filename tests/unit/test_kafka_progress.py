"""Notes on finished work in commit metadata, and keys to partitions as other clients place them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.drivers.kafka.partitioner import fnv1a_partition, murmur2_partition
from hexa_worker.drivers.kafka.progress import NOTE_LIMIT, Finished, read_note, runs_of, write_note

delivered = st.lists(st.integers(0, 50_000), unique=True, min_size=1, max_size=200).map(sorted)


@given(delivered, st.data())
def test_a_note_brings_back_exactly_what_was_finished(offsets: list[int], data: st.DataObject) -> None:
    finished = data.draw(st.sets(st.sampled_from(offsets)))
    runs = runs_of(sorted(finished), offsets)
    again = Finished(read_note(offsets[0], write_note(offsets[0], runs)))
    assert {offset for offset in offsets if offset in again} == finished


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


def test_a_note_holds_hundreds_of_runs() -> None:
    runs = [(offset, offset) for offset in range(1, 2_000, 2)]
    assert len(read_note(0, write_note(0, runs))) > 900


def test_nothing_beyond_makes_an_empty_note() -> None:
    assert write_note(7, []) == ""


@pytest.mark.parametrize(
    "note", ["", "hello", "hw1:", "hw1:x", "hw1:1", "hw1:-5.0", "hw1:1.-3", "hw2:1.0", "hw1:1.0,,", "hw1:é.1"]
)
def test_notes_of_others_and_damaged_ones_count_as_nothing_finished(note: str) -> None:
    assert read_note(10, note) == []


def test_offsets_that_do_not_exist_do_not_end_a_run() -> None:
    assert runs_of([5, 9], [3, 5, 9, 12]) == [(5, 9)]


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
