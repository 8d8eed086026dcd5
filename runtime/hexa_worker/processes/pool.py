"""The parent's loop body: fills slots, listens to children, restarts, stops and kills them.

Synchronous and without threads: every method returns at once. `hexa_worker.processes.parent` waits.
"""

import logging
import os
import selectors
import signal
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from hexa_worker.core.controls import AS_CONFIGURED, Controls
from hexa_worker.core.scrubbing import encodable, scrub
from hexa_worker.errors import ConfigError
from hexa_worker.processes.exit_analysis import ExitFinding, ProcessExit, examine, how
from hexa_worker.processes.protocol import (
    CANCEL_SIGNAL,
    STACK_SIGNAL,
    STOP_SIGNAL,
    DumpFrame,
    Frame,
    Misconfigured,
    SettledFrame,
    StatusFrame,
    WireError,
)
from hexa_worker.processes.reaping import reap, reap_orphans
from hexa_worker.processes.rolling import GiveUp, Reload, ReloadDone, ReloadState, Replace, Retire, Rolling
from hexa_worker.processes.slot import OVER, Move, Rules, Slot, SlotPhase
from hexa_worker.processes.spawn import Spawned, instruct, spawn
from hexa_worker.processes.state_files import StateFiles
from hexa_worker.processes.status.overview import Overview, overview
from hexa_worker.processes.status.rates import Rates
from hexa_worker.processes.status.totals import Totals
from hexa_worker.processes.suspects import CrashCounter
from hexa_worker.telemetry.log import FIELDS

STOP_MARGIN_S: Final = 10.0
"""Beyond shutdown_grace_s: settling, closing, the lifespan's end."""
CANCEL_LIMIT_S: Final = 5.0
STACK_S: Final = 0.3
"""How long a blocked process has to write its stacks before it is killed."""
MAX_PROCESSES: Final = 1024
READ_SIZE: Final = 256 * 1024

log = logging.getLogger("hexa_worker.processes")


class Pool:
    """All slots of one parent.

    Args:
        rules: how its processes are started and looked after, until a reload brings others.
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
        controls: what an operator wants of all processes.
        rates: how fast subscriptions are.
        reloading: the latest reload.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        rules: Rules,
        processes: int,
        layout: StateFiles,
        book: CrashCounter,
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
        self.controls = AS_CONFIGURED
        self.rates = Rates(monotonic)
        self._rules = rules
        self._layout = layout
        self._book = book
        self._selector = selector
        self._monotonic = monotonic
        self._first = first
        self._rolling = Rolling()
        self._reload: Reload | None = None
        self.reloading = ReloadState()
        self._inspected = False
        self._proven: Rules | None = None  # a process that followed these was ready
        self._turned_at = monotonic()
        for _ in range(processes):
            self._add_slot()

    # -- what the loop calls

    @property
    def over(self) -> bool:
        return all(slot.phase in OVER for slot in self.slots.values())

    def advance(self) -> float | None:
        """Do what is due; returns the seconds until the next thing is (None: nothing is planned)."""
        now = self._turned_at = self._monotonic()
        self._roll(now)
        due: list[float] = []
        for slot in self.slots.values():
            if slot.phase is SlotPhase.WAITING and slot.spawn_at <= now:
                self._spawn(slot, now)
            if slot.occupied:
                self._watch(slot, now)
            due += slot.dues()
        if self._rolling.deadline is not None:
            due.append(self._rolling.deadline)
        return max(min(due) - now, 0.0) if due else None

    def on_readable(self, slot: Slot) -> bool:
        """Read the socket of a child; whether there may be more."""
        connection = slot.connection
        if connection is None:
            return False
        try:
            data = connection.recv(READ_SIZE)
            frames = slot.inbox.feed(data)
        except BlockingIOError:
            return False
        except (OSError, WireError) as error:  # the socket of a dead child may be reset
            self._cut_off(slot, str(error) if isinstance(error, WireError) else "")
            return False
        slot.heard_at = self._monotonic()
        for frame in frames:
            self._understand(slot, frame)
        slot.control(self.controls)
        if not data:
            self._cut_off(slot, "")
        return bool(data)

    def reap(self) -> None:
        """Look after every child that has died."""
        for slot in list(self.slots.values()):
            if not slot.pid:
                continue
            code = reap(slot.pid)
            if code is not None:
                self._on_exit(slot, code)
        if os.getpid() == 1:
            reap_orphans({slot.pid for slot in self.slots.values()})

    def forgive_silence(self) -> None:
        """The parent itself was stalled: no child is to blame for what it did not hear."""
        now = self._monotonic()
        for slot in self.slots.values():
            slot.heard_at = now

    def look(self) -> Overview:
        """How everything stands. From any thread."""
        with self.lock:
            name, slots = self._rules.arguments.name, list(self.slots.values())
            # While there is a child it beats, and the loop turns.
            standing_s = self._monotonic() - self._turned_at if any(slot.pid for slot in slots) else 0.0
            suspects = len(self._book.suspicions)
            return overview(name, slots, self.totals, suspects, self.stop_level, standing_s)

    # -- what an operator asks for

    def stop(self) -> None:
        """Drain everything; asked again: cancel; once more: kill."""
        self._rolling.abandon()
        if self.reloading.state == "under way":
            self.reloading = msgspec.structs.replace(self.reloading, state="failed", reason="the worker stops")
        if self.stop_level == 2:  # noqa: PLR2004 - levels are defined in Slot
            for slot in self.slots.values():
                self._kill(slot, "a third stop signal")
            return
        self.stop_level += 1
        for slot in self.slots.values():
            self._ask(slot, self.stop_level)

    def reload(self, reload: Reload) -> None:
        """Replace one process after the other."""
        if self.stop_level:
            return
        before = self._reload
        if before is not None and before.rules is self._rules and reload.processes is None:
            # It was adopted and did not get as far as to their number.
            reload = msgspec.structs.replace(reload, processes=before.processes)
        running = self._running()
        kept = running if reload.processes is None else running[: reload.processes]
        log.info("reload: replacing %d processes", len(kept))
        self._inspected = False
        self._reload = reload
        self.reloading = ReloadState(number=self.reloading.number + 1, state="under way")
        superseded = self._rolling.begin(slot.number for slot in kept)
        if superseded is not None:
            self._ask(self.slots[superseded], 1)

    def refuse_reload(self, reason: str) -> None:
        """A reload was asked for and cannot begin."""
        reason = encodable(scrub(reason))
        if self.reloading.state != "under way":  # one that is goes on
            self.reloading = ReloadState(number=self.reloading.number + 1, state="failed", reason=reason)
        log.error("reload failed, what runs stays: %s", reason)

    def control(self, controls: Controls) -> None:
        """Have all processes do what an operator wants."""
        self.controls = controls
        for slot in self.slots.values():
            slot.control(controls)

    def ask_dump(self, number: int) -> None:
        """Have all processes say what their lanes do; `Slot.dump` has their answers."""
        for slot in self.slots.values():
            slot.ask_dump(number)

    def scale(self, change: int) -> None:
        if self.stop_level:
            return
        count = len(self._running())
        if 1 <= count + change <= MAX_PROCESSES:
            self.resize(count + change)
        else:
            log.warning("the number of processes stays at %d", count)

    def resize(self, processes: int) -> None:
        """Have so many processes from now on, 1 to `MAX_PROCESSES`."""
        log.info("scaling to %d processes", processes)
        self._resize(processes)

    @property
    def processes(self) -> int:
        """How many are here to stay."""
        return len(self._running())

    @property
    def settled(self) -> bool:
        """All processes that are here to stay are ready, and no other is left."""
        slots = self.slots.values()
        return all(slot.ready and not slot.candidate for slot in slots if slot.phase is not SlotPhase.ENDED)

    def _running(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if not slot.retiring and not slot.candidate]

    # -- a slot's life

    def _add_slot(self, rules: Rules | None = None) -> Slot:
        """One slot more; with `rules` a candidate's."""
        for number, slot in list(self.slots.items()):
            if slot.phase is SlotPhase.ENDED:
                del self.slots[number]
        number = next(number for number in range(len(self.slots) + 1) if number not in self.slots)
        slot = Slot(number, rules or self._rules, self._monotonic(), candidate=rules is not None)
        self.slots = dict(sorted([*self.slots.items(), (number, slot)]))
        return slot

    def _spawn(self, slot: Slot, now: float) -> None:
        if not slot.candidate:
            slot.rules = self._rules
        arguments = msgspec.structs.replace(
            slot.rules.arguments,
            slot=slot.number,
            preflight=not self._inspected,
            proven=slot.rules is self._proven,
            controls=self.controls,
        )
        try:
            spawned, self._first = self._first or spawn(slot.rules.command), None
            instruct(spawned, arguments)
        except OSError as error:
            self._not_spawned(slot, f"cannot start a worker process: {error}")
            return
        self._inspected = True
        slot.fill(spawned, now)
        slot.told = arguments.controls.revision
        self._selector.register(spawned.connection, selectors.EVENT_READ, slot)

    def _not_spawned(self, slot: Slot, why: str) -> None:
        if slot.candidate:
            slot.move(Move.ASKED)
            self._reload_failed(why)
            return
        log.error("%s", why, extra={FIELDS: {"slot": slot.number}})
        self._restart_later(slot, progress=True)  # the machine is to blame, and may have room again

    def _understand(self, slot: Slot, frame: Frame) -> None:
        if isinstance(frame, StatusFrame):
            slot.tell(frame.report)
            self.rates.note(self._handled)
            if slot.ready and slot.rules is self._rules:
                self._proven = self._rules
            if slot.ready and not slot.announced:
                slot.announced = True
                log.info("worker process is ready", extra={FIELDS: {"slot": slot.number, "pid": slot.pid}})
        elif isinstance(frame, Misconfigured):
            slot.misconfigured = frame
        elif isinstance(frame, DumpFrame):
            slot.dump = frame
        elif isinstance(frame, SettledFrame):
            self._book.forget(frame.hands)

    def _handled(self) -> dict[str, int]:
        sums = self.totals.sums(slot.report for slot in self.slots.values())
        return {action: total.counters.acked + total.counters.dropped for action, total in sums.items()}

    def _cut_off(self, slot: Slot, why: str) -> None:
        """Nothing more will be heard of a child: it is dead or as good as that."""
        if slot.connection is not None:
            self._selector.unregister(slot.connection)
            slot.connection.close()
            slot.connection = None
        if why:
            self._kill(slot, f"it writes to the parent's socket what is no report ({why})")

    def _on_exit(self, slot: Slot, code: int) -> None:
        """A child has died: hear its last words, find out why, decide what comes next."""
        while self.on_readable(slot):
            pass
        self._cut_off(slot, "")
        death = examine(slot, code, self._layout)
        blamed = self._book.record(death.remains, slot.killed_for or how(code)) if death.blames else {}
        if not slot.candidate:
            death.log(slot, blamed, until_idle=self._rules.until_idle)
        with self.lock:  # or somebody who looks meanwhile would count it twice, or not at all
            self.totals.on_exit(slot.report)
            slot.clear()
        self._decide(slot, death, progress=bool(blamed))

    def _decide(self, slot: Slot, death: ProcessExit, *, progress: bool) -> None:
        if slot.candidate:
            self._candidate_died(slot, death)
        elif slot.stop_level:
            self.failed = self.failed or death.finding not in (ExitFinding.DONE, ExitFinding.STOPPED)
            slot.move(Move.END)
        elif death.finding is ExitFinding.MISCONFIGURED:
            self._misconfigured(slot, death)
        elif self._rules.until_idle and death.finding in (ExitFinding.DONE, ExitFinding.FAILED):
            self.failed = self.failed or death.finding is ExitFinding.FAILED
            slot.move(Move.END)
        else:
            self._restart_later(slot, progress=progress)

    def _restart_later(self, slot: Slot, *, progress: bool = False) -> None:
        """Plan another process, or give the slot up when it dies too often.

        With `progress` it is never given up. A crash that is blamed on deliveries brings them nearer to their dead
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

    def _misconfigured(self, slot: Slot, death: ProcessExit) -> None:
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
        if slot.phase in OVER:
            return
        slot.move(Move.ASKED)
        slot.stop_level = level
        if slot.pid:
            os.kill(slot.pid, STOP_SIGNAL if level == 1 else CANCEL_SIGNAL)
            limit_s = slot.rules.grace_s + STOP_MARGIN_S if level == 1 else CANCEL_LIMIT_S
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
        elif not slot.killed_for and now - slot.heard_at > slot.silence_s:
            slot.killed_for = f"its loop was blocked, it has not answered for {now - slot.heard_at:.1f} s"
            slot.ask_who_blocks()
            os.kill(slot.pid, STACK_SIGNAL)
            slot.kill_at = now + STACK_S

    # -- reload

    def _roll(self, now: float) -> None:
        while (step := self._rolling.step(self.slots, now)) is not None:
            reload = self._reload
            assert reload is not None  # noqa: S101 - there is no step without one
            match step:
                case Replace():
                    self._rolling.started(self._add_slot(reload.rules).number, now)
                case Retire(successor, old):
                    self._succeed(self.slots[successor], old, reload)
                case GiveUp(successor, reason):
                    self._ask(self.slots[successor], 1)
                    self._reload_failed(reason)
                case ReloadDone():
                    self._resize(reload.processes)
                    self._reload = None
                    self.reloading = msgspec.structs.replace(self.reloading, state="done")
                    log.info("reload done")

    def _resize(self, processes: int | None) -> None:
        running = self._running()
        wanted = len(running) if processes is None else processes
        # First go those that could not start, then those of before a reload; never one whose successor will stay.
        replacing = self._rolling.replacing
        running.sort(
            key=lambda slot: (slot.number != replacing, slot.phase is SlotPhase.FAILED, slot.rules is not self._rules)
        )
        for slot in running[wanted:]:
            if slot.phase is SlotPhase.FAILED:
                del self.slots[slot.number]
            else:
                self._ask(slot, 1)
        for _ in range(wanted - len(running)):
            self._add_slot()

    def _succeed(self, successor: Slot, old: int, reload: Reload) -> None:
        """A successor is ready: what is new has proved itself."""
        if self._rules is not reload.rules:
            self._rules = reload.rules
            reload.adopt()
        successor.candidate = False
        replaced = self.slots.get(old)  # it may have ended meanwhile, and its place been cleared
        if replaced is None:
            return
        if replaced.phase in OVER:
            del self.slots[old]
        else:
            self._ask(replaced, 1)

    def _candidate_died(self, slot: Slot, death: ProcessExit) -> None:
        # One that was asked to stop belongs to a reload that is over; another one may be under way.
        asked = slot.stop_level > 0 or (self._rules.until_idle and death.finding is ExitFinding.DONE)
        slot.move(Move.END)
        if asked:
            return
        if not (death.killed_by_others(slot) and self._rolling.try_again()):
            self._reload_failed(
                str(death.error) if death.error is not None else f"the new process {death.ending(slot)}"
            )

    def _reload_failed(self, reason: str) -> None:
        reason = encodable(scrub(reason))
        self.reloading = msgspec.structs.replace(self.reloading, state="failed", reason=reason)
        log.error("reload failed, what runs stays: %s", reason)
        self._rolling.abandon()
