"""One place for a worker process, across the processes that fill it one after the other.

The life of a place is the table `MOVES`; the parent acts, this only remembers.
"""

import socket
from enum import Enum, auto
from typing import Final

from hexa_worker.core.restart import RestartIntensity
from hexa_worker.processes.spawn import Spawned
from hexa_worker.processes.wire import Inbox, Misconfigured
from hexa_worker.telemetry.report import Report


class Phase(Enum):
    """Where a place is in its life."""

    WAITING = auto()  # empty; to be filled now or when the delay is over
    BOOTING = auto()  # a process starts: imports, lifespan
    UP = auto()  # it has booted; its loop must answer
    STOPPING = auto()  # it was asked to stop
    ENDED = auto()  # empty for good: idle, stopped
    FAILED = auto()  # empty for good: given up, or it cannot boot


class Move(Enum):
    """What can happen to it."""

    SPAWNED = auto()
    BOOTED = auto()
    ASKED = auto()  # to stop
    RESTART = auto()  # its process is gone, another one comes
    END = auto()
    FAIL = auto()
    REVIVE = auto()  # an operator asked for a new try


MOVES: Final[dict[Phase, dict[Move, Phase]]] = {
    Phase.WAITING: {
        Move.SPAWNED: Phase.BOOTING,
        Move.RESTART: Phase.WAITING,  # it could not be spawned
        Move.ASKED: Phase.ENDED,
        Move.FAIL: Phase.FAILED,
    },
    Phase.BOOTING: {
        Move.BOOTED: Phase.UP,
        Move.ASKED: Phase.STOPPING,
        Move.RESTART: Phase.WAITING,
        Move.END: Phase.ENDED,
        Move.FAIL: Phase.FAILED,
    },
    Phase.UP: {
        Move.ASKED: Phase.STOPPING,
        Move.RESTART: Phase.WAITING,
        Move.END: Phase.ENDED,
        Move.FAIL: Phase.FAILED,
    },
    Phase.STOPPING: {
        Move.ASKED: Phase.STOPPING,  # more urgently
        Move.BOOTED: Phase.STOPPING,
        Move.RESTART: Phase.WAITING,  # a rolling restart
        Move.END: Phase.ENDED,
        Move.FAIL: Phase.FAILED,
    },
    Phase.ENDED: {Move.ASKED: Phase.ENDED, Move.REVIVE: Phase.WAITING},
    Phase.FAILED: {Move.ASKED: Phase.FAILED, Move.REVIVE: Phase.WAITING},
}
OCCUPIED: Final = frozenset({Phase.BOOTING, Phase.UP, Phase.STOPPING})
"""A process is in it."""
OVER: Final = frozenset({Phase.ENDED, Phase.FAILED})


class Slot:
    """See the module.

    Attributes:
        number: its number.
        phase: where it is in its life.
        intensity: its restarts.
        pid: its process; 0 when empty.
        connection: the socket to it.
        inbox: frames of it.
        report: its latest report.
        booted: its process has booted; it stays so when a subscription is restarted.
        announced: it was said that its process is ready.
        booted_once: some process of this place has booted since the parent started.
        misconfigured: what the present process said is wrong with the configuration.
        heard_at: when its loop last answered, or when it was spawned.
        spawn_at: when an empty place is filled.
        kill_at: when the process gets SIGKILL; None: not planned.
        killed_for: why it gets SIGKILL; empty: it does not.
        overdue: it gets SIGKILL only because it did not stop in time: nobody is to blame.
        stop_level: how urgently it was asked to stop: 0, 1 or 2.
        restart_when_gone: it was asked to stop only to be started anew.
        restarts: how many processes filled it, less one.
    """

    def __init__(self, number: int, intensity: RestartIntensity, now: float) -> None:
        self.number = number
        self.phase = Phase.WAITING
        self.intensity = intensity
        self.pid = 0
        self.connection: socket.socket | None = None
        self.inbox = Inbox()
        self.report = Report()
        self.booted = self.announced = False
        self.booted_once = False
        self.misconfigured: Misconfigured | None = None
        self.heard_at = now
        self.spawn_at = now
        self.kill_at: float | None = None
        self.killed_for = ""
        self.overdue = False
        self.stop_level = 0
        self.restart_when_gone = False
        self.restarts = -1

    def move(self, move: Move) -> None:
        """Follow the table.

        Raises:
            ValueError: the table does not allow it; a defect of the parent.
        """
        try:
            self.phase = MOVES[self.phase][move]
        except KeyError:
            raise ValueError(f"{move.name} cannot happen in {self.phase.name}") from None

    @property
    def occupied(self) -> bool:
        """A process is in it."""
        return self.phase in OCCUPIED

    @property
    def ready(self) -> bool:
        """Its process is up and every subscription consumes."""
        return self.phase is Phase.UP and self.report.ready

    def fill(self, spawned: Spawned, now: float) -> None:
        """A process was spawned."""
        self.pid, self.connection = spawned
        self.inbox, self.report, self.misconfigured = Inbox(), Report(), None
        self.heard_at, self.kill_at, self.killed_for = now, None, ""
        self.booted = self.announced = self.overdue = False
        self.stop_level, self.restart_when_gone = 0, False
        self.restarts += 1
        self.move(Move.SPAWNED)

    def tell(self, report: Report) -> None:
        """Its process reports."""
        self.report = report
        if report.booted:
            self.booted = self.booted_once = True
            if self.phase is Phase.BOOTING:
                self.move(Move.BOOTED)

    def clear(self) -> None:
        """Its process is gone."""
        self.pid = 0
        self.report = Report()
        self.kill_at = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None
