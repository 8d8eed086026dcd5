"""What a dead child died of."""

import logging
import signal
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple

from hexa_worker.core.crash_attribution import InFlightId
from hexa_worker.errors import ConfigError
from hexa_worker.processes.journal import Remains, read_journal
from hexa_worker.processes.protocol import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from hexa_worker.processes.slot import Slot
from hexa_worker.processes.state_files import StateFiles
from hexa_worker.telemetry.log import FIELDS

NAMED_AT_MOST: Final = 20
STACK_LIMIT: Final = 4_000

log = logging.getLogger("hexa_worker.processes")


class ExitFinding(Enum):
    """How it ended."""

    DONE = auto()  # nothing was left to do
    STOPPED = auto()  # drained
    FAILED = auto()  # in an orderly way, but a subscription or the lifespan failed
    MISCONFIGURED = auto()
    CRASHED = auto()


_ORDERLY: Final = frozenset({ExitFinding.DONE, ExitFinding.STOPPED, ExitFinding.MISCONFIGURED})


class ProcessExit(NamedTuple):
    """The end of one child.

    Attributes:
        finding: how it ended.
        code: its exit code; minus the signal's number when a signal killed it.
        remains: what its journal said.
        blames: whether what was in hand is to blame: not after an overdue stop.
        error: what it said is wrong with the configuration.
        stack: where its threads were, when it was asked before it was killed.
    """

    finding: ExitFinding
    code: int
    remains: Remains
    blames: bool
    error: ConfigError | None
    stack: str

    def log(self, slot: Slot, blamed: Mapping[InFlightId, int], *, until_idle: bool) -> None:
        """One line that says how it ended and names what is blamed."""
        asked = until_idle and self.finding is ExitFinding.DONE
        fields: dict[str, object] = {"slot": slot.number, "pid": slot.pid}
        if self.finding in (ExitFinding.DONE, ExitFinding.STOPPED) and not (asked or slot.stop_level):
            why = (
                "it got a stop signal that is not its parent's"
                if self.finding is ExitFinding.STOPPED
                else how(self.code)
            )
            log.error("worker process ended though nobody asked it to: %s", why, extra={FIELDS: fields})
            return
        if self.finding in _ORDERLY:
            log.debug("worker process ended: %s", how(self.code), extra={FIELDS: fields})
            return
        text = f"worker process {self.ending(slot)}"
        if blamed:
            fields |= _names(blamed)
        if self.stack:
            fields["stack"] = self.stack
        log.error(text, extra={FIELDS: fields})

    def killed_by_others(self, slot: Slot) -> bool:
        """Its parent did not send the SIGKILL that it died of."""
        return self.code == -signal.SIGKILL and not slot.killed_for

    def ending(self, slot: Slot) -> str:
        """How it ended, as a clause."""
        text = f"died: {how(self.code)}"
        if slot.killed_for:
            return f"{text}, because {slot.killed_for}"
        if self.killed_by_others(slot):
            return f"{text}, which its parent did not send: by the kernel when memory ran out, or by somebody else"
        return text


def examine(slot: Slot, code: int, layout: StateFiles) -> ProcessExit:
    """Find out what the child of `slot` died of; its journal is read and removed."""
    path = layout.journal(slot.number)
    remains = read_journal(path)
    stack = _stack(layout.stack(slot.number))
    with suppress(OSError):
        path.unlink()
    told = slot.misconfigured
    error = ConfigError(told.message, where=told.where, hint=told.hint) if told is not None else None
    return ProcessExit(_finding(code, remains, error), code, remains, not slot.overdue, error, stack)


def _stack(path: Path) -> str:
    """The stacks that a process was asked for, if they can be read."""
    try:
        with path.open("rb") as file:
            stack = file.read(STACK_LIMIT)
        path.unlink()
    except OSError:
        return ""
    return stack.decode(errors="replace").strip()


def _finding(code: int, remains: Remains, error: ConfigError | None) -> ExitFinding:
    """A handler may call ``os._exit`` with any code: only a clean journal proves an orderly end."""
    if code == EXIT_CONFIG and error is not None:
        return ExitFinding.MISCONFIGURED
    if remains.code is not None:
        return {EXIT_OK: ExitFinding.DONE, EXIT_STOPPED: ExitFinding.STOPPED}.get(remains.code, ExitFinding.FAILED)
    if code == EXIT_FAILED and not remains.in_flight:
        return ExitFinding.FAILED
    return ExitFinding.CRASHED


def how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _names(blamed: Mapping[InFlightId, int]) -> dict[str, object]:
    """The fields that name deliveries: one in plain fields, several in a list."""
    if len(blamed) == 1:
        ((hand, crashes),) = blamed.items()
        return {"action": hand.action, "message_id": hand.message_id, "crashes": crashes}
    named = [f"{hand.action} {hand.message_id} ({crashes})" for hand, crashes in list(blamed.items())[:NAMED_AT_MOST]]
    if len(blamed) > len(named):
        named.append(f"and {len(blamed) - len(named)} more")
    return {"in_hand": ", ".join(named)}
