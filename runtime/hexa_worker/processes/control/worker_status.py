"""How a worker stands, for `hexa-worker status`: by process and, of all processes together, by subscription."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from hexa_worker.core.controls import Controls
from hexa_worker.core.lifecycle import READY
from hexa_worker.core.scrubbing import scrub
from hexa_worker.processes.control.state import HistoryEntry
from hexa_worker.processes.pool import Pool
from hexa_worker.processes.protocol import LaneDump
from hexa_worker.processes.rolling import ReloadState
from hexa_worker.processes.slot import Slot
from hexa_worker.processes.status.overview import Overview
from hexa_worker.telemetry.report import LastFailure, SubscriptionReport
from hexa_worker.telemetry.stats import Counters

SHOWN: int = 5
"""So many of the latest requests."""


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process.

    Attributes:
        slot: its place.
        pid: 0 when it is to be started.
        phase: ``waiting``, ``booting``, ``up``, ``stopping`` or ``failed``.
        ready: all its subscriptions consume.
        restarts: how often its place was filled again.
    """

    slot: int
    pid: int
    phase: str
    ready: bool
    restarts: int


class FailureStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A failure of a delivery.

    Attributes:
        at: when, ISO 8601.
        reason: ``failed``, ``timeout``, ``undecodable``, ``crashed`` or ``asked``.
        error: class of the error, and what it said.
    """

    at: str
    reason: str
    error: str


class SubscriptionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription in all processes together; counts are since the start of the worker.

    Attributes:
        action: its name.
        channels: what it reads.
        states: how many processes are in which state (``running``, ``waiting``, …).
        concurrency: how many handler calls may run at once, in all processes together.
        paused: an operator has paused it.
        paused_keys: how many of its keys are paused.
        kept: deliveries of paused keys that are received and wait.
        running: deliveries that handlers run now.
        in_flight: deliveries received and not settled.
        handled: acknowledged deliveries.
        retried: deliveries stored for a retry, or kept in their place for it.
        dead_lettered: deliveries given up.
        rate: handled deliveries a second, over the last seconds.
        on_hold: deliveries whose retries are used up and that hold the subscription.
        longest_s: for how long the handler call has run that runs longest.
        last_failure: the latest failure, with its time.
        errors: why it does not consume, once each.
    """

    action: str
    channels: str
    states: dict[str, int]
    concurrency: int
    paused: bool
    paused_keys: int
    kept: int
    running: int
    in_flight: int
    handled: int
    retried: int
    dead_lettered: int
    rate: float
    on_hold: int
    longest_s: float
    last_failure: FailureStatus | None
    errors: tuple[str, ...]


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything.

    Attributes:
        name: the worker's name.
        pid: of the parent.
        ready: every process that is here to stay consumes.
        alive: nothing was given up.
        stopping: it was asked to stop.
        processes: by their places.
        subscriptions: by their names.
        off: subscriptions that have handlers here and do not run, and why.
        paused_elsewhere: what is paused and no process knows: subscriptions that were renamed or removed.
        reload: the latest reload, and why it failed.
        history: the latest requests, the oldest first.
    """

    name: str
    pid: int
    ready: bool
    alive: bool
    stopping: bool
    processes: tuple[ProcessStatus, ...]
    subscriptions: tuple[SubscriptionStatus, ...]
    off: dict[str, str]
    paused_elsewhere: tuple[str, ...]
    reload: ReloadState
    history: tuple[HistoryEntry, ...]


class ProcessDump(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does.

    Attributes:
        slot: its place.
        pid: it.
        silent: it has not answered in time.
        lanes: what its lanes run, the longest first.
        loop: where its event loop is: file, line and function, the innermost last.
    """

    slot: int
    pid: int
    silent: bool
    lanes: tuple[LaneDump, ...] = ()
    loop: tuple[str, ...] = ()


def process_dump(slot: Slot, number: int) -> ProcessDump:
    """What a process has answered to a request."""
    dump = slot.dump
    if dump is None or dump.number < number:
        return ProcessDump(slot=slot.number, pid=slot.pid, silent=True)
    lanes = tuple(sorted(dump.lanes, key=lambda one: -one.seconds))
    return ProcessDump(slot=slot.number, pid=slot.pid, silent=False, lanes=lanes, loop=dump.loop)


def worker_status(pool: Pool, history: Sequence[HistoryEntry]) -> WorkerStatus:
    """Look at the processes of a parent."""
    view = pool.look()
    subscriptions = tuple(_subscriptions(view, pool.controls, pool.rates.per_second()))
    off = {action: reason for one in view.processes for action, reason in one.report.off.items()}
    known = {one.action for one in subscriptions} | off.keys()
    return WorkerStatus(
        name=view.name,
        pid=os.getpid(),
        ready=view.ready,
        alive=view.alive,
        stopping=view.stopping,
        processes=tuple(
            ProcessStatus(
                slot=one.slot, pid=one.pid, phase=one.phase.name.lower(), ready=one.ready, restarts=one.restarts
            )
            for one in view.processes
        ),
        subscriptions=subscriptions,
        off=off,
        paused_elsewhere=tuple(sorted(pool.controls.paused.keys() - known)) if known else (),
        reload=pool.reloading,
        history=tuple(history[-SHOWN:]),
    )


def _subscriptions(view: Overview, controls: Controls, rates: dict[str, float]) -> Iterable[SubscriptionStatus]:
    for action, total in sorted(view.totals.items()):
        reports = [one for process in view.processes for one in process.report.subscriptions if one.action == action]
        yield _subscription(action, total.destination, total.counters, reports, controls, rates.get(action, 0.0))


def _latest(failures: Sequence[LastFailure]) -> FailureStatus | None:
    latest = max(failures, key=lambda one: one.at_ms, default=None)
    if latest is None:
        return None
    at = datetime.fromtimestamp(latest.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    text = f"{latest.error}: {latest.message}" if latest.message else latest.error
    return FailureStatus(at=at.replace("+00:00", "Z"), reason=latest.reason, error=scrub(text))


def _subscription(  # noqa: PLR0913 - what it is made of
    action: str,
    channels: str,
    counters: Counters,
    reports: Sequence[SubscriptionReport],
    controls: Controls,
    rate: float,
) -> SubscriptionStatus:
    pause = controls.pause_of(action)
    return SubscriptionStatus(
        action=action,
        channels=channels,
        states=dict(Counter(one.state.name.lower() for one in reports)),
        concurrency=sum(one.concurrency for one in reports),
        paused=pause.whole,
        paused_keys=len(pause.keys),
        kept=sum(one.kept for one in reports),
        running=sum(one.in_flight for one in reports),
        in_flight=sum(one.held for one in reports),
        handled=counters.acked + counters.dropped,
        retried=counters.retried,
        dead_lettered=counters.dead_lettered,
        rate=round(rate, 1),
        on_hold=counters.on_hold,
        longest_s=round(max((one.longest_s for one in reports), default=0.0), 1),
        last_failure=_latest([one.last_failure for one in reports if one.last_failure is not None]),
        errors=tuple(sorted({scrub(one.error) for one in reports if one.error and one.state not in READY})),
    )
