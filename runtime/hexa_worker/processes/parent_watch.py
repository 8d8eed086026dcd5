"""A child does not outlive its parent, however the parent dies.

Linux sends SIGKILL by itself (`PR_SET_PDEATHSIG`); everywhere a thread waits for the end of the socket that only
the parent holds open. The same thread answers the parent when the loop does not, see `WHO_BLOCKS`.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def hold(connection: socket.socket, parent: int, asked: Callable[[], None]) -> None:
    """Tie the life of this process to its parent's.

    Args:
        connection: the socket to the parent, blocking. This only waits on it; others may send.
        parent: the parent's process id; when it is not the parent any more the process ends here.
        asked: called in a thread of its own when the parent asks who blocks the loop.
    """
    # A thread of its own, also because it imports ctypes beside what the main thread does at start. The kernel
    # sends the signal to the whole process whichever thread asked for it, as long as that thread lives.
    threading.Thread(target=_hold, args=(connection, parent, asked), name="lifeline", daemon=True).start()


def _hold(connection: socket.socket, parent: int, asked: Callable[[], None]) -> None:
    if sys.platform == "linux":
        _ask_kernel()
    if os.getppid() != parent:
        _die()
    while True:
        try:
            if not connection.recv(64):
                break
            asked()
        except OSError:
            break
    _die()


def _ask_kernel() -> None:
    import ctypes  # noqa: PLC0415 - only where it helps

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
