"""Signals as bytes on a socket, so that one selector waits for everything."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


class Wakeup:
    """Receives signals while `listening`. Only in the main thread."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        for end in (self.reader, self._writer):
            end.setblocking(False)  # noqa: FBT003 - positional-only

    def signals(self) -> list[signal.Signals]:
        """The signals that came since the last call, oldest first."""
        try:
            data = self.reader.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in data if number]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals; what they did before is put back at the end."""
        before = {number: signal.signal(number, _nothing) for number in SIGNALS}
        descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.reader.close()
            self._writer.close()


def _nothing(_number: int, _frame: object) -> None:
    """The byte on the socket is what counts."""
