"""Events for later that a worker moves: through as many levels as their wait is long, and due when they are due."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hexa_worker.core.channels import parse
from hexa_worker.core.message import Delivery, Message
from hexa_worker.drivers.kit.later import AT_ONCE_MS, LEVELS_MS, next_record, waiting_record

NOW_MS = 1_795_000_000_000
HOUR_MS = 3_600_000


def event(due_ms: int) -> Message:
    return Message(channel="in", payload=b"x", key=b"k", headers=(("a", b"1"),), timestamp_ms=NOW_MS - 5, due_ms=due_ms)


def read(record: Message) -> Delivery:
    rung = parse(record.channel)
    assert rung is not None
    return Delivery(
        channel=record.channel,
        payload=record.payload,
        key=record.key,
        headers=record.headers,
        timestamp_ms=record.timestamp_ms,
        due_ms=record.due_ms,
        source=record.channel,
        offset=0,
        attempt=rung.number,
    )


@given(st.integers(1, 365 * 24 * HOUR_MS), st.integers(0, 750))
def test_an_event_enters_its_channel_as_it_was_when_it_is_due(wait_ms: int, late_ms: int) -> None:
    due_ms, now_ms, hops = NOW_MS + wait_ms, NOW_MS, 0
    record = waiting_record(event(due_ms), now_ms, LEVELS_MS)
    while record.due_ms:
        assert now_ms < record.due_ms <= due_ms
        now_ms, hops = record.due_ms + late_ms, hops + 1
        record = next_record(read(record), "in", now_ms, LEVELS_MS)
    assert due_ms <= now_ms <= due_ms + late_ms
    assert record == Message(channel="in", payload=b"x", key=b"k", headers=(("a", b"1"),), timestamp_ms=NOW_MS - 5)
    assert hops <= 40 + wait_ms // LEVELS_MS[-1]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 30 * 24 * HOUR_MS)), min_size=2, max_size=50))
def test_the_records_of_an_upper_level_are_over_in_the_order_of_their_writing(events: list[tuple[int, int]]) -> None:
    ends: dict[str, list[int]] = {}
    now_ms = NOW_MS
    for passed_ms, wait_ms in events:
        now_ms += passed_ms
        record = waiting_record(event(now_ms + wait_ms), now_ms, LEVELS_MS)
        ends.setdefault(record.channel, []).append(record.due_ms)
    lowest = ends.pop("hexa-later.in.retry.1", [])
    assert all(a <= b for level in ends.values() for a, b in pairwise(level))
    assert all(abs(a - b) < LEVELS_MS[1] + sum(passed for passed, _ in events) for a, b in pairwise(lowest))


def test_where_the_broker_finds_what_is_due_an_event_waits_in_one_step() -> None:
    record = waiting_record(event(NOW_MS + HOUR_MS), NOW_MS, AT_ONCE_MS)
    assert (record.channel, record.due_ms) == ("hexa-later.in.retry.1", NOW_MS + HOUR_MS)
    assert next_record(read(record), "in", record.due_ms, AT_ONCE_MS).due_ms == 0


def test_a_wall_clock_that_was_put_back_lets_nothing_wait_for_longer_than_its_level_allows() -> None:
    record = waiting_record(event(NOW_MS + HOUR_MS), NOW_MS, LEVELS_MS)
    back_ms = NOW_MS - 1_000 * HOUR_MS
    again = next_record(read(record), "in", back_ms, LEVELS_MS)
    assert again.due_ms - back_ms <= LEVELS_MS[parse(record.channel).number]  # type: ignore[union-attr]  # it is one


def test_a_record_whose_times_nobody_can_read_enters_its_channel_at_once() -> None:
    record = waiting_record(event(NOW_MS + HOUR_MS), NOW_MS, LEVELS_MS)
    for value in (b"", b"soon", b"1 2 3", b"9" * 40 + b" 1"):
        broken = replace(read(record), headers=(("hexa-later", value),))
        found = next_record(broken, "in", NOW_MS, LEVELS_MS)
        assert (found.channel, found.due_ms, found.headers) == ("in", 0, ())
