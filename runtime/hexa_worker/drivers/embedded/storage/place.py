"""Whether the file at the path is still the one that is open: an operator may remove it, or put another in its place.

SQLite goes on with the file that it has, which nobody else sees any more; its log and index lie beside the new one
and would be taken for its own.
"""

import fcntl
import os
from pathlib import Path

from hexa_worker.errors import DriverUnavailable

File = tuple[int, int]
"""Device and inode."""


class FileGone(DriverUnavailable):
    """What was asked of a file that is not at its path any more; none of it took effect."""


class FilePlace:
    """The files of one open database. Made right after it was opened.

    Args:
        path: the database file.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._file = _at(self._path)
        self._log = _at(f"{path}-wal")

    def check(self) -> None:
        """Look whether it is still there; costs some microseconds.

        Raises:
            FileGone: it is not. What SQLite would take for the new file's own is out of the way.
        """
        there = _at(self._path)
        if there == self._file:
            return
        what = "removed" if there is None else "replaced"
        aside = self._set_aside()
        hint = "" if aside is None else f"; its log is {aside} now"
        raise FileGone(f"{self._path} was {what} while it was open: what was in it is not handled here any more{hint}")

    def _set_aside(self) -> str | None:
        """Rename the log and the index of the file that is gone, if they are still there; the log's new name."""
        log = f"{self._path}-wal"
        aside = None
        try:
            folder = os.open(os.path.dirname(log) or ".", os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH120 - text is at hand
        except OSError:
            return None  # the folder is gone, too
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # others find out at the same time, and may have a new log already
            if self._log is not None and _at(log) == self._log:
                aside = f"{log}.{self._log[1]}"
                os.rename(log, aside)  # noqa: PTH104 - as above
                os.rename(f"{self._path}-shm", f"{self._path}-shm.{self._log[1]}")  # noqa: PTH104 - as above
        except OSError:
            return aside
        finally:
            os.close(folder)
        return aside


def _at(path: str) -> File | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, in every turn of the broker thread
    except OSError:
        return None
    return found.st_dev, found.st_ino
