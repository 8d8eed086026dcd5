"""Lets one delivery run alone in its process.

A delivery that was in hand when a process died is a suspect. Suspects run one at a time, and one whose next
crash would be its last runs with nothing beside it, so that no innocent is blamed for the company it keeps.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio


class Isolation:
    """One per process, shared by all lanes.

    Attributes:
        active: one runs alone: lanes start no delivery, they `pause`. Read per delivery, hence a plain attribute.
        stands_still: never; see `hexa_worker.actors.holding`.
    """

    stands_still = False

    def __init__(self) -> None:
        self.active = False
        self._busy: list[Callable[[], int]] = []
        self._ended = anyio.Event()
        self._changed = anyio.Event()
        self._suspects = anyio.Lock()

    def watch(self, busy: Callable[[], int]) -> None:
        """`busy` answers how many deliveries one subscription is running now."""
        self._busy.append(busy)

    def unwatch(self, busy: Callable[[], int]) -> None:
        """The subscription's lanes have ended."""
        self._busy.remove(busy)
        self._changed.set()

    async def pause(self) -> None:
        """Called by a lane that runs nothing: wait until none runs alone. Cancellation: safe."""
        self._changed.set()
        while self.active:
            await self._ended.wait()

    @asynccontextmanager
    async def alone(self, *, exclusively: bool) -> AsyncIterator[None]:
        """Hold the turn of a suspect; with `exclusively`, wait until nothing else runs and keep it so.

        The caller does not count as busy until it is let in. Cancellation: safe, the others go on.
        """
        async with self._suspects:
            if not exclusively:
                yield
                return
            self.active = True
            self._ended = anyio.Event()
            try:
                while any(busy() for busy in self._busy):
                    self._changed = anyio.Event()
                    await self._changed.wait()
                yield
            finally:
                self.active = False
                self._ended.set()
