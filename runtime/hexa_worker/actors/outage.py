"""Whether what a worker needs is away: its broker, as its pump and its settler meet it, or its claim store.

An idle subscription receives nothing that would show that its broker is back, so the source is asked.
"""

from collections.abc import Callable
from enum import Enum, auto

import anyio

from hexa_worker.drivers.base import Source
from hexa_worker.errors import DriverError

CALM_S = 1.2
"""A `receive` that has not failed for this long waits for deliveries; longer than the pump's longest pause."""
LOOK_S = 0.3


class Need(Enum):
    """What can be away, each found out by somebody else."""

    RECEIVING = auto()
    SETTLING = auto()
    CLAIMING = auto()
    PARKING = auto()
    """Room for what the broker refuses."""


class Outage:
    """What one worker misses at present.

    Args:
        on_unavailable: told why, when the first need is not met any more.
        on_running: told when all are met again.
    """

    def __init__(self, on_unavailable: Callable[[str], None], on_running: Callable[[], None]) -> None:
        self._on_unavailable = on_unavailable
        self._on_running = on_running
        self._missed = set[Need]()
        self._failed_at = 0.0
        self._lost = anyio.Event()

    def missed(self, need: Need, error: DriverError) -> bool:
        """It is away; said with every failure. Whether it was there before."""
        if need is Need.RECEIVING:
            self._failed_at = anyio.current_time()
            self._lost.set()
        if not self._missed:
            self._on_unavailable(str(error))
        first = need not in self._missed
        self._missed.add(need)
        return first

    def met(self, need: Need) -> None:
        if need not in self._missed:
            return
        self._missed.discard(need)
        if not self._missed:
            self._on_running()

    async def run(self, source: Source) -> None:
        """Find out that a broker is back while nothing is received. Cancellation: safe."""
        while True:
            await self._lost.wait()
            self._lost = anyio.Event()
            while Need.RECEIVING in self._missed:
                await anyio.sleep(LOOK_S)
                if anyio.current_time() - self._failed_at >= CALM_S and await _answers(source):
                    self.met(Need.RECEIVING)


async def _answers(source: Source) -> bool:
    try:
        await source.backlog()
    except DriverError:
        return False
    return True
