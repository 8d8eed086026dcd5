"""Who is to blame when a worker process dies: fair to what only ran beside the culprit.

Everybody in hand at a first crash becomes a suspect. Suspects run one at a time in their process, and one whose
next crash would be its last runs alone there, so whoever reaches the limit died in no company. While a suspect
is in hand nobody else is blamed: a culprit that was not suspected yet is caught when it runs without suspects.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

MAX_AGE_S = 24 * 3600.0
"""A suspect that was not seen for so long is forgotten."""
MAX_SUSPECTS = 100_000
"""Beyond that many the oldest are forgotten."""


class InFlightId(NamedTuple):
    """A delivery in hand, as far as it is known from outside of its process."""

    action: str
    source: str
    offset: int

    @property
    def message_id(self) -> str:
        """The broker's name for the message."""
        return f"{self.source}-{self.offset}"


class Suspicion(msgspec.Struct, frozen=True, array_like=True):
    """How many processes died with a delivery in hand, when the last one did (seconds since the epoch), and of what."""

    crashes: int
    at_s: float
    why: str = ""


Suspicions = Mapping[InFlightId, Suspicion]


def blame(
    in_flight: Collection[InFlightId], accused: Collection[InFlightId], suspicions: Suspicions
) -> frozenset[InFlightId]:
    """Who is blamed for the death of one process.

    Args:
        in_flight: what its handlers were running.
        accused: those of them that the process itself named as the reason of its end.
        suspicions: what is known from earlier crashes.
    """
    if accused:
        return frozenset(accused)
    known = frozenset(hand for hand in in_flight if hand in suspicions)
    return known or frozenset(in_flight)


def count_crash(
    suspicions: Suspicions, blamed: Iterable[InFlightId], now_s: float, why: str = ""
) -> dict[InFlightId, Suspicion]:
    """`suspicions` after one more crash of each of `blamed`, of `why`; what is too old or too much is left out."""
    after = {hand: one for hand, one in suspicions.items() if now_s - one.at_s < MAX_AGE_S}
    for hand in blamed:
        before = after.pop(hand, None)
        after[hand] = Suspicion(1 if before is None else before.crashes + 1, now_s, why)
    if len(after) > MAX_SUSPECTS:
        newest = sorted(after.items(), key=lambda item: item[1].at_s)[-MAX_SUSPECTS:]
        return dict(newest)
    return after
