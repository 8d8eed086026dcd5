"""How a process is asked to stop: once to drain, twice to cancel."""

from typing import Final

import anyio

DRAIN: Final = 1
"""Receive no more, let running handlers end."""
CANCEL: Final = 2
"""Cancel running handlers too."""


class StopSignals:
    """How urgently the process was asked to stop; it only grows.

    It may be asked before the event loop runs; after that only from the loop's own thread.

    Attributes:
        level: 0, `DRAIN` or `CANCEL`.
    """

    def __init__(self) -> None:
        self.level = 0
        self._raised: anyio.Event | None = None

    def ask(self, level: int | None = None) -> None:
        """Ask to stop, at `level` or one level more urgently than before."""
        wanted = self.level + 1 if level is None else level
        self.level = min(max(wanted, self.level), CANCEL)
        if self._raised is not None:
            self._raised.set()
            self._raised = None

    async def wait(self, level: int = DRAIN) -> None:
        """Wait until asked to stop at `level` or above. Any number of tasks may wait. Cancellation: safe."""
        while self.level < level:
            if self._raised is None:
                self._raised = anyio.Event()
            await self._raised.wait()
