"""What the broker thread sleeps on: a waker that this process rings, and the commits of other processes."""

import contextlib
import os
import select
from pathlib import Path

try:
    import inotify_simple
except ImportError:  # not on Linux
    inotify_simple = None


class Waker:
    """Wakes one sleeping thread.

    Args:
        log: SQLite's write-ahead log: every commit of any process modifies it.
    """

    def __init__(self, log: Path) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._watch = _watch(log)
        self._watching = False

    @property
    def hears_others(self) -> bool:
        """Commits of other processes wake it; otherwise the caller has to look now and then."""
        return self._watch is not None

    def ring(self) -> None:
        """Wake the sleeper, or let it not fall asleep. From any thread."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._writer, b"\0")

    def wait(self, timeout_s: float, *, others: bool) -> bool:
        """Sleep until rung, or at most `timeout_s`; with `others` also until another process commits.

        Returns:
            Whether a commit, maybe our own, woke us.
        """
        watch = self._watch
        if watch is not None and others != self._watching:
            self._watching = others
            if others:
                self._poll.register(watch.fileno(), select.POLLIN)
            else:
                self._poll.unregister(watch.fileno())
        heard = False
        for descriptor, _ in self._poll.poll(max(timeout_s, 0) * 1000):
            if descriptor == self._reader:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._reader, 4096)
            elif watch is not None:
                watch.read(timeout=0)
                heard = True
        return heard

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        reader, writer, self._reader, self._writer = self._reader, self._writer, -1, -1
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)


def _watch(log: Path) -> "inotify_simple.INotify | None":
    if inotify_simple is None:
        return None
    try:
        watch = inotify_simple.INotify(nonblocking=True)
    except OSError:
        return None  # the user has too many; polling serves as well
    try:
        watch.add_watch(log, inotify_simple.flags.MODIFY)
    except OSError:
        watch.close()
        return None
    return watch
