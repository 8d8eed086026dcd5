"""Claims in a SQLite file of their own: for all processes of one machine.

A batch is one transaction in a thread. SQLite's own waiting is unfair under contention, so the write lock is asked for
again after short jittered waits.
"""

import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.core import claims
from hexa_worker.core.claims import Answer, Ask, ClaimEntry, ClaimPhase, Ending, GrantedClaim
from hexa_worker.errors import DriverRejected, DriverUnavailable

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS claim (
    key TEXT PRIMARY KEY, phase TEXT NOT NULL, fence INTEGER NOT NULL, until_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL, owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claim_until ON claim (until_ms);
"""
_LOOK = "SELECT phase, fence, until_ms, attempt, owner FROM claim WHERE key = ?"
_KEEP = "INSERT OR REPLACE INTO claim (key, phase, fence, until_ms, attempt, owner) VALUES (?, ?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM claim WHERE key = ?"
_FORGET_OLD = "DELETE FROM claim WHERE key IN (SELECT key FROM claim WHERE until_ms <= ? ORDER BY until_ms LIMIT ?)"
FORGET_EVERY_S = 1.0
FORGET_ROWS = 5_000
LOCK_WAIT_S = 0.002
_PHASES = {phase.value: phase for phase in ClaimPhase}
T = TypeVar("T")
Change = Callable[[dict[str, ClaimEntry | None]], T]
"""Reads and changes the entries of some keys."""


class EmbeddedClaims:
    """See the module.

    Args:
        path: the file; made with mode 0600 when it is not there.
        lease_s: how long a claim lasts without being extended.
        timeout_s: how long any call may wait for other processes.
        clock: tells when leases end; wall time, for several processes share them.
    """

    def __init__(self, path: Path, *, lease_s: float, timeout_s: float = 1.0, clock: Clock | None = None) -> None:
        self.path = path
        self._lease_ms = round(lease_s * 1000)
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._db: sqlite3.Connection | None = None
        self._forget_at = 0.0
        self._limiter: anyio.CapacityLimiter | None = None

    async def open(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.open`."""
        await self._in_thread(self._opened)

    async def close(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.close`."""
        await self._in_thread(self._close)

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """See `hexa_worker.dedup.base.ClaimStore.claim`."""

        def change(entries: dict[str, ClaimEntry | None]) -> list[Answer]:
            now_ms, answers = self._clock.now_ms(), list[Answer]()
            for ask in asks:
                answer, entry = claims.claim(entries[ask.key], ask, now_ms=now_ms, lease_ms=self._lease_ms)
                entries[ask.key] = entry
                answers.append(answer)
            return answers

        return await self._in_thread(lambda: self._change([ask.key for ask in asks], change))

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.end`."""

        def change(entries: dict[str, ClaimEntry | None]) -> list[bool]:
            now_ms, ended = self._clock.now_ms(), list[bool]()
            for one in endings:
                key = one.held.key
                own, entries[key] = claims.end(entries[key], one, now_ms=now_ms, lease_ms=self._lease_ms)
                ended.append(own)
            return ended

        return await self._in_thread(lambda: self._change([one.held.key for one in endings], change))

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.extend`."""

        def change(entries: dict[str, ClaimEntry | None]) -> list[bool]:
            now_ms, extended = self._clock.now_ms(), list[bool]()
            for one in held:
                own, entries[one.key] = claims.extend(entries[one.key], one, now_ms=now_ms, lease_ms=self._lease_ms)
                extended.append(own)
            return extended

        return await self._in_thread(lambda: self._change([one.key for one in held], change))

    # -- in the thread

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """One call at a time. Cancellation: the call under way ends first."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)
        return await to_thread.run_sync(work, limiter=self._limiter)

    def _change(self, keys: Sequence[str], change: Change[T]) -> T:
        try:
            db = self._opened()
            self._lock(db)
            try:
                before = {key: _entry(db.execute(_LOOK, (key,)).fetchone()) for key in dict.fromkeys(keys)}
                after = dict(before)
                result = change(after)
                _write(db, before, after)
                self._forget(db)
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise DriverUnavailable(f"claims in {self.path}: {error}") from error
        return result

    def _lock(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_WAIT_S * random.uniform(0.2, 1.0))  # noqa: S311 - spreads load
            else:
                return

    def _forget(self, db: sqlite3.Connection) -> None:
        now = self._clock.monotonic()
        if now >= self._forget_at:
            some = db.execute(_FORGET_OLD, (self._clock.now_ms(), FORGET_ROWS)).rowcount
            self._forget_at = now if some == FORGET_ROWS else now + FORGET_EVERY_S

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise DriverRejected(f"claims in {self.path}: {error.strerror}") from error
            try:
                self._db = self._connected()
            except sqlite3.Error as error:
                known = DriverUnavailable if isinstance(error, sqlite3.OperationalError) else DriverRejected
                raise known(f"claims in {self.path}: {error}") from error
        return self._db

    def _connected(self) -> sqlite3.Connection:
        """A connection to a prepared file; while others prepare it, SQLite fails at once instead of waiting."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            db = sqlite3.connect(self.path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(db)
            except BaseException as error:
                db.close()
                if not isinstance(error, sqlite3.OperationalError) or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_WAIT_S * random.uniform(0.2, 1.0))  # noqa: S311 - spreads load
            else:
                return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise DriverRejected(f"claims in {self.path}: version {version}, this release knows {SCHEMA_VERSION}")
        db.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA_VERSION:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _entry(row: tuple[str, int, int, int, str] | None) -> ClaimEntry | None:
    if row is None:
        return None
    phase, fence, until_ms, attempt, owner = row
    return ClaimEntry(phase=_PHASES[phase], fence=fence, until_ms=until_ms, attempt=attempt, owner=owner)


def _write(db: sqlite3.Connection, before: dict[str, ClaimEntry | None], after: dict[str, ClaimEntry | None]) -> None:
    kept = [
        (key, entry.phase.value, entry.fence, entry.until_ms, entry.attempt, entry.owner)
        for key, entry in after.items()
        if entry is not None and entry is not before[key]
    ]
    gone = [(key,) for key, entry in after.items() if entry is None and before[key] is not None]
    if kept:
        db.executemany(_KEEP, kept)
    if gone:
        db.executemany(_FORGET, gone)
