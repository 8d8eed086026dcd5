"""Lineage, restart intensity, lifecycle, ordering, window, ids: the small tables and rules of the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core import lineage
from hexa_worker.core.ids import IdSource
from hexa_worker.core.lifecycle import TRANSITIONS, StateChange, WorkerState, advance
from hexa_worker.core.lineage import Lineage, child_headers, lineage_of, origin_headers
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.ordering import stripe_of
from hexa_worker.core.restart import RestartIntensity, RestartPolicy
from hexa_worker.core.window import next_window


def delivery(headers: Headers = ()) -> Delivery:
    return Delivery(channel="c", payload=b"", headers=headers, source="c", offset=3)


# -- lineage


def test_an_original_event_is_its_own_root_and_has_no_parent() -> None:
    assert lineage_of(delivery(origin_headers("e1"))) == Lineage("e1", "e1", None)


def test_a_record_without_an_id_is_named_by_its_place_in_the_broker() -> None:
    assert lineage_of(delivery()) == Lineage("c-3", "c-3", None)


def test_a_chain_of_children_shares_the_root_and_each_names_its_parent() -> None:
    parent = lineage_of(delivery(origin_headers("e0")))
    for number in range(1, 6):
        child = lineage_of(delivery(child_headers(f"e{number}", parent)))
        assert child == Lineage(f"e{number}", "e0", f"e{number - 1}")
        parent = child


@given(st.binary(max_size=400))
def test_any_bytes_in_an_id_header_are_read_without_harm(value: bytes) -> None:
    found = lineage_of(delivery(((lineage.EVENT_ID, value), (lineage.ROOT_ID, value), (lineage.PARENT_ID, value))))
    assert found.event_id
    assert found.root_id
    assert len(found.event_id) <= 200
    assert found.event_id.isascii()


def test_of_a_repeated_header_the_last_one_wins() -> None:
    assert header((("a", b"1"), ("b", b"2"), ("a", b"3")), "a") == b"3"
    assert header((), "a") is None


# -- restart intensity


def test_the_delay_doubles_and_the_cap_holds() -> None:
    policy = RestartPolicy(max_restarts=10, window_s=60, initial_delay_s=1, maximum_delay_s=5)
    state = RestartIntensity(policy)
    delays = []
    for second in range(5):
        state, delay = state.record(float(second))
        delays.append(delay)
    assert delays == [1, 2, 4, 5, 5]


@given(st.lists(st.floats(0, 100), max_size=40), st.integers(0, 6))
def test_giving_up_means_more_failures_in_the_window_than_allowed(gaps: list[float], allowed: int) -> None:
    policy = RestartPolicy(max_restarts=allowed, window_s=30)
    state, now, times = RestartIntensity(policy), 0.0, list[float]()
    for gap in gaps:
        now += gap
        times.append(now)
        state, delay = state.record(now)
        recent = [at for at in times if now - at < 30]
        assert (delay is None) == (len(recent) > allowed)


# -- lifecycle


def test_every_state_has_a_row_and_every_row_leads_somewhere() -> None:
    assert set(TRANSITIONS) == set(WorkerState)
    reached = {state for row in TRANSITIONS.values() for state in row.values()}
    assert reached | {WorkerState.STARTING} == set(WorkerState)


def test_a_stop_is_understood_in_every_living_state() -> None:
    for state, row in TRANSITIONS.items():
        if state is not WorkerState.STOPPED:
            assert StateChange.STOP_ASKED in row


@given(st.lists(st.sampled_from(list(StateChange)), max_size=30))
def test_nothing_leaves_stopped_or_failed(changes: list[StateChange]) -> None:
    state, ended = WorkerState.STARTING, None
    for change in changes:
        try:
            state = advance(state, change)
        except ValueError:
            continue
        if ended is not None:
            assert state is ended
        if state in (WorkerState.STOPPED, WorkerState.FAILED):
            ended = state


def test_a_change_the_table_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="DRAINED cannot happen in STOPPED"):
        advance(WorkerState.STOPPED, StateChange.DRAINED)


# -- ordering, window, ids


@given(st.binary(), st.integers(0, 2**60), st.integers(0, 2**60), st.integers(1, 500))
def test_one_key_has_one_stripe_wherever_it_stands(key: bytes, first: int, second: int, stripes: int) -> None:
    assert stripe_of(key, first, stripes) == stripe_of(key, second, stripes) < stripes


@given(st.integers(0, 10_000), st.integers(0, 10**7), st.floats(0, 100), st.integers(1, 100), st.integers(1, 5000))
def test_the_window_stays_between_floor_and_ceiling(
    window: int, handled: int, elapsed: float, floor: int, ceiling: int
) -> None:
    following = next_window(window, handled, elapsed, floor=floor, ceiling=ceiling)
    assert following == window or min(floor, ceiling) <= following <= ceiling


def test_a_slow_subscription_soon_holds_only_what_keeps_its_lanes_busy() -> None:
    window = 2000
    for _ in range(12):
        window = next_window(window, handled=4, elapsed_s=1.0, floor=32, ceiling=2000)
    assert window == 32


def test_a_fast_subscription_soon_fills_its_mailbox() -> None:
    window = 64
    for _ in range(6):
        window = next_window(window, handled=50_000, elapsed_s=1.0, floor=32, ceiling=2000)
    assert window == 2000


@given(st.integers(0, 2**64), st.lists(st.integers(0, 2**43), min_size=2, max_size=50))
def test_ids_are_unique_and_sort_by_time(entropy: int, times: list[int]) -> None:
    source = IdSource(entropy)
    ids = [source.new(now) for now in times]
    assert len(set(ids)) == len(ids)
    assert [one[:12] for one in ids] == [f"{now:012x}" for now in times]
