"""The relay's connection to a SQLite outbox."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.outbox.base import Line, OutboxBatch, RelayPosition, Status
from hexa_worker.outbox.errors import Fenced, OutboxBusy, OutboxError, OutboxUnavailable
from hexa_worker.outbox.records import COLUMNS, HELD_COLUMNS, HeldRecord, held_columns, held_record, record
from hexa_worker.outbox.sqlite import schema
from hexa_worker.outbox.sqlite.relay_lock import RelayLock
from hexa_worker.outbox.statements import blocked, unled
from hexa_worker.outbox.versions import require_known

BUSY_S = 5.0
LOOK_S = 0.005
"""How often is looked whether another connection has written: a read of shared memory."""
CHUNK = 10_000
COUNTED = 10_000
"""Up to so many pending events are counted one by one."""
_COLUMNS = ", ".join(COLUMNS)
_HELD = ", ".join(HELD_COLUMNS)
_BUSY = ("database is locked", "database is busy", "database or disk is full")
_AWAY = ("disk I/O error", "readonly")


class RowPlace(RelayPosition, frozen=True):
    """Everything up to `last_id` is sent; `seq` counts the places that were noted."""

    seq: int
    last_id: int


class SqliteStore:
    """See `hexa_worker.outbox.base.Store`. The leader holds a lock on a file beside the database.

    Args:
        path: the database.
        options: the ``[outbox]`` table.
    """

    def __init__(self, path: Path, options: OutboxConfig) -> None:
        self._path = path
        self._table = options.table
        self._db: sqlite3.Connection | None = None
        self._lock = RelayLock(path.with_name(f"{path.name}.relay"))
        self._place = RowPlace(0, 0)
        self._seen = -1
        self._file: tuple[int, int] | None = None

    # -- its life

    def open(self) -> None:
        """See `Store`."""
        if not self._path.exists():
            raise OutboxError(f"{self._path} is not there: run hexa-worker outbox init")
        self._file = self._present()
        with self._named():
            self._db = connect(self._path)
            found = schema.version(self._db, self._table)
            require_known(found, schema.VERSION, self._table)
            if found != schema.VERSION:
                state = "no tables" if found is None else f"tables of version {found}"
                raise OutboxError(f"{self._path} has {state}: run hexa-worker outbox init")

    def close(self) -> None:
        """See `Store`."""
        if self._db is not None:
            self._db.close()
            self._db = None
        self._lock.free()

    def _present(self) -> tuple[int, int] | None:
        """Which file has the database's name now."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise OutboxUnavailable("the outbox is not open")
        return self._db

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _kind(error)(f"{self._path}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is the only writer from its beginning."""
        db = self._connection
        with self._named():
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    # -- its turn

    def lead(self) -> bool:
        """See `Store`."""
        if not self._lock.take(self._writing):
            return False
        self._place = self._noted()
        return True

    def _noted(self) -> RowPlace:
        with self._named():
            return RowPlace(*self._connection.execute(f"SELECT seq, last_id FROM {self._table}_cursor").fetchone())

    def fetch(self, limit: int) -> OutboxBatch | None:
        """See `Store`."""
        if self._present() != self._file:
            raise OutboxUnavailable(f"{self._path} was replaced: what is written now is in another file")
        self._lock.require()
        query = f"SELECT id, {_COLUMNS} FROM {self._table} WHERE id > ? ORDER BY id LIMIT ?"
        with self._named():
            rows = self._connection.execute(query, (self._place.last_id, limit)).fetchall()
        if not rows:
            return None
        self._place = RowPlace(self._place.seq + 1, rows[-1][0])
        return OutboxBatch([record(row) for row in rows], self._place)

    def confirm(self) -> None:
        """See `Store`."""
        self._lock.touch()
        if self._noted().seq > self._place.seq:
            raise Fenced("another relay has noted a later place")

    def advance(self, place: RelayPosition, held: Sequence[HeldRecord]) -> None:
        """See `Store`."""
        assert isinstance(place, RowPlace)  # noqa: S101 - it came from `fetch`
        query = f"UPDATE {self._table}_cursor SET seq = ?, last_id = ? WHERE seq = ?"
        with self._writing() as db:
            if not db.execute(query, (place.seq, place.last_id, place.seq - 1)).rowcount:
                raise Fenced("another relay has noted a later place")
            self._hold(db, held)

    def wait(self, seconds: float) -> None:
        """See `Store`."""
        deadline = time.monotonic() + seconds
        with self._named():
            while (now := self._connection.execute("PRAGMA data_version").fetchone()[0]) == self._seen:
                if time.monotonic() > deadline:
                    return
                time.sleep(LOOK_S)
        self._seen = now

    # -- what is held

    def blocked(self, *, parked: bool) -> set[Line]:
        """See `Store`."""
        with self._named():
            return set(self._connection.execute(blocked(self._table, parked=parked)))

    def unled(self, *, parked: bool) -> Sequence[Line]:
        """See `Store`."""
        with self._named():
            return [(channel, key) for channel, key in self._connection.execute(unled(self._table, parked=parked))]

    def due(self, now_ms: int, limit: int) -> Sequence[HeldRecord]:
        """See `Store`."""
        return self._select_held("state = 'refused' AND due_ms <= ?", (now_ms,), limit, "due_ms, id")

    def line(self, line: Line, limit: int) -> Sequence[HeldRecord]:
        """See `Store`."""
        return self._select_held("channel = ? AND key = ? AND state <> 'parked'", line, limit)

    def held(self, limit: int) -> Sequence[HeldRecord]:
        """See `Store`."""
        return self._select_held("state <> 'behind'", (), limit)

    def _select_held(self, where: str, values: Sequence[object], limit: int, order: str = "id") -> list[HeldRecord]:
        query = f"SELECT {_HELD} FROM {self._table}_held WHERE {where} ORDER BY {order} LIMIT ?"
        with self._named():
            rows = self._connection.execute(query, (*values, limit)).fetchall()
        return [held_record(row) for row in rows]

    def settle(self, sent: Sequence[int], held: Sequence[HeldRecord]) -> None:
        """See `Store`."""
        with self._writing() as db:
            self.confirm()
            db.executemany(f"DELETE FROM {self._table}_held WHERE id = ?", [(one,) for one in sent])
            self._hold(db, held)

    def _hold(self, db: sqlite3.Connection, held: Sequence[HeldRecord]) -> None:
        query = f"INSERT OR REPLACE INTO {self._table}_held ({_HELD}) VALUES ({', '.join('?' * len(HELD_COLUMNS))})"
        db.executemany(query, [held_columns(one) for one in held])

    # -- commands

    def retry(self, ids: Sequence[int] | None) -> int:
        """See `Store`."""
        query = f"UPDATE {self._table}_held SET state = 'refused', attempts = 0, due_ms = 0 WHERE state = 'parked'"
        with self._writing() as db:
            if ids is None:
                return db.execute(query).rowcount
            return db.executemany(f"{query} AND id = ?", [(one,) for one in ids]).rowcount

    def drop(self, ids: Sequence[int]) -> int:
        """See `Store`."""
        query = f"DELETE FROM {self._table}_held WHERE state = 'parked' AND id = ?"
        with self._writing() as db:
            return db.executemany(query, [(one,) for one in ids]).rowcount

    def find(self, event_id: str) -> str | None:
        """See `Store`."""
        with self._named():
            db = self._connection
            found = db.execute(f"SELECT state FROM {self._table}_held WHERE event_id = ?", (event_id,)).fetchone()
            if found is not None:
                return str(found[0])
            query = f"SELECT 1 FROM {self._table} WHERE id > ? AND event_id = ? LIMIT 1"
            return "waiting" if db.execute(query, (self._noted().last_id, event_id)).fetchone() else None

    def lacking(self) -> Sequence[str]:
        """See `Store`: who may write the file may do everything."""
        return () if os.access(self._path, os.W_OK) else (f"writing {self._path}",)

    def busy(self) -> bool:
        """See `Store`."""
        query = f"""
            SELECT 1 WHERE EXISTS (SELECT 1 FROM {self._table} WHERE id > (SELECT last_id FROM {self._table}_cursor))
                OR EXISTS (SELECT 1 FROM {self._table}_held WHERE state = 'refused')"""
        with self._named():
            return self._connection.execute(query).fetchone() is not None

    def status(self, now_ms: int) -> Status:
        """See `Store`."""
        last_id = self._noted().last_id
        rows, held_rows = f"{self._table} WHERE id > {last_id}", f"{self._table}_held WHERE state"
        with self._named():
            db = self._connection
            pending, exact = self._count(rows)
            held, all_counted = self._count(f"{held_rows} <> 'parked'")
            parked, _ = self._count(f"{held_rows} = 'parked'")
            firsts = [
                f"SELECT timestamp_ms FROM {one} ORDER BY id LIMIT 1" for one in (rows, f"{held_rows} <> 'parked'")
            ]
            oldest = [row[0] for query in firsts for row in db.execute(query)]
        return Status(
            pending=pending + held,
            exact=exact and all_counted,
            oldest_age_s=max(now_ms - min(oldest), 0) / 1000 if oldest else None,
            held=held,
            parked=parked,
            leader=self._lock.holder(),
            blocked_by=None,
            version=schema.VERSION,
        )

    def _count(self, rows: str) -> tuple[int, bool]:
        """How many rows there are, and whether they were counted: where there are many, ids are taken for rows."""
        db = self._connection
        counted = int(db.execute(f"SELECT count(*) FROM (SELECT 1 FROM {rows} LIMIT {COUNTED + 1})").fetchone()[0])
        if counted <= COUNTED:
            return counted, True
        (first,), (last,) = (
            db.execute(f"SELECT id FROM {rows} ORDER BY id {way} LIMIT 1").fetchone() for way in ("ASC", "DESC")
        )
        return max(last - first + 1, counted), False

    def clean(self, before_ms: int) -> int:
        """See `Store`."""
        last_id = self._noted().last_id
        rows = f"""
            DELETE FROM {self._table} WHERE id IN (
                SELECT id FROM {self._table} WHERE id <= ? ORDER BY id LIMIT {CHUNK}) AND timestamp_ms < ?"""
        claims = f"""
            DELETE FROM {self._table}_inbox WHERE (action, event_id) IN (
                SELECT action, event_id FROM {self._table}_inbox WHERE done_at < ? LIMIT {CHUNK})"""
        while True:
            with self._writing() as db:
                removed = db.execute(rows, (last_id, before_ms)).rowcount
            if self._lock.held:
                self._lock.touch()  # a large clean takes longer than the lead lasts
            if removed < CHUNK:
                break
        with self._writing() as db:
            return db.execute(claims, (before_ms // 1000,)).rowcount


def _kind(error: sqlite3.Error) -> type[OutboxError | OutboxUnavailable]:
    if not isinstance(error, sqlite3.OperationalError):
        return OutboxError
    if any(one in str(error) for one in _BUSY):
        return OutboxBusy
    return OutboxUnavailable if any(one in str(error) for one in _AWAY) else OutboxError


def connect(path: Path) -> sqlite3.Connection:
    """A connection without transactions of its own, for one thread at a time."""
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
