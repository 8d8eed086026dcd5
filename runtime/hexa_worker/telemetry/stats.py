"""The counters of one subscription: written by one event loop, sent to the parent as they are, added up there.

They only grow. Names of exported metrics are not decided here.
"""

from bisect import bisect_left

import msgspec

DURATION_BOUNDS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the duration histogram's buckets; one more bucket holds what is longer."""
_SHORTEST_S = DURATION_BOUNDS_S[0]


def _no_calls() -> list[int]:
    return [0] * (len(DURATION_BOUNDS_S) + 1)


class Counters(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one subscription did.

    Attributes:
        received: deliveries taken from the broker.
        received_bytes: bytes of their payloads.
        acked: done, by a handler that succeeded.
        dropped: done, because the handler did not want them.
        duplicates: done, because the event was handled before.
        expired: done without being run, because the event had expired.
        unclaimed: handled without looking for duplicates, because the claim store was away.
        overtaken: whose claim somebody else had taken over before they were done.
        retried: stored for a retry, or kept in their place for it.
        snoozed: as `retried`, of those that did not fail: their handlers answered `Snooze`.
        dead_lettered: stored as dead letters.
        released: handed back undone.
        failed: handler calls that raised.
        timeouts: deliveries whose handler was late.
        undecodable: deliveries whose payload was not what the handler asks for.
        lost: deliveries whose lease was lost before they were settled.
        parked: deliveries kept back now because the broker refuses their retry or dead-letter record.
        on_hold: deliveries held now because their retries are used up: the subscription stands still.
        waiting_keys: keys that wait now for a retry in its place.
        held_back: deliveries that stand aside now because their key waits, the retries among them.
        restarts: how often the subscription's worker broke.
        duration_buckets: handler calls by duration, one count per bound of `DURATION_BOUNDS_S` and one for what
            is longer; not cumulative.
        duration_sum_s: seconds of all handler calls together.
    """

    received: int = 0
    received_bytes: int = 0
    acked: int = 0
    dropped: int = 0
    duplicates: int = 0
    expired: int = 0
    unclaimed: int = 0
    overtaken: int = 0
    retried: int = 0
    snoozed: int = 0
    dead_lettered: int = 0
    released: int = 0
    failed: int = 0
    timeouts: int = 0
    undecodable: int = 0
    lost: int = 0
    parked: int = 0
    on_hold: int = 0
    waiting_keys: int = 0
    held_back: int = 0
    restarts: int = 0
    duration_buckets: list[int] = msgspec.field(default_factory=_no_calls)
    duration_sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one handler call in the histogram."""
        self.duration_buckets[bisect_left(DURATION_BOUNDS_S, seconds) if seconds > _SHORTEST_S else 0] += 1
        self.duration_sum_s += seconds

    def copy(self) -> "Counters":
        return Counters().plus(self)

    def plus(self, other: "Counters") -> "Counters":
        both = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        buckets = [a + b for a, b in zip(self.duration_buckets, other.duration_buckets, strict=True)]
        return Counters(**both, duration_buckets=buckets)


_SUMMED = tuple(name for name in Counters.__struct_fields__ if name != "duration_buckets")
