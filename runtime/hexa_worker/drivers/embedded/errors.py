"""What SQLite's errors mean to the runtime: time may mend it, or somebody has to."""

import sqlite3
from pathlib import Path

from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

_BUSY = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"})
_DAMAGED = "the file is damaged: stop the worker, keep a copy, and restore it (sqlite3 FILE .recover may help)"
_HINTS: dict[str, tuple[type[DriverError], str]] = {
    "SQLITE_BUSY": (DriverUnavailable, "other processes kept it locked for longer than busy_timeout_s"),
    "SQLITE_LOCKED": (DriverUnavailable, "other processes kept it locked for longer than busy_timeout_s"),
    "SQLITE_PROTOCOL": (DriverUnavailable, "other processes kept it locked for longer than busy_timeout_s"),
    "SQLITE_FULL": (DriverUnavailable, "the disk is full: make room; nothing confirmed is lost"),
    "SQLITE_IOERR": (DriverUnavailable, "reading or writing failed: look at the disk; nothing confirmed is lost"),
    "SQLITE_NOMEM": (DriverUnavailable, "out of memory"),
    "SQLITE_CANTOPEN": (DriverRejected, "it cannot be opened: check the folder and its rights"),
    "SQLITE_READONLY": (DriverRejected, "it cannot be written: make file and folder writable for this user"),
    "SQLITE_PERM": (DriverRejected, "no rights: make file and folder writable for this user"),
    "SQLITE_NOTADB": (DriverRejected, "it is not a SQLite database: name another file, or move this one away"),
    "SQLITE_CORRUPT": (DriverRejected, _DAMAGED),
    "SQLITE_TOOBIG": (RecordTooLarge, "a record is larger than SQLite can store"),
}


def primary_code(error: sqlite3.Error) -> str:
    """``SQLITE_IOERR`` of ``SQLITE_IOERR_WRITE``; empty when the error did not come from SQLite itself."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return "_".join(name.split("_")[:2])


def is_busy(error: sqlite3.Error) -> bool:
    """Another process is in the way; asking again soon is right."""
    return primary_code(error) in _BUSY


def translate(error: sqlite3.Error, path: Path) -> DriverError:
    """The error of ours that says what `error` means for the file at `path`."""
    known = _HINTS.get(primary_code(error))
    if known is not None:
        return known[0](f"{path}: {error}: {known[1]}")
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return DriverRejected(f"{path}: {error}: {_DAMAGED}")
    if "no such table" in str(error) or "no such column" in str(error):
        return DriverRejected(f"{path}: {error}: {_DAMAGED}")
    return DriverUnavailable(f"{path}: {error}")
