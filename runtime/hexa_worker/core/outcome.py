"""What became of one handler call.

A handler says it by returning or raising; the runtime adds the ends that no handler can report.
`settlement` turns an outcome into what is done about it.
"""

import math
from typing import Any, Protocol

import msgspec

from hexa_worker.errors import DecodeError, DriverRejected, Hopeless

_CHAIN = 10
"""A chain of causes is followed so far."""


class Verdict(Exception):
    """An explicit outcome: a handler may return it or raise it, with the same meaning."""

    reason: str = ""  # of a subclass whose constructor does not call this one

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = Exception.__hash__


class Ack(Verdict):
    """Done: the delivery is acknowledged. The same as returning None."""


class Drop(Verdict):
    """Not wanted: acknowledged without effect, counted and logged with its reason."""


DUPLICATE = "a duplicate: the event is handled already"
"""Why a delivery was dropped whose event was handled before."""


class Duplicate(Drop):
    """The event is handled already: acknowledged without effect, and counted as a duplicate."""

    def __init__(self) -> None:
        super().__init__(DUPLICATE)


EXPIRED = "it has expired"
"""Why an event was dropped that came, or whose retry came, after its time."""


class Expired(Drop):
    """Of no use any more: acknowledged without being run, and counted as expired."""

    def __init__(self) -> None:
        super().__init__(EXPIRED)


class DeadLetter(Verdict):
    """Hopeless: to the dead letter at once, without retries."""


class Duration(Protocol):
    """A `datetime.timedelta`, said without importing the clock that stands beside it."""

    def total_seconds(self) -> float:
        """How long it is."""
        ...


class Retry(Verdict):
    """Try again later. Counts an attempt, so it ends in the dead letter when attempts run out.

    Args:
        after: seconds to wait, or a `timedelta`; None takes the delay of the retry policy.
        reason: kept with the retry and the dead letter.

    Raises:
        ValueError, TypeError: `after` is no duration.
    """

    after: float | None = None

    def __init__(self, after: float | Duration | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after = None if after is None else _seconds(after)


class Snooze(Verdict):
    """Not yet: come again later, without consuming an attempt. Nothing has failed.

    An event may be snoozed `maximum_snoozes` times in all; the next time it is dead-lettered.

    Args:
        after: seconds to wait, or a `timedelta`. It never comes earlier.
        reason: logged, and shown by `trace`.

    Raises:
        ValueError, TypeError: `after` is no duration.
    """

    after: float = 0.0

    def __init__(self, after: float | Duration, reason: str = "") -> None:
        super().__init__(reason)
        self.after = _seconds(after)


def _seconds(after: Any) -> float:
    seconds = float(after.total_seconds() if hasattr(after, "total_seconds") else after)
    if math.isnan(seconds):
        raise ValueError("after must be a number of seconds, not NaN")
    return seconds


def cause_of(error: BaseException) -> BaseException | None:
    """What made a handler raise this verdict, by ``raise … from error`` or in an ``except`` block; None: nothing.

    Verdicts in between are left out.
    """
    for _ in range(_CHAIN):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or not isinstance(cause, Verdict):
            return cause
        error = cause
    return None


def is_hopeless(error: BaseException) -> bool:
    """Whether trying again cannot help: what was emitted is refused for good, or a payload cannot be decoded.

    A group is, when all in it is.
    """
    looked_at = [error]
    while looked_at:
        one = looked_at.pop()
        if isinstance(one, BaseExceptionGroup):
            looked_at += one.exceptions
        elif not isinstance(one, DriverRejected | DecodeError | Hopeless):
            return False
    return True


class Raised(msgspec.Struct, frozen=True):
    """The handler raised, or something it awaited was cancelled by others."""

    error: BaseException


class TimedOut(msgspec.Struct, frozen=True):
    """The handler was still running at its deadline and was cancelled."""

    timeout_s: float


class Undecodable(msgspec.Struct, frozen=True):
    """The payload does not decode to what the handler asks for; the handler never ran."""

    error: BaseException


class Interrupted(msgspec.Struct, frozen=True):
    """The worker stopped before the handler ended: hand the delivery back, no attempt consumed."""


class Crashed(msgspec.Struct, frozen=True):
    """Worker processes died with this delivery in hand, as often as is allowed; it is not run again."""

    crashes: int
    why: str = ""


Outcome = Ack | Drop | DeadLetter | Retry | Snooze | Raised | TimedOut | Undecodable | Interrupted | Crashed


def error_of(outcome: Outcome) -> BaseException | None:
    """What was raised, or made the handler raise its verdict."""
    if isinstance(outcome, Raised):
        return outcome.error
    return cause_of(outcome) if isinstance(outcome, DeadLetter | Retry) else None
