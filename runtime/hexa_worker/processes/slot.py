"""One place for a worker process, across the processes that fill it one after the other.

The life of a place is the table `MOVES`; the parent acts, this only remembers.
"""

import socket
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

import msgspec

from hexa_worker.core.controls import Controls
from hexa_worker.core.restart import RestartIntensity, RestartPolicy
from hexa_worker.processes.protocol import (
    FRAMES,
    Arguments,
    ControlsOrder,
    DumpFrame,
    DumpOrder,
    Frame,
    Inbox,
    Link,
    Misconfigured,
    WhoBlocks,
)
from hexa_worker.processes.spawn import Command, Spawned
from hexa_worker.telemetry.report import Report


class SlotPhase(Enum):
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


MOVES: Final[dict[SlotPhase, dict[Move, SlotPhase]]] = {
    SlotPhase.WAITING: {
        Move.SPAWNED: SlotPhase.BOOTING,
        Move.RESTART: SlotPhase.WAITING,  # it could not be spawned
        Move.ASKED: SlotPhase.ENDED,
        Move.FAIL: SlotPhase.FAILED,
    },
    SlotPhase.BOOTING: {
        Move.BOOTED: SlotPhase.UP,
        Move.ASKED: SlotPhase.STOPPING,
        Move.RESTART: SlotPhase.WAITING,
        Move.END: SlotPhase.ENDED,
        Move.FAIL: SlotPhase.FAILED,
    },
    SlotPhase.UP: {
        Move.ASKED: SlotPhase.STOPPING,
        Move.RESTART: SlotPhase.WAITING,
        Move.END: SlotPhase.ENDED,
        Move.FAIL: SlotPhase.FAILED,
    },
    SlotPhase.STOPPING: {
        Move.ASKED: SlotPhase.STOPPING,  # more urgently
        Move.BOOTED: SlotPhase.STOPPING,
        Move.END: SlotPhase.ENDED,
        Move.FAIL: SlotPhase.FAILED,
    },
    SlotPhase.ENDED: {Move.ASKED: SlotPhase.ENDED},
    SlotPhase.FAILED: {Move.ASKED: SlotPhase.FAILED},
}
BOOT_LIMIT_S: Final = 120.0
"""A process that has not booted after this long (or four times watchdog_s) hangs."""
OCCUPIED: Final = frozenset({SlotPhase.BOOTING, SlotPhase.UP, SlotPhase.STOPPING})
"""A process is in it."""
OVER: Final = frozenset({SlotPhase.ENDED, SlotPhase.FAILED})


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a process is started and looked after; see `hexa_worker.config.model.Worker` and `Arguments`."""

    arguments: Arguments
    command: Command
    restart: RestartPolicy
    watchdog_s: float
    grace_s: float
    until_idle: bool


class Slot:
    """See the module.

    Attributes:
        number: its number.
        rules: of its process.
        candidate: its process is to replace another one and was not ready yet.
        phase: where it is in its life.
        intensity: its restarts.
        pid: its process; 0 when empty.
        connection: the socket to it.
        inbox: frames of it.
        report: its latest report.
        dump: what its lanes did when that was last asked.
        told: the revision of the controls that its process was told.
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
        restarts: how many processes filled it, less one.
    """

    def __init__(self, number: int, rules: Rules, now: float, *, candidate: bool = False) -> None:
        self.number = number
        self.rules = rules
        self.candidate = candidate
        self.phase = SlotPhase.WAITING
        self.intensity = RestartIntensity(rules.restart)
        self.pid = 0
        self.connection: socket.socket | None = None
        self.inbox: Inbox[Frame] = Inbox(FRAMES)
        self.report = Report()
        self.told = 0
        self.dump: DumpFrame | None = None
        self._link: Link | None = None
        self.booted = self.announced = False
        self.booted_once = False
        self.misconfigured: Misconfigured | None = None
        self.heard_at = now
        self.spawn_at = now
        self.kill_at: float | None = None
        self.killed_for = ""
        self.overdue = False
        self.stop_level = 0
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
        return self.phase in OCCUPIED

    @property
    def retiring(self) -> bool:
        """It was asked to stop, or has ended."""
        return self.stop_level > 0 or self.phase is SlotPhase.ENDED

    @property
    def ready(self) -> bool:
        """Its process is up and every subscription consumes."""
        return self.phase is SlotPhase.UP and self.report.ready

    @property
    def silence_s(self) -> float:
        """How long its loop may be silent."""
        return self.rules.watchdog_s if self.booted else max(BOOT_LIMIT_S, 4 * self.rules.watchdog_s)

    def dues(self) -> Iterator[float]:
        """When something has to be done about it."""
        if self.phase is SlotPhase.WAITING:
            yield self.spawn_at
        elif self.occupied:
            if self.kill_at is not None:
                yield self.kill_at
            if not self.killed_for:
                yield self.heard_at + self.silence_s + 0.001

    def fill(self, spawned: Spawned, now: float) -> None:
        self.pid, self.connection = spawned
        self._link = Link(spawned.connection)
        self.inbox, self.report, self.misconfigured = Inbox(FRAMES), Report(), None
        self.dump = None
        self.heard_at, self.kill_at, self.killed_for = now, None, ""
        self.booted = self.announced = self.overdue = False
        self.stop_level = 0
        self.restarts += 1
        self.move(Move.SPAWNED)

    def tell(self, report: Report) -> None:
        self.report = report
        if report.booted:
            self.booted = self.booted_once = True
            if self.phase is SlotPhase.BOOTING:
                self.move(Move.BOOTED)

    def ask_who_blocks(self) -> None:
        """Let its process say which delivery blocks its loop, if it can, see `hexa_worker.processes.parent_watch`."""
        if self._link is not None:
            self._link.send(WhoBlocks())

    def ask_dump(self, number: int) -> None:
        """Let its process say what its lanes do, if it can."""
        if self._link is not None:
            self._link.send(DumpOrder(number))

    def control(self, controls: Controls) -> None:
        """Tell its process what an operator wants, unless it knows; as long as it does not read, again later."""
        if self._link is None:
            return
        if self.told < controls.revision and self._link.send(ControlsOrder(controls)):
            self.told = controls.revision
        self._link.push()

    def clear(self) -> None:
        self.pid = 0
        self._link = None
        self.report = Report()
        self.kill_at = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None
