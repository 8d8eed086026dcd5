"""What a NATS consumer has in flight, beside a model server: nothing runs twice, no other message is settled."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.drivers.nats.ack_subjects import stored_at
from hexa_worker.drivers.nats.in_flight import SETTLED_KEPT, Arrival, InFlightMessages


def reply_of(sequence: int, *, stored: int = 0, delivered: int = 1) -> bytes:
    return b"$JS.ACK.orders.check.%d.%d.1.%d.0" % (delivered, sequence, stored or sequence)


def settled(in_flight: InFlightMessages, sequence: int) -> None:
    in_flight.let_go([sequence], done=True)


def released(in_flight: InFlightMessages, sequence: int) -> None:
    in_flight.let_go([sequence], done=False)


def doubted(in_flight: InFlightMessages, _sequence: int) -> None:
    in_flight.doubt()


def passed_once(in_flight: InFlightMessages, sequence: int) -> None:
    settled(in_flight, sequence)
    in_flight.passed(sequence)


def passed_twice(in_flight: InFlightMessages, sequence: int) -> None:
    passed_once(in_flight, sequence)
    in_flight.passed(sequence)


def nothing(_in_flight: InFlightMessages, _sequence: int) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "stored", "arrival", "claimed"),
    [
        (nothing, 7, Arrival.COPY, True),
        (doubted, 7, Arrival.COPY, True),
        (settled, 7, Arrival.SETTLED, False),
        (passed_once, 7, Arrival.SETTLED, False),
        (passed_twice, 7, Arrival.NEW, True),
        (released, 7, Arrival.NEW, True),
        (nothing, 8, Arrival.ANOTHER, False),
        (doubted, 8, Arrival.ANOTHER, False),
        (settled, 8, Arrival.ANOTHER, False),
        (released, 8, Arrival.NEW, True),
    ],
)
def test_a_message_that_comes_again_is_told_by_what_became_of_it_and_when_it_was_stored(
    before: Callable[[InFlightMessages, int], None], stored: int, arrival: Arrival, *, claimed: bool
) -> None:
    in_flight, again = InFlightMessages(), reply_of(7, stored=stored, delivered=2)
    assert in_flight.came(7, reply_of(7)) is Arrival.NEW
    before(in_flight, 7)
    assert in_flight.came(7, again) is arrival
    assert (again in in_flight.claimed()) is claimed


def test_only_the_latest_that_were_settled_are_remembered() -> None:
    in_flight, count = InFlightMessages(), 2 * SETTLED_KEPT
    for sequence in range(1, count + 1):
        in_flight.came(sequence, reply_of(sequence))
    in_flight.let_go(range(1, count + 1), done=True)
    assert [*in_flight.settled] == [*range(SETTLED_KEPT + 1, count + 1)]
    assert in_flight.progressed


def test_what_came_while_the_server_was_asked_stays_ours() -> None:
    in_flight = InFlightMessages()
    for sequence in (1, 2):
        in_flight.came(sequence, b"%d" % sequence)
    asked = dict(in_flight.held)
    in_flight.came(3, b"3")
    in_flight.held[2] = b"2 anew"
    in_flight.doubt_beyond(0, asked)
    assert in_flight.lost == {1}


@dataclass
class Model:
    """A server, the worker that it delivers to, and what is known between them.

    Messages are known by when they were stored, which no two of them share.
    """

    in_flight: InFlightMessages = field(default_factory=InFlightMessages)
    life: int = 0
    last: int = 0
    unacked: dict[int, int] = field(default_factory=dict)  # how often each was delivered
    acked: set[int] = field(default_factory=set)
    floors: list[int] = field(default_factory=lambda: [0, 0])
    running: set[tuple[int, int, int]] = field(default_factory=set)  # epoch, sequence, stored
    done: set[int] = field(default_factory=set)

    def stored(self, sequence: int) -> int:
        return self.life * 1_000 + sequence

    def come(self, sequence: int) -> None:
        """The server delivers a message, again perhaps; it is handled as the consumer does."""
        self.unacked[sequence] = self.unacked.get(sequence, 0) + 1
        stored = self.stored(sequence)
        reply = reply_of(sequence, stored=stored, delivered=self.unacked[sequence])
        arrival = self.in_flight.came(sequence, reply)
        if arrival is Arrival.ANOTHER:
            self.in_flight.reset()
            arrival = self.in_flight.came(sequence, reply)
        if arrival is Arrival.SETTLED:
            assert stored in self.done
            self.acknowledge(reply)
            return
        assert stored not in self.done
        assert self.in_flight.held[sequence] == reply
        ours = (self.in_flight.epoch, sequence, stored)
        assert (ours in self.running) is (arrival is Arrival.COPY)
        self.running.add(ours)

    def acknowledge(self, reply: bytes) -> None:
        sequence = int(reply.split(b".")[5])
        assert int(stored_at(reply)) == self.stored(sequence)  # it is the message that was meant
        del self.unacked[sequence]
        self.acked.add(sequence)

    def deliver(self, _pick: int) -> None:
        self.last += 1
        self.come(self.last)

    def redeliver(self, pick: int) -> None:
        if self.unacked:
            self.come(sorted(self.unacked)[pick % len(self.unacked)])

    def forget_acks(self, pick: int) -> None:
        """A server that is killed forgets the latest acknowledgements."""
        recent = sorted(one for one in self.acked if one > max(self.floors[:-1]))
        if recent:
            sequence = recent[pick % len(recent)]
            self.acked.discard(sequence)
            self.unacked[sequence] = 1
            self.come(sequence)

    def take_floor(self, _pick: int) -> None:
        floor = min(self.unacked, default=self.last + 1) - 1
        self.floors.append(floor)
        self.in_flight.passed(floor)

    def settle(self, pick: int) -> None:
        """The handler has ended well; see `NatsSource.settle`."""
        if not self.running:
            return
        ours = epoch, sequence, stored = sorted(self.running)[pick % len(self.running)]
        self.running.discard(ours)
        in_flight = self.in_flight
        if epoch != in_flight.epoch:
            return
        if sequence in in_flight.held and sequence not in in_flight.lost:
            self.acknowledge(in_flight.held[sequence])
        in_flight.let_go([sequence], done=True)
        self.done.add(stored)

    def release(self, pick: int) -> None:
        ours = [one for one in sorted(self.running) if one[0] == self.in_flight.epoch]
        if ours:
            self.running.discard(ours[pick % len(ours)])
            self.in_flight.let_go([ours[pick % len(ours)][1]], done=False)

    def lose_claims(self, _pick: int) -> None:
        self.in_flight.doubt()

    def forget_deliveries(self, pick: int) -> None:
        """The server was killed, and has delivered what it had not written down to nobody."""
        self.in_flight.doubt_beyond(pick % (self.last + 1), dict(self.in_flight.held))

    def recreate(self, pick: int) -> None:
        """The stream is another one. What is known by its number shows that; else a look at the stream does."""
        known = sorted({*self.in_flight.held, *self.in_flight.settled})
        self.life += 1
        self.unacked.clear()
        self.acked.clear()
        self.floors = [0, 0]
        if known and pick % 2:
            self.last = known[pick % len(known)]
            self.come(self.last)
        else:
            self.last = 0
            self.in_flight.reset()

    def check(self) -> None:
        in_flight = self.in_flight
        held = {sequence for epoch, sequence, _ in self.running if epoch == in_flight.epoch}
        assert in_flight.held.keys() == held
        assert in_flight.lost <= held
        assert not in_flight.settled.keys() & held
        assert sorted(in_flight.claimed()) == sorted(in_flight.held[one] for one in held - in_flight.lost)


STEPS = [
    Model.deliver,
    Model.redeliver,
    Model.forget_acks,
    Model.take_floor,
    Model.settle,
    Model.release,
    Model.forget_deliveries,
    Model.lose_claims,
    Model.recreate,
]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 30)), max_size=60))
def test_nothing_in_flight_or_done_runs_again_and_no_other_message_is_acknowledged(
    steps: list[tuple[Callable[[Model, int], None], int]],
) -> None:
    model = Model()
    for step, pick in steps:
        step(model, pick)
        model.check()
