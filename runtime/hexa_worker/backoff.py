"""Waiting between tries of something that time will mend."""

import random
from typing import Final

import anyio

LONGEST_REFUSAL_S: Final = 10.0
"""How long at most it is waited before a broker that refuses is asked again."""


class Backoff:
    """Jittered exponential waits.

    Args:
        first_s: the first wait.
        longest_s: the cap of a wait. The default is short, for a broker that is back shall be noticed soon.
    """

    __slots__ = ("_longest_s", "_next_s")

    def __init__(self, first_s: float = 0.05, longest_s: float = 1.0) -> None:
        self._next_s = first_s
        self._longest_s = longest_s

    async def wait(self) -> None:
        """Wait, longer each time. Cancellation: safe."""
        await anyio.sleep(self.next_s())

    def next_s(self) -> float:
        """Seconds to wait now; more each time."""
        delay, self._next_s = self._next_s, min(self._next_s * 2, self._longest_s)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
