"""The retry policy: exact delays, caps, and nothing stranded."""

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.retry import MAX_DELAY_S, RetryPolicy, clamp_delay_s, due_after

policies = st.builds(
    RetryPolicy,
    initial_interval_s=st.floats(0, 1e9),
    backoff_coefficient=st.floats(1, 1e6),
    maximum_interval_s=st.none() | st.floats(0, 1e12),
    maximum_retries=st.integers(0, 1000),
    retry_channels_count=st.none() | st.integers(0, 1000),
)


def test_delays_double_from_the_initial_interval_by_default() -> None:
    policy = RetryPolicy()
    assert [policy.delay_s(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 64, 100]


def test_fractions_are_kept() -> None:
    policy = RetryPolicy(initial_interval_s=0.25, backoff_coefficient=1.5)
    assert [policy.delay_s(n) for n in (1, 2, 3)] == [0.25, 0.375, 0.5625]


def test_the_cap_applies_to_the_whole_delay() -> None:
    assert RetryPolicy(initial_interval_s=10, maximum_interval_s=15).delay_s(2) == 15


@given(policies, st.integers(1, 1000))
def test_a_delay_is_finite_and_never_over_its_cap(policy: RetryPolicy, retry: int) -> None:
    delay = policy.delay_s(retry)
    cap = policy.maximum_interval_s if policy.maximum_interval_s is not None else 100 * policy.initial_interval_s
    assert 0 <= delay <= min(cap, MAX_DELAY_S)


@given(policies, st.integers(1, 999))
def test_delays_never_shrink_from_one_retry_to_the_next(policy: RetryPolicy, retry: int) -> None:
    assert policy.delay_s(retry) <= policy.delay_s(retry + 1)


@given(policies)
def test_a_handler_runs_once_and_then_maximum_retries_times(policy: RetryPolicy) -> None:
    runs, attempt = 1, 0
    while (following := policy.next_retry(attempt)) is not None:
        assert following == attempt + 1
        attempt, runs = following, runs + 1
    assert runs == 1 + policy.maximum_retries


@given(policies, st.integers(0, 2000))
def test_lowering_maximum_retries_strands_nothing(policy: RetryPolicy, attempt: int) -> None:
    following = policy.next_retry(attempt)
    if attempt >= policy.maximum_retries:
        assert following is None
    else:
        assert following is not None
        assert following <= policy.channels_count


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_delay_asked_for_by_a_handler_becomes_usable(after: float) -> None:
    assert 0 <= clamp_delay_s(after) <= MAX_DELAY_S


@given(st.floats(0.0, 1e6), st.floats(1e9, 2e9))
def test_a_delay_is_over_at_its_due_time_also_for_a_clock_of_whole_milliseconds(delay_s: float, at_s: float) -> None:
    now_ms = at_s * 1000
    assert due_after(int(now_ms), delay_s) - now_ms >= (delay_s * 1000 if delay_s else -1) - 1e-3
    assert due_after(int(now_ms), delay_s) - now_ms <= delay_s * 1000 + 2
