"""The parent's loop body: fills slots, listens to children, restarts, stops and kills them.

Synchronous and without threads: every method returns at once. `hexa_worker.processes.parent` waits.
"""

import logging
import os
import selectors
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from hexa_worker.core.restart import RestartIntensity, RestartPolicy
from hexa_worker.errors import ConfigError
from hexa_worker.processes.arguments import CANCEL_SIGNAL, STACK_SIGNAL, STOP_SIGNAL, Arguments
from hexa_worker.processes.autopsy import Death, Finding, examine
from hexa_worker.processes.layout import Layout
from hexa_worker.processes.overview import Overview, overview
from hexa_worker.processes.rolling import Rolling
from hexa_worker.processes.slot import OVER, Move, Phase, Slot
from hexa_worker.processes.spawn import Command, Spawned, instruct, spawn
from hexa_worker.processes.suspects import SuspectsBook
from hexa_worker.processes.totals import Totals
from hexa_worker.processes.wire import Frame, Misconfigured, Settled, Told, WireError
from hexa_worker.telemetry.log import FIELDS

STOP_MARGIN_S: Final = 10.0
"""Beyond shutdown_grace_s: settling, closing, the lifespan's end."""
CANCEL_LIMIT_S: Final = 5.0
BOOT_LIMIT_S: Final = 120.0
"""A process that has not booted after this long (or four times watchdog_s) hangs."""
STACK_S: Final = 0.3
"""How long a blocked process has to write its stacks before it is killed."""
MAX_PROCESSES: Final = 1024
READ_SIZE: Final = 256 * 1024

log = logging.getLogger("hexa_worker.processes")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool behaves; see `hexa_worker.config.model.Worker` and `Arguments`."""

    arguments: Arguments
    command: Command
    restart: RestartPolicy
    watchdog_s: float
    grace_s: float
    until_idle: bool


class Pool:
    """All slots of one parent.

    Args:
        rules: how it behaves.
        processes: how many slots it starts with.
        layout: the worker's files.
        book: where crashes are counted.
        selector: the pool registers its children's sockets with their slot as data.
        monotonic: the clock of all deadlines.
        first: a child that was spawned already and waits for its arguments.

    Attributes:
        slots: by number.
        totals: counters of dead processes.
        lock: held while a process moves from `slots` to `totals`.
        stop_level: how urgently everything was asked to stop: 0, 1 or 2.
        failed: something went wrong that the exit code must tell.
        config_error: nothing can run with this configuration.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        rules: Rules,
        processes: int,
        layout: Layout,
        book: SuspectsBook,
        selector: selectors.BaseSelector,
        monotonic: Callable[[], float],
        first: Spawned | None = None,
    ) -> None:
        self.slots: dict[int, Slot] = {}
        self.totals = Totals()
        self.lock = threading.Lock()
        self.stop_level = 0
        self.failed = False
        self.config_error: ConfigError | None = None
        self._rules = rules
        self._layout = layout
        self._book = book
        self._selector = selector
        self._monotonic = monotonic
        self._first = first
        self._rolling = Rolling()
        self._surveyed = False
        for _ in range(processes):
            self._add_slot()

    # -- what the loop calls

    @property
    def over(self) -> bool:
        """No process runs and none will."""
        return all(slot.phase in OVER for slot in self.slots.values())

    def advance(self) -> float | None:
        """Do what is due; returns the seconds until the next thing is (None: nothing is planned)."""
        now = self._monotonic()
        self._roll(now)
        due: list[float] = []
        for slot in self.slots.values():
            if slot.phase is Phase.WAITING and slot.spawn_at <= now:
                self._spawn(slot, now)
            if slot.occupied:
                self._watch(slot, now)
            due += self._dues(slot)
        return max(min(due) - now, 0.0) if due else None

    def hear(self, slot: Slot) -> None:
        """The socket of a child is readable."""
        connection = slot.connection
        if connection is None:
            return
        try:
            data = connection.recv(READ_SIZE)
            frames = slot.inbox.feed(data)
        except BlockingIOError:
            return
        except (OSError, WireError) as error:
            self._cut_off(slot, str(error))
            return
        slot.heard_at = self._monotonic()
        for frame in frames:
            self._understand(slot, frame)
        if not data:
            self._cut_off(slot, "")

    def reap(self) -> None:
        """Look after every child that has died."""
        for slot in list(self.slots.values()):
            if not slot.pid:
                continue
            try:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it: how it died is lost
                pid, status = slot.pid, signal.SIGKILL
            if pid:
                self._bury(slot, os.waitstatus_to_exitcode(status))
        if os.getpid() == 1:
            _reap_orphans({slot.pid for slot in self.slots.values()})

    def forgive_silence(self) -> None:
        """The parent itself was stalled: no child is to blame for what it did not hear."""
        now = self._monotonic()
        for slot in self.slots.values():
            slot.heard_at = now

    def look(self) -> Overview:
        """How everything stands. From any thread."""
        with self.lock:
            name, slots = self._rules.arguments.name, list(self.slots.values())
            return overview(name, slots, self.totals, len(self._book.suspicions), self.stop_level)

    # -- what an operator asks for

    def stop(self) -> None:
        """Drain everything; asked again: cancel; once more: kill."""
        self._rolling.abandon()
        if self.stop_level == 2:  # noqa: PLR2004 - levels are defined in Slot
            for slot in self.slots.values():
                self._kill(slot, "a third stop signal")
            return
        self.stop_level += 1
        for slot in self.slots.values():
            self._ask(slot, self.stop_level)

    def restart_all(self) -> None:
        """Restart one process after the other."""
        if not self.stop_level:
            log.info("rolling restart of %d processes", len(self.slots))
            self._surveyed = False
            self._rolling.begin(self.slots)

    def scale(self, change: int) -> None:
        """One process more or less."""
        if self.stop_level:
            return
        running = [slot for slot in self.slots.values() if slot.phase is not Phase.ENDED and slot.stop_level == 0]
        if not 1 <= len(running) + change <= MAX_PROCESSES:
            log.warning("the number of processes stays at %d", len(running))
            return
        log.info("scaling to %d processes", len(running) + change)
        if change > 0:
            self._add_slot()
        else:
            self._ask(running[-1], 1)

    # -- a slot's life

    def _add_slot(self) -> None:
        for number, slot in list(self.slots.items()):
            if slot.phase is Phase.ENDED:
                del self.slots[number]
        number = next(number for number in range(len(self.slots) + 1) if number not in self.slots)
        self.slots[number] = Slot(number, RestartIntensity(self._rules.restart), self._monotonic())
        self.slots = dict(sorted(self.slots.items()))

    def _spawn(self, slot: Slot, now: float) -> None:
        arguments = msgspec.structs.replace(self._rules.arguments, slot=slot.number, survey=not self._surveyed)
        try:
            spawned, self._first = self._first or spawn(self._rules.command), None
            instruct(spawned, arguments)
        except OSError as error:
            log.error("cannot start a worker process: %s", error, extra={FIELDS: {"slot": slot.number}})  # noqa: TRY400
            self._restart_later(slot)
            return
        self._surveyed = True
        slot.fill(spawned, now)
        self._selector.register(spawned.connection, selectors.EVENT_READ, slot)

    def _understand(self, slot: Slot, frame: Frame) -> None:
        if isinstance(frame, Told):
            slot.tell(frame.report)
            if slot.ready and not slot.announced:
                slot.announced = True
                log.info("worker process is ready", extra={FIELDS: {"slot": slot.number, "pid": slot.pid}})
        elif isinstance(frame, Misconfigured):
            slot.misconfigured = frame
        elif isinstance(frame, Settled):
            self._book.forget(frame.hands)

    def _cut_off(self, slot: Slot, why: str) -> None:
        """Nothing more will be heard of a child: it is dead or as good as that."""
        if slot.connection is not None:
            self._selector.unregister(slot.connection)
            slot.connection.close()
            slot.connection = None
        if why:
            self._kill(slot, f"it writes to the parent's socket what is no report ({why})")

    def _bury(self, slot: Slot, code: int) -> None:
        """A child has died: hear its last words, find out why, decide what comes next."""
        while slot.connection is not None:
            self.hear_last(slot)
        death = examine(slot, code, self._layout)
        blamed = self._book.record(death.remains) if death.blames else {}
        death.log(slot, blamed, until_idle=self._rules.until_idle)
        with self.lock:  # or somebody who looks meanwhile would count it twice, or not at all
            self.totals.bury(slot.report)
            slot.clear()
        self._decide(slot, death, progress=bool(blamed))

    def hear_last(self, slot: Slot) -> None:
        """Read what a dead child has left in its socket, and close it."""
        connection = slot.connection
        assert connection is not None  # noqa: S101 - the caller looked
        try:
            for frame in slot.inbox.feed(connection.recv(READ_SIZE) or _raise_end()):
                self._understand(slot, frame)
        except (OSError, WireError, EOFError):
            self._cut_off(slot, "")

    def _decide(self, slot: Slot, death: Death, *, progress: bool) -> None:
        if slot.restart_when_gone and not self.stop_level:
            slot.spawn_at = self._monotonic()
            slot.move(Move.RESTART)
        elif slot.stop_level:
            self.failed = self.failed or death.finding not in (Finding.DONE, Finding.STOPPED)
            slot.move(Move.END)
        elif death.finding is Finding.MISCONFIGURED:
            self._misconfigured(slot, death)
        elif self._rules.until_idle and death.finding in (Finding.DONE, Finding.FAILED):
            self.failed = self.failed or death.finding is Finding.FAILED
            slot.move(Move.END)
        else:
            self._restart_later(slot, progress=progress)

    def _restart_later(self, slot: Slot, *, progress: bool = False) -> None:
        """Plan another process, or give the slot up when it dies too often.

        With `progress` it is never given up: a crash that is blamed on deliveries brings them nearer to their dead
        letter, so a queue full of killers is worked off, if slowly.
        """
        now = self._monotonic()
        slot.intensity, delay_s = slot.intensity.record(now)
        if delay_s is None and progress:
            delay_s = self._rules.restart.maximum_delay_s
        if delay_s is None:
            fields = {"slot": slot.number, "next": "stop"}
            log.error("worker process keeps dying, given up", extra={FIELDS: fields})
            self.failed = True
            slot.move(Move.FAIL)
            if not self.stop_level:
                self.stop()
            return
        slot.spawn_at = now + delay_s
        slot.move(Move.RESTART)

    def _misconfigured(self, slot: Slot, death: Death) -> None:
        slot.move(Move.FAIL)
        self.failed = True
        others = any(one.booted_once and one.phase not in OVER for one in self.slots.values())
        if others:
            log.error("process cannot start, the others run on: %s", death.error, extra={FIELDS: {"slot": slot.number}})
        elif self.config_error is None:
            self.config_error = death.error
            if not self.stop_level:
                self.stop()

    # -- signals to children

    def _ask(self, slot: Slot, level: int) -> None:
        """Ask a child to stop."""
        slot.restart_when_gone = False
        if slot.phase in OVER:
            return
        slot.move(Move.ASKED)
        slot.stop_level = level
        if slot.pid:
            os.kill(slot.pid, STOP_SIGNAL if level == 1 else CANCEL_SIGNAL)
            limit_s = self._rules.grace_s + STOP_MARGIN_S if level == 1 else CANCEL_LIMIT_S
            slot.kill_at = self._monotonic() + limit_s
            slot.killed_for = ""

    def _kill(self, slot: Slot, why: str) -> None:
        if slot.pid:
            slot.killed_for = slot.killed_for or why
            os.kill(slot.pid, signal.SIGKILL)

    def _watch(self, slot: Slot, now: float) -> None:
        """Kill a child that does not end in time or whose loop is blocked."""
        if slot.kill_at is not None and now >= slot.kill_at:
            slot.kill_at = None
            slot.overdue = not slot.killed_for
            self._kill(slot, "it did not stop in time")
        elif not slot.killed_for and now - slot.heard_at > self._silence_s(slot):
            slot.killed_for = f"its loop has not answered for {now - slot.heard_at:.1f} s"
            os.kill(slot.pid, STACK_SIGNAL)
            slot.kill_at = now + STACK_S

    def _silence_s(self, slot: Slot) -> float:
        if slot.booted:
            return self._rules.watchdog_s
        return max(BOOT_LIMIT_S, 4 * self._rules.watchdog_s)

    def _dues(self, slot: Slot) -> Iterable[float]:
        if slot.phase is Phase.WAITING:
            yield slot.spawn_at
        elif slot.occupied:
            if slot.kill_at is not None:
                yield slot.kill_at
            if not slot.killed_for:
                yield slot.heard_at + self._silence_s(slot) + 0.001
        if self._rolling.deadline is not None:
            yield self._rolling.deadline

    # -- rolling restart

    def _roll(self, now: float) -> None:
        """Go on with a rolling restart: the next slot's turn comes when the present one is ready."""
        number = self._rolling.step(self.slots, now)
        if number is None:
            return
        slot = self.slots[number]
        if slot.phase in OVER:
            slot.move(Move.REVIVE)
            slot.spawn_at = now
        elif slot.occupied:
            self._ask(slot, 1)
            slot.restart_when_gone = True


def _raise_end() -> bytes:
    raise EOFError


def _reap_orphans(children: set[int]) -> None:
    """As process 1 of a container: wait for processes whose own parent has died; never for a child of ours."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in children:
            return
        os.waitpid(found.si_pid, 0)
