"""Start a child: exec, never fork, in a session of its own, tied to the parent by one socket."""

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from hexa_worker.errors import ConfigError
from hexa_worker.processes.protocol import CANCEL_SIGNAL, DESCRIPTOR, STOP_SIGNAL, Arguments, pack

STOP_SIGNALS: Final = (STOP_SIGNAL, signal.SIGINT, CANCEL_SIGNAL)
_PARENT: Final = "HEXA_WORKER_PARENT"
"""Tells a child whose child it is, so that one that turns out to be a parent knows that it must not be."""
_LOWEST_DESCRIPTOR: Final = 16
Command = tuple[str, ...]

CHILD_COMMAND: Final[Command] = (sys.executable, "-P", "-m", "hexa_worker.processes.child")
"""``-P``: the folder that the parent was started in is not on the import path."""


_SYSTEMD: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""Variables for the process that systemd watches, and no other."""
_DEFAULTS: Final = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives every thread an arena of its own; a child has few threads, and they take turns anyway."""


class Spawned(NamedTuple):
    """A new child."""

    pid: int
    connection: socket.socket


def secure_descriptors() -> None:
    """Make sure that descriptors 0, 1 and 2 are taken, so that no file or socket of ours becomes one of them."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:  # noqa: PLR2004 - stderr
        os.set_inheritable(null, True)  # noqa: FBT003 - positional-only
        null = os.open(os.devnull, os.O_RDWR)
    os.close(null)


def require_interpreter() -> None:
    """See that a child that is started is a child.

    Raises:
        ConfigError: what would be started is the application again, which would start a worker again.
    """
    if getattr(sys, "frozen", False) or os.environ.get(_PARENT) == str(os.getppid()):
        raise ConfigError(
            "a frozen application cannot run worker processes: they are started with sys.executable, "
            f"which is the application itself ({sys.executable})",
            hint="run hexa-worker with a Python interpreter; emitting works from a frozen application",
        )


def spawn(command: Command = CHILD_COMMAND) -> Spawned:
    """Start a child. It imports what it needs and waits for its arguments, see `instruct`.

    Its stop signals are blocked until it has installed its handlers, so that none is lost and none kills it.

    Raises:
        OSError: the machine is out of processes, descriptors or memory.
    """
    ours, theirs = socket.socketpair()
    try:
        # Above the target descriptor, or dup2 onto itself would leave it to be closed on exec.
        high = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                {**_DEFAULTS, **_inherited(), _PARENT: str(os.getpid())},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, high, DESCRIPTOR),
                ],
                setsid=True,
                setsigmask=STOP_SIGNALS,
            )
        finally:
            os.close(high)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Spawned(pid, ours)


def _inherited() -> Mapping[str, str]:
    """Our environment without what systemd tells the process that it watches."""
    return {name: value for name, value in os.environ.items() if name not in _SYSTEMD}


def instruct(spawned: Spawned, arguments: Arguments) -> None:
    """Tell a child what to do. A child that is dead already is found out otherwise."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        spawned.connection.sendall(pack(arguments))
    spawned.connection.setblocking(False)  # noqa: FBT003 - positional-only
