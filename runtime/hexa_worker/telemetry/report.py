"""What a worker process tells its parent about itself: plain structs that cross a pipe as msgpack.

Counters count since the start of the process; the parent adds up processes, the dead ones included.
A report is sent about once a second and whenever the state of a subscription changes.
"""

from collections.abc import Mapping

import msgspec

from hexa_worker.core.lifecycle import ALIVE, WorkerState
from hexa_worker.telemetry.stats import Counters


class LastFailure(msgspec.Struct, frozen=True):
    """The latest failure of a subscription's deliveries.

    Attributes:
        at_ms: when, by the wall clock.
        reason: see `hexa_worker.core.settlement.Failure`.
        error: class of the error.
        message: what it said; the user's own words.
    """

    at_ms: int
    reason: str
    error: str
    message: str


class SubscriptionReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One subscription in one process.

    Attributes:
        action: its name.
        state: where it is in its life.
        destination: the channels it reads, comma-separated, or its pattern.
        error: why it is not running; empty when it is, or when nobody knows. Never a payload or a secret.
        counters: see `Counters`.
        in_flight: deliveries that handlers run right now.
        held: deliveries received and not settled: the fill of its mailbox.
        mailbox: the mailbox's limit.
        concurrency: how many handler calls may run at once.
        paused: an operator has paused it: it receives nothing.
        paused_keys: how many of its keys are paused.
        last_failure: the latest failure; None before the first.
        longest_s: for how long the handler call has run that runs longest.
        kept: how many of `held` wait because they are paused.
    """

    action: str
    state: WorkerState
    destination: str = ""
    error: str = ""
    counters: Counters = msgspec.field(default_factory=Counters)
    in_flight: int = 0
    held: int = 0
    mailbox: int = 0
    concurrency: int = 0
    paused: bool = False
    paused_keys: int = 0
    kept: int = 0
    last_failure: LastFailure | None = None
    longest_s: float = 0.0


class OutboxReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outbox's relay in one process.

    Attributes:
        state: ``leading`` sends, ``standby`` waits for its turn, ``away`` has no database.
        relayed: records that the broker has confirmed.
        refused: refusals by the broker, each attempt counted.
        batches: how many batches were sent.
        sending_s: seconds spent with sending them.
        pending: of the leader: how many events wait to be sent, a few seconds ago.
        oldest_age_s: of the leader: how old the oldest of them was; 0 without any.
        parked: of the leader: how many events were given up.
    """

    state: str = "away"
    relayed: int = 0
    refused: int = 0
    batches: int = 0
    sending_s: float = 0.0
    pending: int = 0
    oldest_age_s: float = 0.0
    parked: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One process.

    Attributes:
        system: the driver's name (``messaging.system`` of metrics).
        booted: the lifespan is up and every subscription was started once, whatever became of it. From then on
            the loop has to answer within `watchdog_s`.
        subscriptions: all of them.
        outbox: its relay; None where it has none.
        off: subscriptions that have handlers here and do not run, and why.
        revision: of the controls that it follows.
    """

    system: str = ""
    booted: bool = False
    subscriptions: tuple[SubscriptionReport, ...] = ()
    outbox: OutboxReport | None = None
    revision: int = 0
    off: Mapping[str, str] = {}

    @property
    def alive(self) -> bool:
        """No subscription has failed for good."""
        return all(one.state in ALIVE or one.state is WorkerState.STOPPED for one in self.subscriptions)

    @property
    def ready(self) -> bool:
        """It is up and every subscription consumes."""
        return self.booted and all(one.state is WorkerState.RUNNING for one in self.subscriptions)
