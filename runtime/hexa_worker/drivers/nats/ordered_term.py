"""What a consumer that keeps order knows of its term, and of what goes to the next one. Pure.

The server numbers what it delivers: a gap, or what comes late, means that the term must begin again at the first
unsettled message.
"""

from collections.abc import Iterable, Mapping

from msgspec import structs

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Postponed
from hexa_worker.drivers.nats.ack_subjects import stored_at
from hexa_worker.drivers.nats.handover import NOTHING, HandedOver, SettledAhead, WaitingRetry, note_of
from hexa_worker.drivers.nats.in_flight import InFlightMessages


class OrderedTerm:
    """The order of one consumer.

    Args:
        in_flight: what it has in flight.

    Attributes:
        handed_over: what owners before settled beyond the first unsettled message.
        waiting: what waits for a retry in its place, by sequence; never another object.
        postponed: counts what began to wait.
    """

    __slots__ = ("_in_flight", "_next_number", "handed_over", "postponed", "waiting")

    def __init__(self, in_flight: InFlightMessages) -> None:
        self.handed_over = HandedOver(NOTHING)
        self.waiting: dict[int, WaitingRetry] = {}
        self.postponed = 0
        self._in_flight = in_flight
        self._next_number = 1

    def begin(self) -> None:
        """The server counts from one again."""
        self._next_number = 1

    def forget(self) -> None:
        """Notes are of other messages."""
        self.handed_over = HandedOver(NOTHING)
        self.waiting.clear()

    def take_over(self, done: SettledAhead, waiting: Mapping[int, WaitingRetry]) -> None:
        """Go on with what the owner before noted."""
        self.handed_over = HandedOver(done)
        self.waiting.clear()
        self.waiting.update(waiting)

    def follows(self, sequence: int, number: int, *, first: bool) -> bool:
        """Whether a message is the next one: nothing before it is missing, and it does not come late.

        Args:
            sequence: its place in the stream.
            number: its place among what the consumer has delivered.
            first: whether it is delivered for the first time.
        """
        in_flight = self._in_flight
        late = not first and sequence not in in_flight.held and sequence not in in_flight.settled
        if late or number != self._next_number:
            return False
        self._next_number = number + 1
        return True

    def done_by_others(self, sequence: int, reply: bytes) -> bool:
        """Whether a message was settled by an earlier owner, according to the note."""
        if not self.handed_over or sequence not in self.handed_over:
            return False
        if not self.handed_over.holds_for(reply):  # the stream gave the sequence to another message: the note is void
            self.handed_over = HandedOver(NOTHING)
            return False
        return True

    def postpone(self, settlement: Postponed) -> None:
        """It stays in flight; should it come again, it is to come as the settlement says."""
        again = settlement.again
        reply = self._in_flight.held.get(again.offset)
        if reply is not None:
            self.waiting[again.offset] = WaitingRetry(settlement.note, again.due_ms, int(stored_at(reply)))
            self.postponed += 1

    def as_postponed(self, delivery: Delivery, reply: bytes) -> Delivery:
        """A message that has come, as it is to run: it may have waited for a retry in its place before."""
        waiting = self.waiting.get(delivery.offset)
        if waiting is None or waiting.stored != int(stored_at(reply)):
            return delivery
        return structs.replace(delivery, attempt=waiting.attempt, due_ms=waiting.due_ms)

    def settled(self, sequences: Iterable[int]) -> None:
        """These wait no more, as far as they are in flight."""
        for sequence in sequences:
            if sequence in self._in_flight.held:
                self.waiting.pop(sequence, None)

    def note_waiting(self, floor: int, limit: int) -> dict[int, WaitingRetry]:
        """What waits beyond a floor, for whoever is next, in at most `limit` characters."""
        for sequence in [one for one in self.waiting if one <= floor]:
            del self.waiting[sequence]
        return note_of(self.waiting, limit)

    def hand_over(self, floor: int, limit: int) -> SettledAhead:
        """What the next owner need not run beyond a floor, in at most `limit` characters."""
        return self.handed_over.with_settled(self._in_flight.settled, floor, limit)
