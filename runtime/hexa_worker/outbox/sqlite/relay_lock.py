"""The lock that makes one relay of a SQLite outbox the leader: on a file beside the database."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from hexa_worker.outbox.base import LEASE_MS
from hexa_worker.outbox.errors import Fenced, OutboxError, OutboxUnavailable


class RelayLock:
    """One relay's view of the lock. The system frees that of a process that has died, but not of one that is frozen.

    So the leader touches the file, and one that was not touched for `LEASE_MS`, by the clock of who looks, is replaced.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._seen: tuple[int, int] | None = None
        self._seen_at = 0.0

    def take(self, alone: Callable[[], AbstractContextManager[object]]) -> bool:
        """Try to get it; `alone` keeps others from taking it from a frozen leader at the same time.

        Raises:
            OutboxError: the file cannot be had.
        """
        try:
            if self._lock():
                return True
            frozen = self._frozen()
            if frozen is None:
                return False
            with alone():
                if self._look() == frozen:
                    self._path.unlink()
                return self._lock()
        except OSError as error:
            raise OutboxError(f"{self._path}, whose lock makes one relay the leader: {error.strerror}") from error

    def _lock(self) -> bool:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        if not self._mine():  # it was replaced before we had it
            self.free()
            return False
        os.ftruncate(file, 0)
        os.pwrite(file, f"pid {os.getpid()}".encode(), 0)
        return True

    def _frozen(self) -> tuple[int, int] | None:
        """The leader's file as it is, if it is so for too long."""
        found, now = self._look(), time.monotonic()
        if found != self._seen:
            self._seen, self._seen_at = found, now
        return found if now - self._seen_at > LEASE_MS / 1000 else None

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _mine(self) -> bool:
        look = self._look()
        return self._file is not None and look is not None and os.fstat(self._file).st_ino == look[0]

    @property
    def held(self) -> bool:
        """It was taken and not given back; somebody may have replaced it since then."""
        return self._file is not None

    def require(self) -> None:
        """See that it is ours still. Raises `Fenced`, OutboxUnavailable."""
        with self._readable():
            mine = self._mine()
        if not mine:
            raise Fenced("another relay has taken the lead")

    def touch(self) -> None:
        """Stay the leader. Raises `Fenced`, OutboxUnavailable."""
        self.require()
        assert self._file is not None  # noqa: S101 - it is ours
        with self._readable():
            os.utime(self._file)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """A disk that fails, or is read-only now, may be mended: the same errors of the database are waited for."""
        try:
            yield
        except OSError as error:
            raise OutboxUnavailable(f"{self._path}, whose lock makes one relay the leader: {error.strerror}") from error

    def free(self) -> None:
        """Give it back. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def holder(self) -> str | None:
        """Who has it; None: nobody."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"somebody else's relay: {error.strerror}"
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(file, 100, 0).decode()
        else:
            return None
        finally:
            os.close(file)
