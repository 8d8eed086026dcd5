"""The life of one subscription's worker, as a table.

A worker never leaves `FAILED` or `STOPPED`; a restart by the supervisor is `BACKING_OFF` → `STARTING`.
"""

from enum import Enum, auto


class State(Enum):
    """Where a subscription's worker is in its life."""

    STARTING = auto()
    RUNNING = auto()
    WAITING = auto()  # its broker is away: not a failure, tried again for ever
    BACKING_OFF = auto()
    DRAINING = auto()
    STOPPED = auto()
    FAILED = auto()


class Change(Enum):
    """What can happen to it."""

    STARTED = auto()
    BROKER_LOST = auto()
    RETRIED = auto()  # the wait before a new start is over
    CRASHED = auto()
    GAVE_UP = auto()  # restart intensity exceeded
    STOP_ASKED = auto()
    DRAINED = auto()


TRANSITIONS: dict[State, dict[Change, State]] = {
    State.STARTING: {
        Change.STARTED: State.RUNNING,
        Change.BROKER_LOST: State.WAITING,
        Change.CRASHED: State.BACKING_OFF,
        Change.GAVE_UP: State.FAILED,
        Change.STOP_ASKED: State.DRAINING,
        Change.DRAINED: State.STOPPED,
    },
    State.RUNNING: {
        Change.BROKER_LOST: State.WAITING,
        Change.CRASHED: State.BACKING_OFF,
        Change.GAVE_UP: State.FAILED,
        Change.STOP_ASKED: State.DRAINING,
        Change.DRAINED: State.STOPPED,  # it ended by itself: run until idle
    },
    State.WAITING: {
        Change.RETRIED: State.STARTING,
        Change.BROKER_LOST: State.WAITING,
        Change.CRASHED: State.BACKING_OFF,
        Change.GAVE_UP: State.FAILED,
        Change.DRAINED: State.STOPPED,
        Change.STOP_ASKED: State.DRAINING,
    },
    State.BACKING_OFF: {
        Change.RETRIED: State.STARTING,
        Change.STOP_ASKED: State.DRAINING,
    },
    State.DRAINING: {
        Change.DRAINED: State.STOPPED,
        Change.CRASHED: State.STOPPED,
        Change.BROKER_LOST: State.STOPPED,
        Change.GAVE_UP: State.STOPPED,
        Change.STOP_ASKED: State.DRAINING,
    },
    State.STOPPED: {},
    State.FAILED: {Change.STOP_ASKED: State.FAILED},
}


def advance(state: State, change: Change) -> State:
    """The state after `change`.

    Raises:
        ValueError: the table does not allow `change` in `state`; a defect of the runtime.
    """
    try:
        return TRANSITIONS[state][change]
    except KeyError:
        raise ValueError(f"{change.name} cannot happen in {state.name}") from None


ALIVE = frozenset({State.STARTING, State.RUNNING, State.WAITING, State.BACKING_OFF, State.DRAINING})
"""Not ended."""
READY = frozenset({State.RUNNING})
"""Consuming."""
