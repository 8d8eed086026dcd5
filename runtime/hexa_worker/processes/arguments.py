"""What the parent tells a child on its command line, and what a child's exit code tells the parent."""

import signal
from typing import Final

import msgspec

DESCRIPTOR: Final = 3
"""The child's end of the socket to its parent."""
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
EXIT_STUCK: Final = 86
"""A handler does not end; the journal names it."""
STACK_SIGNAL: Final = signal.SIGUSR2
"""Makes a child write its stacks to a file, also when its loop is blocked in C."""
MAX_BEAT_S: Final = 1.0


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """The one argument of a child, as JSON.

    Attributes:
        slot: its number.
        parent: process id of the parent.
        config_path: worker.toml.
        state_dir: see `hexa_worker.processes.layout.Layout`.
        name: the worker's name, see there.
        watchdog_s: how long the loop may be silent.
        until_idle: end by itself when nothing is left to do.
        backend: instead of the configured one.
    """

    slot: int
    parent: int
    config_path: str
    state_dir: str
    name: str
    watchdog_s: float
    until_idle: bool = False
    backend: str | None = None

    @property
    def beat_s(self) -> float:
        """Seconds between two beats."""
        return min(MAX_BEAT_S, self.watchdog_s / 4)
