"""The file of the embedded broker: made private, refused where SQLite cannot keep it safe, opened."""

import os
import random
import sqlite3
import stat
import time
from pathlib import Path
from typing import Literal

from hexa_worker.drivers.embedded.errors import translate
from hexa_worker.drivers.embedded.storage.schema import migrate
from hexa_worker.errors import ConfigError, DriverRejected, DriverUnavailable

OLDEST_SQLITE = (3, 35, 0)
"""RETURNING came with it."""
WAL_LIMIT = 64 * 1024 * 1024
_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "ceph",
        "afs",
        "ncpfs",
        "coda",
        "gfs2",
        "ocfs2",
        "lustre",
        "beegfs",
        "glusterfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.s3fs",
        "fuse.rclone",
        "fuse.gcsfuse",
        "fuse.smbnetfs",
        "fuse.davfs2",
    }
)
"""File systems that other machines may write to: WAL needs memory that all its users share."""


def connect(path: Path, durability: Literal["normal", "full"]) -> sqlite3.Connection:
    """Open the database, creating folder, file and tables where they are missing.

    Raises:
        ConfigError: it cannot work here: a network file system, SQLite too old.
        DriverRejected: no rights, not a database, damaged, written by a newer hexa-worker.
        DriverUnavailable: locked by others, disk full.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} is too old for the embedded broker",
            where="worker.toml: broker.driver",
            hint="SQLite 3.35 or newer is needed; use a Python built with one",
        )
    _create(path)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=512)
        _prepare(connection, path, durability)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translate(error, path) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def connect_patiently(path: Path, durability: Literal["normal", "full"], patience_s: float) -> sqlite3.Connection:
    """As `connect`; while others have the file locked it is tried again, for `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return connect(path, durability)
        except DriverUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - spreads waiters


def _prepare(connection: sqlite3.Connection, path: Path, durability: Literal["normal", "full"]) -> None:
    connection.text_factory = _text
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in a new file only
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise DriverRejected(f"{path}: its file system cannot hold a write-ahead log: put the file on a local disk")
    connection.execute(f"PRAGMA synchronous = {durability.upper()}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    connection.execute("PRAGMA wal_autocheckpoint = 10000")
    connection.execute("PRAGMA cache_size = -8000")
    migrate(connection, str(path))


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", errors="replace")


def _create(path: Path) -> None:
    """Make folder and file, for this user only; SQLite gives its side files the rights of the file."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_network(folder)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            _check_existing(path)
    except OSError as error:
        raise DriverRejected(
            f"cannot create {path}: {error.strerror}: the embedded broker needs a folder it may write to"
        ) from error


def _check_existing(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DriverRejected(f"{path} is not a regular file: name a file in worker.toml, broker.path")
    if not os.access(path, os.R_OK | os.W_OK):
        raise DriverRejected(f"{path} may not be read and written by this user: chmod or chown it")
    if not os.access(path.parent, os.W_OK):
        raise DriverRejected(f"{path.parent} may not be written by this user: SQLite keeps its log beside {path.name}")


def _refuse_network(folder: Path) -> None:
    kind = file_system_of(folder)
    if kind in _NETWORK:
        raise ConfigError(
            f"{folder} is on a network file system ({kind})",
            where="worker.toml: broker.path",
            hint="a SQLite file can only be shared by processes of one machine: use a local disk",
        )


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that holds `folder`; None where that is not certain."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    kinds = {
        line.split(" - ", 1)[1].split(" ", 1)[0] for line in lines if " - " in line and line.split(" ", 3)[2] == wanted
    }
    return kinds.pop() if len(kinds) == 1 else None
