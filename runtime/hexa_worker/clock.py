"""The two clocks of the runtime, injectable so that tests and the harness run in virtual time."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for what is written down, monotonic time for how long something took."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...


class SystemClock:
    """The clocks of the machine."""

    __slots__ = ()

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.perf_counter)
