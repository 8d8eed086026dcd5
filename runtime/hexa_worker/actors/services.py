"""What all workers of one process share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hexa_worker.actors.dedup_stage import DedupSettings
from hexa_worker.actors.isolation import Isolation
from hexa_worker.actors.lane import Cell
from hexa_worker.actors.typed_source import Sources
from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Driver
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.subscriptions.api import Middleware
from hexa_worker.subscriptions.decisions import OutcomeHook
from hexa_worker.subscriptions.transactions import Transactions


class CrashJournal(Protocol):
    """Where lanes note what they have in hand, so that it is known after a crash."""

    def cells(self, action: str, lane: int, count: int) -> tuple[Cell, ...]:
        """The cells of one lane of one subscription; the same ones when asked again."""
        ...


class KnownSuspects(Protocol):
    """Deliveries that were in hand when a process died."""

    def any(self) -> bool:
        """Whether there are any; asked per batch."""
        ...

    def crashes(self, action: str, source: str, offset: int) -> int:
        """How many processes died with this delivery in hand."""
        ...

    def why(self, action: str, source: str, offset: int) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerServices:
    """See the module.

    Attributes:
        driver: the process's broker connection.
        sources: opens what each plan reads.
        clock: wall and monotonic time.
        isolation: lets suspects run alone.
        state: what the lifespan yielded.
        middlewares: the worker's own, outermost first.
        outcome_hooks: told what was decided about each delivery.
        encoder: publishes child events.
        record: told of the settlements of an action that took effect, and when; None: nobody listens.
        claiming: how deliveries are deduplicated; None: they are not.
        journal: None when nobody would read it.
        suspects: None when nobody counts crashes.
        stuck: told of a delivery whose handler does not end.
        grace_s: how long running handlers may take after a stop.
        stuck_after_s: see `hexa_worker.actors.sweeper.sweep`.
        maximum_crashes: a delivery in hand at this many crashes is dead-lettered.
        transactions: the outbox, for handlers; None where worker.toml has none.
        proven: the same configuration has run well in another process: a broker that refuses it now may take it later.
    """

    driver: Driver
    sources: Sources
    clock: Clock
    isolation: Isolation
    state: Any
    middlewares: tuple[Middleware, ...]
    outcome_hooks: tuple[OutcomeHook, ...]
    encoder: EventEncoder
    record: Callable[[str, Sequence[Settlement], int], None] | None
    claiming: DedupSettings | None
    journal: CrashJournal | None
    suspects: KnownSuspects | None
    stuck: Callable[[Delivery], None]
    grace_s: float
    stuck_after_s: float
    maximum_crashes: int
    transactions: Transactions | None = None
    proven: bool = False
