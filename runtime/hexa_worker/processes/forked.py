"""What a handler forks is no worker process: it shall neither hear its signals nor go on as if it were one.

`multiprocessing` forks on Linux before Python 3.14, and what it starts is ended by SIGTERM. A fork inherits the
event loop's signal handlers and the descriptor that wakes the loop: its signals would be heard by the worker.
"""

import os
import signal
import socket
import threading
from typing import Final

from hexa_worker.processes.journal import MappedJournal

_OWN_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def let_forks_go(journal: MappedJournal, connection: socket.socket) -> None:
    """From now on a fork of this process has default signals, and neither its journal nor its parent's socket.

    One that returns from the handler it was made in ends, see `MappedJournal.disown`.
    """
    forking = threading.local()

    def hold_signals() -> None:
        """Until the fork has its own handlers: it may be told to end before that."""
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OWN_SIGNALS)

    def forked() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        journal.disown()
        connection.close()
        let_signals_through()

    def let_signals_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    os.register_at_fork(before=hold_signals, after_in_child=forked, after_in_parent=let_signals_through)
