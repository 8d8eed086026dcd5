"""A consumer that keeps order: what makes its term begin again, and what it tells the next owner."""

from typing import Any

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Postponed
from hexa_worker.drivers.nats.handover import NOTHING, WaitingRetry
from hexa_worker.drivers.nats.in_flight import InFlightMessages
from hexa_worker.drivers.nats.ordered_term import OrderedTerm

LIMIT = 10_000


def reply(sequence: int, stored: int = 1_000) -> bytes:
    return b"$JS.ACK.orders.check.1.%d.%d.%d.0" % (sequence, sequence, stored)


def delivery(sequence: int, attempt: int = 0, due_ms: int = 0) -> Delivery:
    return Delivery(
        channel="orders",
        payload=b"",
        timestamp_ms=0,
        due_ms=due_ms,
        source="orders",
        offset=sequence,
        attempt=attempt,
        token=None,
    )


def postponed(sequence: int, attempt: int, due_ms: int = 0) -> Postponed:
    failure: Any = None
    return Postponed(delivery(sequence), delivery(sequence, attempt, due_ms), 1.0, failure)


def holding(*sequences: int) -> tuple[OrderedTerm, InFlightMessages]:
    in_flight = InFlightMessages()
    for sequence in sequences:
        in_flight.came(sequence, reply(sequence))
    return OrderedTerm(in_flight), in_flight


def test_a_gap_in_what_is_delivered_is_noticed_and_what_follows_it_is_not_taken() -> None:
    term, _ = holding()
    assert term.follows(10, 1, first=True)
    assert not term.follows(12, 3, first=True)
    assert term.follows(11, 2, first=True), "the one that was missing is still the next"
    term.begin()
    assert term.follows(11, 1, first=True)


def test_what_comes_late_is_out_of_order_unless_it_is_known_here() -> None:
    term, in_flight = holding(1, 2)
    in_flight.let_go([2], done=True)
    assert term.follows(1, 1, first=False), "a copy of what is in flight"
    assert term.follows(2, 2, first=False), "a copy of what was settled"
    assert not term.follows(3, 3, first=False), "delivered to somebody before, and newer ones ran since"


def test_what_waits_for_a_retry_comes_again_as_its_next_attempt_until_it_is_settled() -> None:
    term, _ = holding(1, 2)
    term.postpone(postponed(1, attempt=3, due_ms=50))
    term.postpone(postponed(9, attempt=3, due_ms=50))
    assert term.postponed == 1, "what is not in flight is somebody else's"
    again = term.as_postponed(delivery(1), reply(1))
    assert (again.attempt, again.due_ms) == (3, 50)
    assert term.as_postponed(delivery(1), reply(1, stored=2_000)).attempt == 0, "another message has its sequence"
    term.settled([1])
    assert term.as_postponed(delivery(1), reply(1)).attempt == 0


def test_an_owner_goes_on_with_what_the_one_before_noted() -> None:
    before, in_flight = holding(1, 2, 3)
    in_flight.let_go([3], done=True)
    before.postpone(postponed(1, attempt=2, due_ms=70))
    done, waiting = before.hand_over(0, LIMIT), before.note_waiting(0, LIMIT)

    term, _ = holding()
    seen = term.waiting  # whoever reads has it at hand
    term.take_over(done, waiting)
    assert seen == {1: WaitingRetry(2, 70, 1_000)}
    assert [sequence for sequence in (1, 2, 3) if term.done_by_others(sequence, reply(sequence))] == [3]
    assert term.hand_over(3, LIMIT) == NOTHING
    assert not term.note_waiting(1, LIMIT), "the floor has passed it"


def test_a_note_is_void_as_soon_as_one_of_its_sequences_is_another_message() -> None:
    before, in_flight = holding(1, 2, 3)
    in_flight.let_go([2, 3], done=True)
    term, _ = holding()
    term.take_over(before.hand_over(0, LIMIT), {})
    assert not term.done_by_others(2, reply(2, stored=9_000))
    assert not term.done_by_others(3, reply(3)), "nothing of the note is believed any more"


def test_of_another_stream_nothing_is_known() -> None:
    before, in_flight = holding(1, 2)
    in_flight.let_go([2], done=True)
    before.postpone(postponed(1, attempt=1))
    term, _ = holding()
    term.take_over(before.hand_over(0, LIMIT), before.note_waiting(0, LIMIT))
    term.forget()
    assert not term.waiting
    assert not term.done_by_others(2, reply(2))
