"""What a NATS consumer has asked for: counted down by what comes, forgotten when the server says no more of it."""

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.drivers.nats.pull_window import ACTIVE_S, EXPIRES_S, IDLE_PULL, SILENCE_S, PullWindow

steps = st.lists(
    st.one_of(
        st.tuples(st.just("pull"), st.integers(1, 50)),
        st.tuples(st.just("came"), st.integers(0, 60)),
        st.tuples(st.just("ended"), st.integers(1, 10)),
        st.tuples(st.just("forget"), st.just(0)),
    )
)


@given(steps)
def test_what_is_outstanding_is_what_was_asked_for_and_did_not_come(done: list[tuple[str, int]]) -> None:
    window, model = PullWindow(0.0), dict[int, int]()
    for what, count in done:
        if what == "pull":
            number, _ = window.pull(count, 0.0)
            model[number] = count
        elif what == "came":
            window.came(count)
            left = count
            for number in sorted(model):
                taken = min(left, model[number])
                model[number] -= taken
                left -= taken
        elif what == "ended":
            window.ended(count)
            model.pop(count, None)
        else:
            window.forget()
            model.clear()
        assert window.outstanding == sum(model.values())


def test_who_waits_for_nothing_misses_no_heartbeat() -> None:
    window = PullWindow(0.0)
    assert not window.fell_silent(1000.0)
    window.pull(1, 1000.0)
    assert not window.fell_silent(1000.0 + SILENCE_S)


def test_a_server_that_is_silent_about_a_pull_has_forgotten_it() -> None:
    window = PullWindow(0.0)
    window.pull(5, 0.0)
    window.heard(3.0)
    assert not window.fell_silent(3.0 + SILENCE_S)
    assert window.fell_silent(3.1 + SILENCE_S)
    assert window.outstanding == 0
    assert not window.fell_silent(100.0)


def test_a_pull_that_is_older_than_it_asked_to_be_is_over_though_the_server_talks() -> None:
    window = PullWindow(0.0)
    window.pull(5, 0.0)
    late = EXPIRES_S + SILENCE_S + 0.1
    window.heard(late)
    assert window.fell_silent(late)


def test_one_that_gets_nothing_leaves_the_room_to_those_that_do() -> None:
    idle, busy, now = PullWindow(0.0), PullWindow(0.0), 10.0
    busy.measured(10, 1000, now)
    assert busy.share(1000, 10**9, 4, 1, now) == 1000
    assert idle.share(1000, 10**9, 4, 1, now) == IDLE_PULL
    assert busy.share(1000, 10**9, 4, 0, now + 2 * ACTIVE_S) == 250


def test_large_messages_are_asked_for_in_small_numbers_and_always_one() -> None:
    window = PullWindow(0.0)
    for _ in range(50):
        window.measured(1, 1_000_000, 0.0)
    assert window.share(1000, 8_100_000, 1, 1, 0.0) == 8
    assert window.share(1000, 1, 1, 1, 0.0) == 1
