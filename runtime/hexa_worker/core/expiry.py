"""Events that are of no use after a while: dropped, and not run, once they have expired."""

from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter, itemgetter

from hexa_worker.core.message import Delivery, Headers, header

EXPIRES_AT = "hexa-expires-at"
"""Until when an event is of use, milliseconds since the epoch."""
_DIGITS = 15
_HEADERS, _NAME = attrgetter("headers"), itemgetter(0)


def expiry_header(expires_ms: int) -> Headers:
    """The header of an event that expires; none for 0."""
    return ((EXPIRES_AT, b"%d" % expires_ms),) if expires_ms else ()


def expires_ms(headers: Headers) -> int | None:
    """When an event expires; None: never, or it is not said so that anybody could read it."""
    value = header(headers, EXPIRES_AT)
    return int(value) if value is not None and value.isdigit() and len(value) <= _DIGITS else None


class ExpiryWatch:
    """Tells what has expired in one subscription. It costs next to nothing until an event comes that can expire.

    Args:
        now_ms: the wall clock.

    Attributes:
        seen: such an event has come.
    """

    __slots__ = ("_now_ms", "seen")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.seen = False
        self._now_ms = now_ms

    def look(self, batch: Iterable[Delivery]) -> None:
        """Look whether an event can expire, among those that have just come."""
        # Of every header that comes: a loop in C, for one in Python costs the hot path several percent.
        self.seen = EXPIRES_AT in map(_NAME, chain.from_iterable(map(_HEADERS, batch)))

    def is_over(self, delivery: Delivery) -> bool:
        """Whether an event has expired."""
        at_ms = expires_ms(delivery.headers)
        return at_ms is not None and at_ms <= self._now_ms()
