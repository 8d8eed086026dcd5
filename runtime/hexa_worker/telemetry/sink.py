"""Where log lines go: written at once while somebody reads, kept while nobody does, and dropped when that takes long.

A pipe that nobody reads, or a terminal that is stopped, would hold whoever writes to it: an event loop, or the parent
of all processes. Neither waits for a reader longer than `PATIENCE_S`. While somebody reads, a line is written before
the call that logs it returns, so that a crash loses none.
"""

import logging
import os
import select
import socket
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

KEPT_BYTES: Final = 1 << 20
"""How much one process keeps for a reader that is slow; what comes on top is dropped, until half of it was read."""
PATIENCE_S: Final = 0.25
"""How long logging waits for a reader that is slow, all lines together; it comes back at `_RECOVERY` of the time."""
_RECOVERY: Final = 0.05
FLUSH_S: Final = 1.0
"""How long the end of a process waits for a reader."""

Write = Callable[[bytes], int]


def _writer(descriptor: int) -> tuple[Write, bool]:
    """What writes to `descriptor`, and whether it may have to wait for a reader.

    Making the descriptor itself non-blocking would change it for every process that shares it (the shell, say), so a
    pipe or a terminal is opened once more. Where that is not allowed (it belongs to another user) a write may wait.
    """
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT), False
    if not stat.S_ISFIFO(kind) and not os.isatty(descriptor):
        return partial(os.write, descriptor), False  # a file, or /dev/null
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return partial(os.write, os.open(f"/proc/self/fd/{descriptor}", flags)), False
    except OSError:
        return partial(os.write, descriptor), True


class LineHandler(logging.Handler):
    """Writes each record as a line (or more) to a descriptor; see the module.

    A line that cannot be made is replaced by one that says so. A descriptor that fails (a full disk, a reader that
    has gone) loses lines like one that nobody reads: they are counted, and the count is said before the next line
    that can be written.

    Args:
        descriptor: where to; 2 is stderr.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._write, self._waits = _writer(descriptor)
        self._news = threading.Condition()
        self._kept: deque[tuple[bytes, int]] = deque()  # with how many lines each would lose
        self._kept_bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._patience_s = PATIENCE_S
        self._waited_at = 0.0
        _HANDLERS.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it for later, or count it as dropped. Never raises."""
        line = self._line(record)
        with self._news:
            rest = line if self._kept or self._waits else self._attempt(line)
            if rest:
                self._keep(rest)
                self._be_patient()

    def flush(self) -> None:
        """Wait until everything is written, but not longer than `FLUSH_S`."""
        with self._news:
            self._news.wait_for(lambda: not self._kept, FLUSH_S)

    def restart(self) -> None:
        """Be as new: this process was forked off, and what is kept is its parent's to write."""
        self._news = threading.Condition()
        self._kept.clear()
        self._kept_bytes = self._dropped = 0
        self._thread = None

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - arguments that do not fit, an object whose text cannot be made
            place = f"{record.pathname}:{record.lineno}"
            text = self.format(_own(f"a log line cannot be made: {type(error).__name__} at {place}", record.levelno))
        return text.encode(errors="backslashreplace") + b"\n"

    def _told(self) -> bytes:
        """The line that counts what was dropped."""
        text = f"{self._dropped} log line{'s' * (self._dropped > 1)} dropped: nobody read them, or they failed to write"
        return self._line(_own(text, logging.WARNING))

    def _attempt(self, line: bytes) -> bytes:
        """Write without waiting; returns what is left to write."""
        text = self._told() + line if self._dropped else line
        try:
            written = self._write(text)
        except BlockingIOError:
            return line
        except OSError:
            self._dropped += 1
            return b""
        self._dropped = 0
        return text[written:]

    def _be_patient(self) -> None:
        now = time.monotonic()
        self._patience_s = min(PATIENCE_S, self._patience_s + (now - self._waited_at) * _RECOVERY)
        self._news.wait_for(lambda: not self._kept, self._patience_s)
        self._waited_at = time.monotonic()
        self._patience_s = max(0.0, self._patience_s - (self._waited_at - now))

    def _keep(self, line: bytes) -> None:
        limit = KEPT_BYTES // 2 if self._dropped else KEPT_BYTES
        if self._kept and self._kept_bytes + len(line) > limit:
            self._dropped += 1
            return
        text, count = (self._told() + line if self._dropped else line), self._dropped + 1
        self._dropped = 0
        self._kept.append((text, count))
        self._kept_bytes += len(text)
        if self._thread is None:
            self._start_thread()
        self._news.notify_all()

    # -- the thread that waits for a reader; started when one is slow for the first time

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._write_kept, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # out of threads, or the interpreter is ending: the next line tries again
            return
        self._thread = thread

    def _write_kept(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._kept)
                text = self._kept[0][0]
            done, lost = self._await_reader(text)
            with self._news:
                self._done(done, lost=lost)

    def _done(self, count: int, *, lost: bool) -> None:
        """So many bytes of what is kept are written, or lost."""
        text, lines = self._kept.popleft()
        self._kept_bytes -= count
        if count < len(text):
            self._kept.appendleft((text[count:], lines))
        elif lost:
            self._dropped += lines
        elif self._dropped and not self._kept:
            self._keep(b"")  # somebody reads again: say what was missed, though no line may follow
        self._news.notify_all()

    def _await_reader(self, text: bytes) -> tuple[int, bool]:
        """Write some of a text as soon as somebody reads: how much of it is done with, and whether it is lost."""
        try:
            return self._write(text), False
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0, False
        except OSError:
            return len(text), True


def _own(text: str, level: int) -> logging.LogRecord:
    return logging.LogRecord("hexa_worker.log", level, "", 0, text, (), None)


_HANDLERS: "weakref.WeakSet[LineHandler]" = weakref.WeakSet()


def _restart_all() -> None:
    for one in _HANDLERS:
        one.restart()


os.register_at_fork(after_in_child=_restart_all)
