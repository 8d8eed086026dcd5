"""What a worker process runs, and what it is given to run with."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from hexa_worker.config.model import Config
from hexa_worker.core.message import Delivery
from hexa_worker.processes.journal import MappedJournal
from hexa_worker.processes.orders import Orders
from hexa_worker.processes.protocol import Arguments
from hexa_worker.processes.suspects import SuspectsFile
from hexa_worker.stop import StopSignals
from hexa_worker.telemetry.report import Report


class ChildContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a program gets to run with.

    Attributes:
        arguments: see `Arguments`.
        config: the loaded worker.toml.
        journal: where lanes note what they have in hand.
        suspects: what was in hand at crashes.
        report: sends a report to the parent.
        stuck: ends the process because of a delivery whose handler does not end.
        stop: asks to stop.
        orders: what the parent says while it runs.
    """

    arguments: Arguments
    config: Config
    journal: MappedJournal
    suspects: SuspectsFile
    report: Callable[[Report], None]
    stuck: Callable[[Delivery], None]
    stop: StopSignals
    orders: Orders


Serve = Callable[[], Awaitable[int]]
"""Runs until done and returns the exit code."""


class ChildProgram(Protocol):
    """What a child runs. `load` and `prepare` run before the event loop and may raise ConfigError."""

    def load(self, path: Path) -> Config: ...

    def prepare(self, session: ChildContext) -> Serve:
        """Import handlers and put together what will run."""
        ...
