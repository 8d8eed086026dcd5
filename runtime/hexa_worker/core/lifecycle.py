"""The life of one subscription's worker, as a table.

A worker never leaves `FAILED` or `STOPPED`; a restart by the supervisor is `BACKING_OFF` → `STARTING`.
"""

from enum import Enum, auto


class WorkerState(Enum):
    """Where a subscription's worker is in its life."""

    STARTING = auto()
    RUNNING = auto()
    WAITING = auto()  # its broker is away: not a failure, tried again for ever
    BACKING_OFF = auto()
    DRAINING = auto()
    STOPPED = auto()
    FAILED = auto()


class StateChange(Enum):
    """What can happen to it."""

    STARTED = auto()
    BROKER_LOST = auto()
    RETRIED = auto()  # the wait before a new start is over
    CRASHED = auto()
    GAVE_UP = auto()  # restart intensity exceeded
    STOP_ASKED = auto()
    DRAINED = auto()


TRANSITIONS: dict[WorkerState, dict[StateChange, WorkerState]] = {
    WorkerState.STARTING: {
        StateChange.STARTED: WorkerState.RUNNING,
        StateChange.BROKER_LOST: WorkerState.WAITING,
        StateChange.CRASHED: WorkerState.BACKING_OFF,
        StateChange.GAVE_UP: WorkerState.FAILED,
        StateChange.STOP_ASKED: WorkerState.DRAINING,
        StateChange.DRAINED: WorkerState.STOPPED,
    },
    WorkerState.RUNNING: {
        StateChange.BROKER_LOST: WorkerState.WAITING,
        StateChange.CRASHED: WorkerState.BACKING_OFF,
        StateChange.GAVE_UP: WorkerState.FAILED,
        StateChange.STOP_ASKED: WorkerState.DRAINING,
        StateChange.DRAINED: WorkerState.STOPPED,  # it ended by itself: run until idle
    },
    WorkerState.WAITING: {
        StateChange.RETRIED: WorkerState.STARTING,
        StateChange.BROKER_LOST: WorkerState.WAITING,
        StateChange.CRASHED: WorkerState.BACKING_OFF,
        StateChange.GAVE_UP: WorkerState.FAILED,
        StateChange.DRAINED: WorkerState.STOPPED,
        StateChange.STOP_ASKED: WorkerState.DRAINING,
    },
    WorkerState.BACKING_OFF: {
        StateChange.RETRIED: WorkerState.STARTING,
        StateChange.STOP_ASKED: WorkerState.DRAINING,
    },
    WorkerState.DRAINING: {
        StateChange.DRAINED: WorkerState.STOPPED,
        StateChange.CRASHED: WorkerState.STOPPED,
        StateChange.BROKER_LOST: WorkerState.STOPPED,
        StateChange.GAVE_UP: WorkerState.STOPPED,
        StateChange.STOP_ASKED: WorkerState.DRAINING,
    },
    WorkerState.STOPPED: {},
    WorkerState.FAILED: {StateChange.STOP_ASKED: WorkerState.FAILED},
}


def advance(state: WorkerState, change: StateChange) -> WorkerState:
    """The state after `change`.

    Raises:
        ValueError: the table does not allow `change` in `state`; a defect of the runtime.
    """
    try:
        return TRANSITIONS[state][change]
    except KeyError:
        raise ValueError(f"{change.name} cannot happen in {state.name}") from None


ALIVE = frozenset(
    {WorkerState.STARTING, WorkerState.RUNNING, WorkerState.WAITING, WorkerState.BACKING_OFF, WorkerState.DRAINING}
)
"""Not ended."""
READY = frozenset({WorkerState.RUNNING})
"""Consuming."""
