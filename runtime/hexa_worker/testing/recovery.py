"""I4: after a fault, what is ready is consumed again in bounded time, by every subscription. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hexa_worker.testing.explanations import Fault

Span = tuple[float, float]
"""Since when an event was ready, and when it was first started."""


class Silence(NamedTuple):
    """A subscription that consumed nothing after a fault.

    Attributes:
        fault: which.
        waited_s: for how long.
        ready: how many events it could have consumed.
    """

    fault: Fault
    waited_s: float
    ready: int


def deadline(fault: Fault, faults: Iterable[Fault], recovery_s: float, redelivery_s: float) -> float | None:
    """By when something must have been consumed again; None: the broker went away again before.

    Args:
        fault: the one that is over.
        faults: all, in the order of their beginning.
        recovery_s: how long it may take.
        redelivery_s: how long the broker keeps what a dead process had; while that lasts, it may block the others.
    """
    limit = fault.until + recovery_s
    if fault.pid is not None:
        limit += redelivery_s
    for other in faults:
        if other is fault or other.until < fault.until - redelivery_s or other.at > limit:
            continue
        if other.pid is None:
            if other.until > fault.until:
                return None
        elif redelivery_s:
            limit = max(limit, other.until + redelivery_s + recovery_s)
    return limit


def silences(
    faults: Sequence[Fault], starts: Sequence[float], ready: Iterable[Span], recovery_s: float, redelivery_s: float
) -> Iterable[Silence]:
    """The faults after which one subscription consumed nothing in time, though something was ready all the while.

    Args:
        faults: in the order of their beginning.
        starts: when its handler was started, ascending.
        ready: its events.
        recovery_s: see `deadline`.
        redelivery_s: see `deadline`.
    """
    spans = list(ready)
    for fault in faults:
        limit = deadline(fault, faults, recovery_s, redelivery_s)
        if limit is None:
            continue
        after = bisect_right(starts, fault.until)
        if after < len(starts) and starts[after] <= limit:
            continue
        waiting = sum(1 for since, until in spans if since <= fault.until and until > limit)
        if waiting:
            yield Silence(fault, limit - fault.until, waiting)
