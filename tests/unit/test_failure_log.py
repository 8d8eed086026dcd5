"""How often something failed and when, in one small header."""

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.failure_log import TIMES_LIMIT, read_history, with_failure


@given(st.lists(st.integers(0, 10**14), min_size=1, max_size=3 * TIMES_LIMIT))
def test_every_failure_is_counted_and_the_newest_times_are_kept(times: list[int]) -> None:
    value = None
    for time in times:
        value = with_failure(value, 0, time)
    assert read_history(value) == (len(times), tuple(times[-TIMES_LIMIT:]))


@given(st.binary(max_size=40))
def test_any_other_value_is_no_history_and_is_begun_anew(value: bytes) -> None:
    found = read_history(value)
    again = read_history(with_failure(value, 4, 7))
    assert again is not None
    assert again.times_ms[-1] == 7
    assert again.failures == (5 if found is None else found.failures + 1)


def test_a_header_from_outside_cannot_grow_a_record() -> None:
    assert read_history(b"9:" + b"1," * 10_000 + b"1") is None
