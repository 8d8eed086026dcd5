"""Where packs are kept: one SQLite file that every process of the machine appends to.

A row is a pack: the cost of writing is paid per batch. Finding an id reads packs at the speed of memory, from the
time the id was made.
"""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hexa_worker.lineage.base import StoreError
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.finding import find
from hexa_worker.lineage.packs import unpack

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pack (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, blob BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS pack_at ON pack (at_ms);
"""
EXPIRE_ROWS = 500
BUSY_TIMEOUT_S = 2.0


class SqliteLineageStore:
    """The packs of one file. Not for two threads at once.

    Args:
        path: the file; made with mode 0600 when it is not there.
        create: False raises `StoreError` when there is no file.
        maximum_bytes: how large it may become; `expire` forgets the oldest of what exceeds it.

    Raises:
        StoreError: it cannot be opened, is no lineage store, or is one of a newer version.
    """

    def __init__(self, path: Path, *, create: bool = True, maximum_bytes: int = 1 << 30) -> None:
        self.path = path
        self._maximum_bytes = maximum_bytes
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            elif not path.is_file():
                raise StoreError(f"there is no lineage store at {path}")
            self._db = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=16
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"lineage store {path}: {error}") from error
        try:
            self._prepare()
        except (sqlite3.Error, StoreError) as error:
            self._db.close()
            raise StoreError(f"lineage store {path}: {error}") from error

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(f"its version is {version}, this release knows {SCHEMA_VERSION}")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA_VERSION:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def append(self, blob: bytes, at_ms: int) -> None:
        """Keep a pack whose last entry happened at `at_ms`.

        Raises:
            StoreError: it is not kept.
        """
        try:
            self._db.execute("INSERT INTO pack (at_ms, blob) VALUES (?, ?)", (at_ms, blob))
        except sqlite3.Error as error:
            raise StoreError(f"lineage store {self.path}: {error}") from error

    def expire(self, before_ms: int) -> int:
        """Forget packs from before `before_ms`, and the oldest of what is too much.

        Works in small steps and returns how many packs this one forgot; 0: nothing is left to do.

        Raises:
            StoreError: it could not.
        """
        try:
            before = self._db.execute(
                "DELETE FROM pack WHERE id IN (SELECT id FROM pack WHERE at_ms < ? ORDER BY at_ms LIMIT ?)",
                (before_ms, EXPIRE_ROWS),
            ).rowcount
            if before or self._used_bytes() <= self._maximum_bytes:
                return before
            oldest = "DELETE FROM pack WHERE id IN (SELECT id FROM pack ORDER BY id LIMIT ?)"
            return self._db.execute(oldest, (EXPIRE_ROWS // 10,)).rowcount
        except sqlite3.Error as error:
            raise StoreError(f"lineage store {self.path}: {error}") from error

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def mentioning(self, text: str, since_ms: int) -> Iterator[LineageEntry]:
        """Everything in packs that hold `text` and were written since `since_ms`.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            rows = self._db.execute(
                "SELECT blob FROM pack WHERE at_ms >= ? AND instr(blob, ?)", (since_ms, text.encode(errors="replace"))
            )
            for (blob,) in rows:
                yield from unpack(blob)
        except (sqlite3.Error, msgspec.DecodeError, ValueError) as error:
            raise StoreError(f"lineage store {self.path}: {error}") from error

    def find(self, event_id: str) -> list[LineageEntry]:
        """See `hexa_worker.lineage.finding.find`."""
        return find(self, event_id)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()
