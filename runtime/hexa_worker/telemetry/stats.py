"""The counters of one subscription in one process: plain integers, written by one event loop.

They only grow (less the gauges); readers take differences. Names of exported metrics are not decided here.
"""

from bisect import bisect_left

DURATION_BOUNDS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the duration histogram's buckets; one more bucket holds what is longer."""


class Stats:
    """What one subscription did since its process started."""

    __slots__ = (
        "acked",
        "dead_lettered",
        "dropped",
        "duration_buckets",
        "duration_sum_s",
        "failed",
        "lost",
        "parked",
        "received",
        "received_bytes",
        "released",
        "restarts",
        "retried",
        "timeouts",
        "undecodable",
    )

    def __init__(self) -> None:
        self.received = 0
        self.received_bytes = 0
        self.acked = 0
        self.dropped = 0
        self.retried = 0
        self.dead_lettered = 0
        self.released = 0
        self.failed = 0
        self.timeouts = 0
        self.undecodable = 0
        self.lost = 0
        self.parked = 0
        self.restarts = 0
        self.duration_buckets = [0] * (len(DURATION_BOUNDS_S) + 1)
        self.duration_sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one handler call in the histogram."""
        self.duration_buckets[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self.duration_sum_s += seconds
