"""Keys that wait for a retry in their place: whatever happens, each keeps its order, and nothing is lost."""

from collections import defaultdict

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hexa_worker.core.keyed_queue import KeyedQueue, KeyLimit
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy

LANES = 2
LIMIT = 2
KEYS = [b"a", b"b", b"c", b"d", b"e", None]


def delivery(offset: int, key: bytes | None = b"a", source: str = "s", due_ms: int = 0) -> Delivery:
    return Delivery(channel="events", payload=b"", key=key, source=source, offset=offset, due_ms=due_ms)


def later(one: Delivery, due_ms: int) -> Delivery:
    return msgspec.structs.replace(one, attempt=one.attempt + 1, due_ms=due_ms)


def line(limit: int = 10, order_by: OrderBy = OrderBy.KEY) -> KeyedQueue:
    return KeyedQueue(order_by, KeyLimit(limit))


def offsets(one: KeyedQueue) -> list[int]:
    return [ready.offset for ready in one.ready]


def test_while_a_key_waits_what_follows_in_it_waits_behind_and_the_others_go_on() -> None:
    one = line()
    for offset, key in enumerate([b"a", b"b", b"a", b"b"]):
        one.put(delivery(offset, key), 0)
    one.postpone(later(one.ready.popleft(), 100), 0)
    one.put(delivery(4, b"a"), 0)
    one.put(delivery(5, b"b"), 0)
    assert offsets(one) == [1, 3, 5]
    assert not one.wake(99)
    assert one.wake(100)
    assert offsets(one) == [0, 2, 4, 1, 3, 5]


def test_one_key_more_than_may_wait_stops_its_line_until_its_retry_and_nothing_is_overtaken() -> None:
    one = line(limit=1)
    for offset, key in enumerate([b"a", b"b", b"c"]):
        one.put(delivery(offset, key), 0)
    one.postpone(later(one.ready.popleft(), 100), 0)
    one.postpone(later(one.ready.popleft(), 50), 0)
    one.put(delivery(3, b"c"), 0)
    assert offsets(one) == []
    assert one.next_due_ms == 50
    one.wake(50)
    assert offsets(one) == [1, 2, 3]
    one.wake(100)
    assert offsets(one) == [0, 1, 2, 3]


def test_deliveries_without_a_key_never_wait() -> None:
    one = line()
    one.put(delivery(0, None), 0)
    one.postpone(later(one.ready.popleft(), 100), 0)
    assert offsets(one) == [0]
    assert one.next_due_ms is None


def test_by_channel_the_whole_channel_waits() -> None:
    one = line(order_by=OrderBy.CHANNEL)
    one.put(delivery(0, b"a"), 0)
    one.put(delivery(1, b"b"), 0)
    one.postpone(later(one.ready.popleft(), 100), 0)
    assert offsets(one) == []


def test_what_another_process_had_postponed_waits_on_here() -> None:
    one = line()
    one.put(delivery(0, b"a", due_ms=100), 0)
    one.put(delivery(1, b"a"), 0)
    assert offsets(one) == []
    one.wake(100)
    assert offsets(one) == [0, 1]


def test_a_key_whose_retry_is_taken_back_goes_on_with_what_is_left() -> None:
    one = line()
    one.put(delivery(0, source="gone"), 0)
    one.put(delivery(1, source="kept"), 0)
    one.postpone(later(one.ready.popleft(), 100), 0)
    assert [taken.offset for taken in one.take(frozenset({"gone"}), 0)] == [0]
    assert offsets(one) == [1]
    assert one.next_due_ms is None


def stopped_line(allowance: KeyLimit) -> KeyedQueue:
    """A line that stands still for ``b`` until 200, in which ``a`` has come to its retry meanwhile."""
    one = KeyedQueue(OrderBy.KEY, allowance)
    one.put(delivery(0, b"a"), 0)
    one.put(delivery(1, b"b"), 0)
    one.postpone(later(one.ready.popleft(), 100), 0)
    one.postpone(later(one.ready.popleft(), 200), 0)
    one.put(delivery(2, b"a"), 0)
    one.wake(100)
    one.put(delivery(3, b"a"), 100)
    assert offsets(one) == [0, 2]
    return one


def test_a_key_that_fails_again_while_its_line_stands_still_keeps_what_came_meanwhile_in_order() -> None:
    one = stopped_line(KeyLimit(1))
    one.postpone(later(one.ready.popleft(), 300), 100)
    one.put(delivery(4, b"a"), 100)
    one.wake(200)
    assert offsets(one) == [1]
    one.wake(300)
    assert offsets(one) == [0, 2, 3, 4, 1]


def test_a_line_that_has_to_stand_still_twice_keeps_each_key_in_order() -> None:
    allowance = KeyLimit(1)
    one, other = stopped_line(allowance), KeyedQueue(OrderBy.KEY, allowance)
    other.postpone(later(delivery(9, b"x"), 900), 100)
    one.postpone(later(one.ready.popleft(), 150), 100)
    one.wake(150)
    assert offsets(one) == [0, 2]
    one.wake(200)
    assert offsets(one) == [0, 2, 1, 3]


class Worker(RuleBasedStateMachine):
    """Two lanes against the simplest model: each key is a list, and its first unfinished delivery may run.

    What is revoked comes again at the end of all else, as from a broker, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.allowance = KeyLimit(LIMIT)
        self.lines = [KeyedQueue(OrderBy.KEY, self.allowance) for _ in range(LANES)]
        self.hands: list[Delivery | None] = [None] * LANES
        self.unfinished: dict[bytes, list[int]] = defaultdict(list)
        self.loose: set[int] = set()
        self.dues: dict[int, int] = {}
        self.next_offset = 0

    def lane_of(self, key: bytes | None) -> int:
        return 0 if key is None else key[0] % LANES

    @rule(key=st.sampled_from(KEYS), source=st.sampled_from(["s", "t"]))
    def come(self, key: bytes | None, source: str) -> None:
        # As in brokers, one key comes from one source at a time.
        source = "s" if key is None or key[0] % 2 else source if not self.unfinished[key] else self.sources[key]
        if key is not None:
            self.unfinished[key].append(self.next_offset)
            self.sources[key] = source
        else:
            self.loose.add(self.next_offset)
        self.lines[self.lane_of(key)].put(delivery(self.next_offset, key, source), self.now_ms)
        self.next_offset += 1

    sources: dict[bytes, str] = {}  # noqa: RUF012 - one run writes before it reads

    @rule(lane=st.integers(0, LANES - 1))
    def begin(self, lane: int) -> None:
        if self.hands[lane] is None and self.lines[lane].ready:
            hand = self.hands[lane] = self.lines[lane].ready.popleft()
            if hand.key is not None:
                assert hand.offset == self.unfinished[hand.key][0], "overtaken"
            assert self.dues.get(hand.offset, 0) <= self.now_ms, "early"

    @rule(lane=st.integers(0, LANES - 1))
    def succeed(self, lane: int) -> None:
        hand, self.hands[lane] = self.hands[lane], None
        if hand is not None and hand.key is not None:
            self.unfinished[hand.key].remove(hand.offset)
        elif hand is not None:
            self.loose.remove(hand.offset)

    @rule(lane=st.integers(0, LANES - 1), delay_ms=st.integers(0, 20))
    def fail(self, lane: int, delay_ms: int) -> None:
        hand = self.hands[lane]
        if hand is not None and hand.key is not None:
            self.hands[lane] = None
            self.dues[hand.offset] = self.now_ms + delay_ms
            self.lines[lane].postpone(later(hand, self.now_ms + delay_ms), self.now_ms)

    @rule(delay_ms=st.integers(1, 30))
    def time_passes(self, delay_ms: int) -> None:
        self.now_ms += delay_ms
        for one in self.lines:
            one.wake(self.now_ms)

    @rule(sources=st.sampled_from([frozenset({"s"}), frozenset({"t"}), None]), kept=st.booleans())
    def revoke(self, sources: frozenset[str] | None, *, kept: bool) -> None:
        """All but what is in hand; it comes again, with or without what this process knew of it."""
        for lane, one in enumerate(self.lines):
            hand = self.hands[lane]
            if hand is not None and (sources is None or hand.source in sources):
                self.hands[lane] = None
                taken = [hand, *one.take(sources, self.now_ms)]
            else:
                taken = one.take(sources, self.now_ms)
            for again in sorted(taken, key=lambda found: found.offset):
                if not kept:
                    self.dues.pop(again.offset, None)
                one.put(again if kept else msgspec.structs.replace(again, attempt=0, due_ms=0), self.now_ms)

    @precondition(lambda self: any(one.next_due_ms is not None for one in self.lines))
    @rule()
    def next_due_is_told(self) -> None:
        due_ms = min(one.next_due_ms for one in self.lines if one.next_due_ms is not None)
        woken = [one.wake(min(self.now_ms, due_ms - 1)) for one in self.lines]
        assert not any(woken)
        self.now_ms = max(self.now_ms, due_ms)
        woken = [one.wake(self.now_ms) for one in self.lines]
        assert any(woken)

    @invariant()
    def no_more_keys_wait_than_may(self) -> None:
        assert 0 <= self.allowance.keys <= LIMIT
        assert (self.allowance.held_back > 0) == (self.allowance.keys > 0)

    def teardown(self) -> None:
        """Everything can still be finished, in order."""
        for _ in range(1000):
            for lane in range(LANES):
                self.succeed(lane)
                self.begin(lane)
            self.time_passes(10)
            if not any(self.unfinished.values()) and not self.loose:
                break
        assert not any(self.unfinished.values()), "lost"
        assert not self.loose, "lost"
        assert self.allowance.keys == self.allowance.held_back == 0


TestWorker = Worker.TestCase
TestWorker.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
