"""What the holder of an ordered channel notes for the next one: settled messages, and only those."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.drivers.kit.offset_ranges import merged, read_runs, write_runs
from hexa_worker.drivers.nats.handover import NOTE_LIMIT, NOTHING, HandedOver, SettledAhead

SEQUENCES = st.integers(min_value=1, max_value=200)
SETTLED = st.sets(SEQUENCES, max_size=60)


def reply(sequence: int, born: int = 0) -> bytes:
    """A reply subject; later sequences were stored later."""
    return b"$JS.ACK.stream.consumer.1.%d.1.%d.0" % (sequence, born + 10 * sequence)


def noted(done: SettledAhead) -> set[int]:
    handed_over = HandedOver(done)
    return {sequence for sequence in range(1, 300) if sequence in handed_over}


def note(settled: set[int], floor: int, before: SettledAhead = NOTHING, limit: int = NOTE_LIMIT) -> SettledAhead:
    return HandedOver(before).with_settled({one: reply(one) for one in settled}, floor, limit)


@given(SETTLED, st.integers(min_value=0, max_value=200))
def test_a_note_holds_what_is_settled_beyond_the_floor(settled: set[int], floor: int) -> None:
    assert noted(note(settled, floor)) == {one for one in settled if one > floor}


@given(SETTLED, SETTLED, st.integers(min_value=0, max_value=200))
def test_what_was_handed_over_is_handed_on(first: set[int], second: set[int], floor: int) -> None:
    assert noted(note(second, floor, before=note(first, 0))) == {one for one in first | second if one > floor}


@given(SETTLED, st.integers(min_value=0, max_value=60))
def test_what_does_not_fit_is_left_out_and_nothing_else_comes_in(settled: set[int], limit: int) -> None:
    done = note(settled, 0, limit=limit)
    assert len(done.runs) <= limit
    assert noted(done) <= settled


@given(SETTLED.filter(bool))
def test_a_message_that_was_stored_after_all_that_were_settled_is_not_among_them(settled: set[int]) -> None:
    handed_over = HandedOver(note(settled, 0))
    assert all(handed_over.holds_for(reply(one)) for one in settled)
    assert not any(handed_over.holds_for(reply(one, born=10 * max(settled))) for one in settled)


def test_nothing_is_noted_where_all_is_settled_up_to_the_floor() -> None:
    assert note({1, 2, 3}, 3, before=note({2, 3}, 0)) == NOTHING
    assert not HandedOver(note({4}, 3)).beyond(4)
    assert HandedOver(note({4}, 3)).beyond(3)


@given(st.lists(st.tuples(SEQUENCES, st.integers(min_value=0, max_value=9)), max_size=20))
def test_runs_survive_being_written(pairs: list[tuple[int, int]]) -> None:
    runs = merged((first, first + more) for first, more in pairs)
    assert read_runs(0, write_runs(0, runs, NOTE_LIMIT)) == runs
    assert {n for a, b in runs for n in range(a, b + 1)} == {n for a, more in pairs for n in range(a, a + more + 1)}
    assert all(before[1] + 1 < after[0] for before, after in pairwise(runs))
