"""Waiting for dead children, and what becomes of the processes that they started."""

import os
import signal
from contextlib import suppress
from typing import Final

from hexa_worker.processes.protocol import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_STOPPED

_ORDERLY: Final = frozenset({EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_STOPPED})


def reap(pid: int) -> int | None:
    """The exit code of a child, minus the signal's number when one killed it; None while it runs.

    What its handlers started dies with a child that was killed or crashed: their deliveries come again, and would run
    beside what is left of the first run. Not what has made itself a session or group of its own.
    """
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code != os.CLD_EXITED or found.si_status not in _ORDERLY:
            with suppress(ProcessLookupError, PermissionError):  # as long as nobody has waited, its number is its own
                os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # somebody else has waited for it: how it died is lost
        return -signal.SIGKILL


def reap_orphans(children: set[int]) -> None:
    """As process 1 of a container: wait for processes whose own parent has died; never for a child of ours."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in children:
            return
        os.waitpid(found.si_pid, 0)
