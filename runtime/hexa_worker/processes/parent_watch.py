"""A child does not outlive its parent, however the parent dies.

Linux sends SIGKILL by itself (`PR_SET_PDEATHSIG`); everywhere a thread waits for the end of the socket that only
the parent holds open. The same thread hears what the parent says, also while the loop is blocked.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from hexa_worker.processes.protocol import ORDERS, Inbox, Order, WireError

_PR_SET_PDEATHSIG: Final = 1
READ_SIZE: Final = 64 * 1024


def hold(connection: socket.socket, parent: int, hear: Callable[[Order], None]) -> None:
    """Tie the life of this process to its parent's.

    Args:
        connection: the socket to the parent, blocking. This only waits on it; others may send.
        parent: the parent's process id; when it is not the parent any more the process ends here.
        hear: called in a thread of its own with what the parent says.
    """
    # A thread of its own, also because it imports ctypes beside what the main thread does at start. The kernel
    # sends the signal to the whole process whichever thread asked for it, as long as that thread lives.
    threading.Thread(target=_hold, args=(connection, parent, hear), name="lifeline", daemon=True).start()


def _hold(connection: socket.socket, parent: int, hear: Callable[[Order], None]) -> None:
    if sys.platform == "linux":
        _ask_kernel()
    if os.getppid() != parent:
        _die()
    inbox = Inbox(ORDERS)
    while True:
        try:
            data = connection.recv(READ_SIZE)
            orders = inbox.feed(data)
        except (OSError, WireError):
            break
        for order in orders:
            hear(order)
        if not data:
            break
    _die()


def _ask_kernel() -> None:
    import ctypes  # noqa: PLC0415 - only where it helps

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
