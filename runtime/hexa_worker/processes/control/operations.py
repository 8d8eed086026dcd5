"""What is asked on the control socket is done here: accepted, kept in the history, looked after to its end."""

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, assert_never

from hexa_worker.core.controls import Controls, LogLevel
from hexa_worker.processes.control.messages import (
    Accepted,
    AskDump,
    Asked,
    AskHistory,
    AskStatus,
    Change,
    Done,
    Drain,
    PauseAction,
    Refused,
    Reply,
    Restart,
    ResumeAction,
    Scale,
    SetConcurrency,
    SetLogLevel,
)
from hexa_worker.processes.control.state import ControlState, History, HistoryEntry, read_state, write_state
from hexa_worker.processes.control.worker_status import process_dump, worker_status
from hexa_worker.processes.pool import Pool
from hexa_worker.processes.slot import SlotPhase
from hexa_worker.telemetry.configure import set_level
from hexa_worker.telemetry.log import FIELDS

LIMIT_S: Final = 5.0
"""A process that has not done it after so long is named."""
DUMP_S: Final = 1.0
"""So long a process may take to say what its lanes do."""
SCALE_LIMIT_S: Final = 120.0
MAX_PENDING: Final = 64

log = logging.getLogger("hexa_worker.processes")

Answer = Callable[[Reply], None]


class Pending(NamedTuple):
    """A request that was accepted and is not done.

    Attributes:
        number: in the history; 0: not kept there.
        deadline: when it has failed; infinity: it ends by itself.
        look: what became of it; None: nothing yet.
        late: what is said of it after its deadline.
        answer: to who has asked.
    """

    number: int
    deadline: float
    look: Callable[[], Done | None]
    late: Callable[[], str]
    answer: Answer


class Operations:
    """Everything that an operator has asked of one worker.

    Args:
        pool: its processes.
        path: what is kept across restarts.
        reload: begins a reload.
        monotonic: the clock of deadlines.

    Raises:
        ConfigError: what is kept cannot be read.
    """

    def __init__(self, pool: Pool, path: Path, reload: Callable[[], None], monotonic: Callable[[], float]) -> None:
        state = read_state(path)
        self._pool = pool
        self._path = path
        self._reload = reload
        self._monotonic = monotonic
        self._history = History(state.number, state.history)
        self._pending: list[Pending] = []
        self._dumps = 0
        pool.control(Controls(revision=1, paused=state.paused))
        for action, pause in state.paused.items():
            what = "" if pause.whole else f" with {len(pause.keys)} of its keys"
            log.warning("%s is paused%s, since before this start", action, what)

    # -- what the server calls

    def ask(self, asked: Asked, by: str, answer: Answer) -> None:
        """Do it, or begin to; `answer` is called now and perhaps again later."""
        if isinstance(asked, AskStatus):
            answer(Done(ok=True, data=worker_status(self._pool, self._history.entries())))
        elif isinstance(asked, AskHistory):
            answer(Done(ok=True, data=self._history.entries()))
        elif len(self._pending) >= MAX_PENDING:
            answer(Refused(code="limit", message=f"{MAX_PENDING} requests are under way"))
        elif isinstance(asked, AskDump):
            self._dump(answer)
        elif self._pool.stop_level:
            answer(Refused(code="state", message="the worker is stopping"))
        else:
            self._change(asked, by, answer)

    def advance(self) -> float | None:
        """See what has ended; seconds until somebody should look again, None: when something happens."""
        now = self._monotonic()
        for one in list(self._pending):
            done = one.look()
            if done is None and now >= one.deadline:
                done = Done(ok=False, message=one.late())
            if done is not None:
                self._end(one, done)
        dues = [one.deadline - now for one in self._pending if one.deadline < math.inf]
        return max(min(dues), 0.0) if dues else None

    def close(self) -> None:
        """The worker ends: so does what is under way."""
        for one in list(self._pending):
            self._end(one, one.look() or Done(ok=False, message="the worker has ended"))

    # -- what is asked

    def _change(self, asked: Change, by: str, answer: Answer) -> None:
        match asked:
            case PauseAction(action=action, key=key) | ResumeAction(action=action, key=key):
                self._pause(action, key, by, answer, pause=isinstance(asked, PauseAction))
            case SetConcurrency(action=action, concurrency=count):
                self._set_concurrency(action, count, by, answer)
            case Drain():
                self._drain(by, answer)
            case Restart():
                self._restart(by, answer)
            case Scale(processes=processes):
                self._scale(processes, by, answer)
            case SetLogLevel(level=level):
                self._set_log_level(level, by, answer)
            case _:
                assert_never(asked)

    def _pause(self, action: str, key: str | None, by: str, answer: Answer, *, pause: bool) -> None:
        known = self._actions()
        if known and action not in known and not (action in self._pool.controls.paused and not pause):
            answer(Refused(code="unknown", message=f"there is no subscription {action!r}, there is {', '.join(known)}"))
            return
        before = self._pool.controls
        data = None if key is None else key.encode(errors="surrogateescape")
        try:
            controls = before.with_pause(action, data) if pause else before.without_pause(action, data)
        except ValueError as error:
            answer(Refused(code="limit", message=str(error)))
            return
        what = f"{'pause' if pause else 'resume'} {action}" + ("" if key is None else f" --key {key}")
        entry = self._accept(what, by, answer, controls)
        if entry is None:
            return
        subject = action if key is None else f"key {key} of {action}"
        what_now = "paused" if pause else "resumed"
        self._control(controls, entry, answer, f"{subject} is {what_now}")

    def _set_concurrency(self, action: str, count: int, by: str, answer: Answer) -> None:
        known = self._actions()
        if known and action not in known:
            answer(Refused(code="unknown", message=f"there is no subscription {action!r}, there is {', '.join(known)}"))
            return
        controls = self._pool.controls.with_concurrency(action, count)
        entry = self._accept(f"concurrency {action} {count}", by, answer, controls)
        if entry is not None:
            self._control(
                controls, entry, answer, f"{action} runs {count} at once in each process, when what runs has ended"
            )

    def _set_log_level(self, level: LogLevel, by: str, answer: Answer) -> None:
        controls = self._pool.controls.with_log_level(level)
        entry = self._accept(f"log-level {level}", by, answer, controls)
        if entry is not None:
            set_level(level)
            self._control(controls, entry, answer, f"logging from {level} on")

    def _control(self, controls: Controls, entry: HistoryEntry, answer: Answer, message: str) -> None:
        """Tell all processes, and wait until all follow."""
        self._pool.control(controls)
        self._wait(
            entry,
            answer,
            look=lambda: None if self._behind(controls.revision) else Done(ok=True, message=message),
            late=lambda: f"not every process has done it: {self._names(controls.revision)}; they do when they answer",
            limit_s=LIMIT_S,
        )

    def _restart(self, by: str, answer: Answer) -> None:
        entry = self._accept("restart", by, answer, self._pool.controls)
        if entry is None:
            return
        before = self._pool.reloading.number
        self._reload()
        mine = self._pool.reloading.number

        def look() -> Done | None:
            now = self._pool.reloading
            if mine == before or now.number != mine:
                return Done(ok=False, message="it was refused, or another restart took its place: see the log")
            if now.state == "under way":
                return None
            return Done(ok=now.state == "done", message=now.reason or "every process was replaced")

        self._wait(entry, answer, look)

    def _scale(self, processes: int, by: str, answer: Answer) -> None:
        entry = self._accept(f"scale {processes}", by, answer, self._pool.controls)
        if entry is None:
            return
        self._pool.resize(processes)

        def look() -> Done | None:
            if self._pool.stop_level:
                return Done(ok=False, message="the worker stops")
            if self._pool.processes != processes:
                return Done(ok=False, message="another scale took its place")
            return Done(ok=True, message=f"{processes} ready") if self._pool.settled else None

        self._wait(
            entry,
            answer,
            look=look,
            late=lambda: "not every process is ready, or has ended; see status",
            limit_s=SCALE_LIMIT_S,
        )

    def _dump(self, answer: Answer) -> None:
        """Ask all processes; one that does not answer in time is said to be silent. Not kept: it changes nothing."""
        self._dumps += 1
        number = self._dumps
        self._pool.ask_dump(number)
        began = self._monotonic()

        def look() -> Done | None:
            dumps = [process_dump(slot, number) for slot in self._pool.slots.values() if slot.occupied]
            if any(one.silent for one in dumps) and self._monotonic() < began + DUMP_S:
                return None
            return Done(ok=not any(one.silent for one in dumps), data=dumps)

        self._pending.append(Pending(0, began + DUMP_S, look, str, answer))

    def _drain(self, by: str, answer: Answer) -> None:
        entry = self._accept("drain", by, answer, self._pool.controls)
        if entry is None:
            return
        log.info("draining", extra={FIELDS: {"by": by}})
        self._pool.stop()
        self._wait(
            entry, answer, look=lambda: Done(ok=not self._pool.failed, message="drained") if self._pool.over else None
        )

    # -- the way of a request

    def _accept(self, what: str, by: str, answer: Answer, controls: Controls) -> HistoryEntry | None:
        """Keep it, then say so; None: it cannot be kept, so it is not done."""
        entry = self._history.begin(at=_now(), by=by, request=what)
        try:
            self._keep(controls)
        except OSError as error:
            self._history.end(entry.number, at=_now(), ok=False, message=str(error))
            answer(Refused(code="state", message=f"it cannot be kept for a restart: {error}"))
            return None
        log.info("%s", what, extra={FIELDS: {"by": by, "request": entry.number}})
        answer(Accepted(number=entry.number, by=by, at=entry.at))
        return entry

    def _wait(
        self,
        entry: HistoryEntry,
        answer: Answer,
        look: Callable[[], Done | None],
        late: Callable[[], str] = str,
        limit_s: float = math.inf,
    ) -> None:
        self._pending.append(Pending(entry.number, self._monotonic() + limit_s, look, late, answer))

    def _end(self, pending: Pending, done: Done) -> None:
        self._pending.remove(pending)
        if not pending.number:
            pending.answer(done)
            return
        self._history.end(pending.number, at=_now(), ok=done.ok, message=done.message)
        try:
            self._keep(self._pool.controls)
        except OSError as error:
            log.warning("the history of requests cannot be written: %s", error)
        pending.answer(done)

    def _keep(self, controls: Controls) -> None:
        history = self._history
        write_state(self._path, ControlState(number=history.number, paused=controls.paused, history=history.entries()))

    def _actions(self) -> list[str]:
        """The subscriptions that processes have told of."""
        reports = (slot.report for slot in self._pool.slots.values())
        return sorted({one.action for report in reports for one in report.subscriptions})

    def _behind(self, revision: int) -> list[int]:
        """Processes that consume and do not follow a revision yet."""
        return [
            slot.number
            for slot in self._pool.slots.values()
            if slot.phase is SlotPhase.UP and slot.report.revision < revision
        ]

    def _names(self, revision: int) -> str:
        return ", ".join(f"process {number}" for number in self._behind(revision))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
