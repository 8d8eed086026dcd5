"""What one consumer has in flight, and whether the claims on it hold. Pure.

A delivery is known by its stream sequence. The reply subject that settles it may change while it is in flight: the
server sends a copy after a restart or a silence, and the copy's reply subject replaces the older one.
"""

from collections.abc import Iterable, Mapping
from enum import Enum, auto

from hexa_worker.drivers.nats.ack_subjects import stored_at

SETTLED_KEPT = 20_000


class Arrival(Enum):
    """What a message that has come is."""

    NEW = auto()
    """It is in flight now."""
    COPY = auto()
    """It was in flight already; its claim holds again."""
    SETTLED = auto()
    """It was settled here; the server may have forgotten that, and is to be told again."""
    ANOTHER = auto()
    """The stream was recreated: sequences mean other messages, see `InFlightMessages.reset`."""


class InFlightMessages:
    """Messages of one consumer, by stream sequence.

    Args:
        epoch: the first one.

    Attributes:
        held: reply subjects of those that are in flight.
        lost: those in flight whose claim may be somebody else's by now.
        settled: reply subjects of those that were settled here lately.
        top: the highest that has come.
        epoch: counts how often sequences have lost their meaning.
        progressed: whether anything was settled since that was last asked; whoever asks puts it back.
    """

    __slots__ = ("_floor", "epoch", "held", "lost", "progressed", "settled", "top")

    def __init__(self, epoch: int = 0) -> None:
        self.held: dict[int, bytes] = {}
        self.lost: set[int] = set()
        self.settled: dict[int, bytes] = {}
        self.top = 0
        self.epoch = epoch
        self.progressed = False
        self._floor = 0

    def came(self, sequence: int, reply: bytes) -> Arrival:
        """Take in a message that has come."""
        before = None if sequence > self.top else self.held.get(sequence) or self.settled.get(sequence)
        if before is None:
            self.top = max(self.top, sequence)
            self.held[sequence] = reply
            return Arrival.NEW
        if stored_at(before) != stored_at(reply):
            return Arrival.ANOTHER
        if sequence not in self.held:
            return Arrival.SETTLED
        self.held[sequence] = reply
        self.lost.discard(sequence)
        return Arrival.COPY

    def claimed(self) -> list[bytes]:
        """Reply subjects of those whose claim holds."""
        return [reply for sequence, reply in self.held.items() if sequence not in self.lost]

    def doubt(self) -> None:
        """No claim is certain, until copies bring them back."""
        self.lost.update(self.held)

    def doubt_beyond(self, delivered: int, asked: Mapping[int, bytes]) -> None:
        """The server knows of no delivery beyond this: it takes no acknowledgement of one, and will deliver it anew.

        Args:
            delivered: the last one that it knows of.
            asked: `held` when it was asked; what has come since then is ours.
        """
        held = self.held
        self.lost.update([one for one, reply in asked.items() if one > delivered and held.get(one) is reply])

    def forget(self, sequences: Iterable[int]) -> None:
        """These are in flight no more, and not settled."""
        for sequence in sequences:
            self.held.pop(sequence, None)
            self.lost.discard(sequence)

    def settle(self, sequence: int, reply: bytes) -> None:
        """One is settled that need not be handled here."""
        self.forget((sequence,))
        self.settled[sequence] = reply

    def let_go(self, sequences: Iterable[int], *, done: bool) -> None:
        """These are in flight no more: they are settled, or released."""
        held, lost, settled = self.held, self.lost, self.settled
        self.progressed = self.progressed or done
        for sequence in sequences:
            reply = held.pop(sequence, None)
            if done and reply is not None:
                settled[sequence] = reply
            if lost:
                lost.discard(sequence)
        excess = len(settled) - SETTLED_KEPT
        if excess > SETTLED_KEPT // 4:
            for sequence in [*settled][:excess]:
                del settled[sequence]

    def passed(self, floor: int) -> None:
        """The consumer is settled up to here. A server that is killed forgets the latest of that, so not all goes."""
        kept_from, self._floor = self._floor, floor
        if self.settled:
            self.settled = {sequence: reply for sequence, reply in self.settled.items() if sequence > kept_from}

    def clear(self) -> None:
        """Nothing is in flight."""
        self.held.clear()
        self.lost.clear()

    def reset(self) -> None:
        """The stream was recreated: what is known of sequences is of other messages."""
        self.epoch += 1
        self.clear()
        self.settled.clear()
        self.top = self._floor = 0
