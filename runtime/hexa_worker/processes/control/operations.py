"""What is asked on the control socket is done here: accepted, kept in the history, looked after to its end."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, assert_never

from hexa_worker.core.controls import Controls
from hexa_worker.processes.control.messages import (
    Accepted,
    Asked,
    AskHistory,
    AskStatus,
    Done,
    Drain,
    PauseAction,
    Refused,
    Reply,
    ResumeAction,
)
from hexa_worker.processes.control.state import ControlState, History, HistoryEntry, read_state, write_state
from hexa_worker.processes.control.worker_status import worker_status
from hexa_worker.processes.pool import Pool
from hexa_worker.processes.slot import SlotPhase
from hexa_worker.telemetry.log import FIELDS

LIMIT_S: Final = 5.0
"""A process that has not done it after so long is named."""
MAX_PENDING: Final = 64

log = logging.getLogger("hexa_worker.processes")

Answer = Callable[[Reply], None]


class Pending(NamedTuple):
    """A request that was accepted and is not done.

    Attributes:
        number: in the history.
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
        monotonic: the clock of deadlines.

    Raises:
        ConfigError: what is kept cannot be read.
    """

    def __init__(self, pool: Pool, path: Path, monotonic: Callable[[], float]) -> None:
        state = read_state(path)
        self._pool = pool
        self._path = path
        self._monotonic = monotonic
        self._history = History(state.number, state.history)
        self._pending: list[Pending] = []
        pool.control(Controls(revision=1, paused=state.paused))
        for action, pause in state.paused.items():
            what = "" if pause.whole else f" with {len(pause.keys)} of its keys"
            log.warning("%s is paused%s, since before this start", action, what)

    # -- what the server calls

    def ask(self, asked: Asked, by: str, answer: Answer) -> None:
        """Do it, or begin to; `answer` is called now and perhaps again later."""
        match asked:
            case AskStatus():
                answer(Done(ok=True, data=worker_status(self._pool, self._history.entries())))
            case AskHistory():
                answer(Done(ok=True, data=self._history.entries()))
            case _ if len(self._pending) >= MAX_PENDING:
                answer(Refused(code="limit", message=f"{MAX_PENDING} requests are under way"))
            case _ if self._pool.stop_level:
                answer(Refused(code="state", message="the worker is stopping"))
            case PauseAction(action=action, key=key) | ResumeAction(action=action, key=key):
                self._pause(action, key, by, answer, pause=isinstance(asked, PauseAction))
            case Drain():
                self._drain(by, answer)
            case _:
                assert_never(asked)

    def advance(self) -> float | None:
        """See what has ended; seconds until somebody should look again, None: when something happens."""
        now = self._monotonic()
        for one in list(self._pending):
            done = one.look()
            if done is None and now >= one.deadline:
                done = Done(ok=False, message=one.late())
            if done is not None:
                self._end(one, done)
        return max(min(one.deadline for one in self._pending) - now, 0.0) if self._pending else None

    def close(self) -> None:
        """The worker ends: so does what is under way."""
        for one in list(self._pending):
            self._end(one, one.look() or Done(ok=False, message="the worker has ended"))

    # -- what is asked

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
        self._pool.control(controls)
        subject = action if key is None else f"key {key} of {action}"
        what_now = "paused" if pause else "resumed"
        self._wait(
            entry,
            answer,
            look=lambda: None if self._behind(controls.revision) else Done(ok=True, message=f"{subject} is {what_now}"),
            late=lambda: f"not every process has done it: {self._names(controls.revision)}; they do when they answer",
        )

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
        late: Callable[[], str] | None = None,
    ) -> None:
        deadline = float("inf") if late is None else self._monotonic() + LIMIT_S
        self._pending.append(Pending(entry.number, deadline, look, late or str, answer))

    def _end(self, pending: Pending, done: Done) -> None:
        self._pending.remove(pending)
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
