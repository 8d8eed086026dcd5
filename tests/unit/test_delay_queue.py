"""Retries that came too early: none is run early or waits for longer than its delay, whatever the wall clock does."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hexa_worker.actors.lane_queues import KeyedLaneQueues
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.kit.delay_queue import DelayQueue, left_ms, written_ms
from hexa_worker.drivers.nats.ack_subjects import parts_of
from hexa_worker.drivers.nats.decoding import FrameDecoder
from hexa_worker.drivers.nats.early_retries import KEPT, EarlyRetries
from hexa_worker.drivers.nats.headers import encode
from hexa_worker.telemetry.stats import Counters

WRITTEN_MS = 1_795_000_000_000


class Clocks:
    """Time goes on for both; the wall clock can be put elsewhere."""

    def __init__(self) -> None:
        self.wall_ms = WRITTEN_MS
        self.at = 1_000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.at

    def wait(self, ms: int) -> None:
        self.wall_ms += ms
        self.at += ms / 1000


def retry(due_ms: int, *, written_ms: int = WRITTEN_MS, number: int = 0) -> Delivery:
    return Delivery(channel="r.1", payload=b"", timestamp_ms=written_ms, due_ms=due_ms, source="r.1", offset=number)


@given(st.integers(0, 10**9), st.integers(-(10**12), 10**12))
def test_nothing_waits_for_longer_than_its_delay_and_what_is_due_not_at_all(delay_ms: int, jump_ms: int) -> None:
    left = left_ms(WRITTEN_MS + delay_ms, WRITTEN_MS, WRITTEN_MS + jump_ms)
    assert left <= delay_ms
    assert (left > 0) == (delay_ms > max(jump_ms, 0))
    assert jump_ms < 0 or left == delay_ms - jump_ms


def test_a_record_that_does_not_say_when_it_was_written_is_due_by_the_wall_clock() -> None:
    assert left_ms(WRITTEN_MS, 0, WRITTEN_MS - 5_000) == 5_000


@pytest.mark.parametrize("jump_ms", [-20_000, -2_000, 2_000, 20_000])
def test_a_retry_that_tells_its_delay_waits_for_it_whatever_the_brokers_clock_says(jump_ms: int) -> None:
    clocks = Clocks()
    holding = DelayQueue(clocks)
    stamped = structs.replace(retry(WRITTEN_MS + 5_000, written_ms=WRITTEN_MS + jump_ms), delay_ms=5_000)
    assert holding.hold(stamped)
    clocks.wait(4_999)
    assert holding.take_due() == []
    clocks.wait(1)
    assert holding.take_due() == [stamped]


def test_nats_is_told_how_long_a_retry_waits_because_its_server_stamps_by_its_own_clock() -> None:
    def delivered(message: Message, stored_ms: int) -> Delivery:
        parts = parts_of(b"$JS.ACK.r.retry.1.1.1.%d.0" % (stored_ms * 1_000_000))
        return FrameDecoder(0, "r", None, 0).decode(1, parts, (b"r.1", b"", encode(message, None, WRITTEN_MS), b""))

    message = Message(channel="r.1", payload=b"", timestamp_ms=WRITTEN_MS, due_ms=WRITTEN_MS + 5_000)
    assert written_ms(delivered(message, WRITTEN_MS + 20_000)) == WRITTEN_MS
    unsaid = Message(channel="r.1", payload=b"", due_ms=WRITTEN_MS + 5_000)
    assert written_ms(delivered(unsaid, WRITTEN_MS + 1)) == WRITTEN_MS + 1


def test_what_is_read_after_the_wall_clock_was_put_forward_is_not_due_early() -> None:
    clocks = Clocks()
    holding = DelayQueue(clocks)
    clocks.wait(1_000)
    clocks.wall_ms += 3_600_000
    assert holding.hold(retry(WRITTEN_MS + 5_000))
    clocks.wait(3_999)
    assert holding.take_due() == []
    clocks.wait(1)
    assert len(holding.take_due()) == 1


def test_what_is_due_comes_in_the_order_of_due_times() -> None:
    clocks = Clocks()
    holding = DelayQueue(clocks)
    late, soon = retry(WRITTEN_MS + 200, number=1), retry(WRITTEN_MS + 100, number=2)
    assert holding.hold(late)
    assert holding.hold(soon)
    assert not holding.hold(retry(WRITTEN_MS))
    assert not holding.hold(retry(0))
    assert holding.take_due() == []
    assert holding.patience_s(60.0) == pytest.approx(0.1)
    assert holding.dues_ms() == [WRITTEN_MS + 100, WRITTEN_MS + 200]
    clocks.wait(200)
    assert holding.take_due() == [soon, late]
    assert (len(holding), holding.patience_s(60.0)) == (0, 60.0)


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000, -315_360_000_000])
def test_what_is_held_when_the_clock_is_put_elsewhere_keeps_its_delay(jump_ms: int) -> None:
    clocks = Clocks()
    holding = DelayQueue(clocks)
    assert holding.hold(retry(WRITTEN_MS + 500))
    clocks.wall_ms += jump_ms
    clocks.wait(499)
    assert holding.take_due() == []
    clocks.wait(2)
    assert len(holding.take_due()) == 1


def test_what_comes_after_the_clock_went_back_waits_no_longer_than_its_delay() -> None:
    clocks = Clocks()
    clocks.wall_ms -= 3_600_000
    holding = DelayQueue(clocks)
    assert holding.hold(retry(WRITTEN_MS + 500))
    assert holding.patience_s(60.0) == pytest.approx(0.5)


def copies(clocks: Clocks) -> Callable[[], int]:
    """A message that comes back from the server; how long it still waits."""
    sent_back = EarlyRetries(clocks)
    return lambda: sent_back.left_ms(7, WRITTEN_MS + 500, WRITTEN_MS)


def test_what_is_sent_back_waits_once_though_the_clock_went_back() -> None:
    clocks = Clocks()
    clocks.wall_ms -= 3_600_000
    come = copies(clocks)
    assert come() == 500
    clocks.wait(499)
    assert come() == 1
    clocks.wait(1)
    assert come() == 0
    assert come() == 500, "it was forgotten, and is a message of a stream that was made anew"


def test_what_went_to_other_processes_is_forgotten() -> None:
    clocks = Clocks()
    sent_back = EarlyRetries(clocks)
    for number in range(KEPT):
        sent_back.left_ms(number, WRITTEN_MS + 500, WRITTEN_MS)
    clocks.wait(61_000)
    sent_back.left_ms(KEPT, clocks.wall_ms + 500, clocks.wall_ms)
    assert len(sent_back) == 1
    assert sent_back.dues_ms() == [clocks.wall_ms + 500]


def test_what_was_sent_back_is_due_when_its_record_says_to_the_millisecond() -> None:
    class Fractions:
        """A wall clock of whole milliseconds beside one that counts their parts."""

        passed_s = 0.0

        def now_ms(self) -> int:
            return 1_000_000 + int((self.passed_s + 0.0007) * 1000)

        def monotonic(self) -> float:
            return self.passed_s

    clocks = Fractions()
    sent_back = EarlyRetries(clocks)
    assert sent_back.left_ms(1, 1_060_000, 1_000_000) == 60_000
    for number in range(100):
        clocks.passed_s = number * 0.00013
        assert sent_back.dues_ms() == [1_060_000]
    sent_back.forget(1)
    assert sent_back.dues_ms() == []


class SlowToRead(Clocks):
    """Something else runs between any two readings of a clock."""

    def now_ms(self) -> int:
        self.wait(7)
        return super().now_ms()

    def monotonic(self) -> float:
        self.wait(7)
        return super().monotonic()


def waits_of_nats(clocks: Clocks) -> Callable[[], bool]:
    sent_back = EarlyRetries(clocks)
    sent_back.left_ms(1, WRITTEN_MS + 100, WRITTEN_MS)
    return lambda: not sent_back.left_ms(1, WRITTEN_MS + 100, WRITTEN_MS)


def waits_of_others(clocks: Clocks) -> Callable[[], bool]:
    holding = DelayQueue(clocks)
    assert holding.hold(retry(WRITTEN_MS + 100))
    return lambda: bool(holding.take_due())


def waits_in_place(clocks: Clocks) -> Callable[[], bool]:
    queues = KeyedLaneQueues(OrderBy.KEY, 1, maximum_keys=10, clock=clocks, stats=Counters())
    queues.put([structs.replace(retry(WRITTEN_MS + 100), key=b"k")])
    return lambda: bool(queues.wake_due())


@pytest.mark.parametrize("make", [waits_of_nats, waits_of_others, waits_in_place])
def test_what_passes_between_two_readings_of_the_clocks_makes_no_retry_early(
    make: Callable[[Clocks], Callable[[], bool]],
) -> None:
    clocks = SlowToRead()
    is_due = make(clocks)
    while not is_due():
        pass
    assert clocks.at - 1_000.0 > 0.0999
