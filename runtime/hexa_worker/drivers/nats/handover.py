"""What is handed on to the next who reads a channel, so that nothing is run again that need not be. Pure.

An orderly stop says which messages beyond the floor are settled. Which wait for a retry in their place, and with which
attempt, is said every now and then.

A sequence tells which message it was only while the stream is the same and has forgotten nothing. Whoever reads the
note has compared when the stream was made. A stream that lost its end (a server without power, a restored backup)
gives the same sequences to other messages, but these were stored later: `SettledAhead.until` finds them out.
"""

from collections.abc import Mapping

import msgspec

from hexa_worker.drivers.kit.offset_ranges import RangeSet, Run, merged, read_runs, write_runs
from hexa_worker.drivers.nats.ack_subjects import stored_at

NOTE_LIMIT = 64 * 1024
"""Of its characters; what does not fit is run again."""
WAITING_LENGTH = 72
"""Of one that waits, in JSON."""


class SettledAhead(msgspec.Struct, frozen=True):
    """Settled messages.

    Attributes:
        runs: their sequences, see `hexa_worker.drivers.kit.offset_ranges`.
        until: when the newest of them was stored, in nanoseconds since 1970.
    """

    runs: str = ""
    until: int = 0


NOTHING = SettledAhead()


class WaitingRetry(msgspec.Struct, frozen=True, array_like=True):
    """A message that waits for a retry in its place.

    Attributes:
        attempt: its next one, as `Postponed.note` says it.
        due_ms: when that is to run.
        stored: when the message was stored, in nanoseconds since 1970.
    """

    attempt: int
    due_ms: int
    stored: int


def note_of(waiting: Mapping[int, WaitingRetry], limit: int) -> dict[int, WaitingRetry]:
    """The first of what waits, by sequence, as much as fits.

    Args:
        waiting: all, by sequence.
        limit: how many characters the note may have.
    """
    fit = min(limit, NOTE_LIMIT) // WAITING_LENGTH
    return dict(sorted(waiting.items())[:fit])


class HandedOver:
    """What others have settled beyond the floor.

    Args:
        done: as the last owner noted it.
    """

    __slots__ = ("_finished", "_runs", "_until")

    def __init__(self, done: SettledAhead) -> None:
        self._runs: list[Run] = read_runs(0, done.runs)
        self._finished = RangeSet(self._runs)
        self._until = done.until

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._finished

    def holds_for(self, reply: bytes) -> bool:
        """Whether a message that has one of the sequences is the one that was settled."""
        return int(stored_at(reply)) <= self._until

    def beyond(self, floor: int) -> "HandedOver":
        """What is left of it at a later floor."""
        return self if self._finished.end > floor + 1 else HandedOver(NOTHING)

    def with_settled(self, settled: Mapping[int, bytes], floor: int, limit: int) -> SettledAhead:
        """A note for the next owner.

        Args:
            settled: reply subjects of what was settled here, by sequence.
            floor: everything up to it is settled anyway.
            limit: how many characters the note may have.
        """
        beyond = {sequence: reply for sequence, reply in settled.items() if sequence > floor}
        others = [(max(first, floor + 1), last) for first, last in self._runs if last > floor]
        if not beyond and not others:
            return NOTHING
        until = max((int(stored_at(reply)) for reply in beyond.values()), default=0)
        runs = merged([*others, *((sequence, sequence) for sequence in beyond)])
        return SettledAhead(write_runs(0, runs, min(limit, NOTE_LIMIT)), max(until, self._until if others else 0))
