"""The relay's connection to a PostgreSQL outbox."""

import selectors
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg
from msgspec.structs import replace
from psycopg import errors

from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.outbox.base import LEASE_MS, Line, OutboxBatch, RelayPosition, Status
from hexa_worker.outbox.errors import Fenced, OutboxError, OutboxUnavailable
from hexa_worker.outbox.postgres import schema
from hexa_worker.outbox.postgres.connecting import connect, named
from hexa_worker.outbox.postgres.places import PgPlace, Snapshot, something_new
from hexa_worker.outbox.postgres.statements import Statements
from hexa_worker.outbox.records import HeldRecord, held_columns, held_record, record
from hexa_worker.outbox.statements import blocked, unled
from hexa_worker.outbox.versions import require_known

KEPT_PLACES = 500
"""So many noted places gather before the old ones are removed."""
SKIP_ROOM = 100_000
"""Ids are skipped to the next partition only so far from the end of one: nobody draws so many meanwhile."""
LOCK_MS = 100
GONE = {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 2, "tcp_keepalives_count": 3, "tcp_user_timeout": 10_000}
"""When the server takes a leader for gone whose machine was lost; by itself it keeps the lock for two hours."""
FROZEN = ("idle_in_transaction_session_timeout", "idle_session_timeout")
"""What ends the session of a leader whose process is frozen; PostgreSQL 13 has only the first."""
COUNTED = 10_000
"""Up to so many pending events are counted one by one."""
POOLED = (
    "a pooler gives each transaction another connection, which cannot hold the relay's lock: "
    "give outbox.url the address of the server itself, or of a pooler in session mode"
)
POOLER_S = 3.0
NO_SECOND = (
    f"the pooler had no second connection to the server within {POOLER_S:g} s, by which is seen whether it shares "
    "them: raise its pool_size to 2 or more, or give outbox.url the address of the server itself"
)
_HALF = "hashtext(to_regclass(%s)::oid::text || ' ' || %s)"
"""The second half of an advisory lock, of a table and for a purpose."""


class PostgresOutboxStore:
    """See `hexa_worker.outbox.base.Store`.

    Args:
        options: the ``[outbox]`` table.
    """

    def __init__(self, options: OutboxConfig) -> None:
        self._options = options
        self._sql = Statements(options.table)
        self._db: psycopg.Connection[Any] | None = None
        self._place: PgPlace | None = None
        self._cluster = ""
        self._server_pid = 0
        self._heard = False

    # -- its life

    def open(self) -> None:
        """See `Store`."""
        self._db = connect(self._options.url)
        with self._named():
            found = schema.version(self._db, self._options.table)
            require_known(found, schema.VERSION, self._options.table)
            if found != schema.VERSION:
                state = "no tables" if found is None else f"tables of version {found}"
                raise OutboxError(f"{self._options.table} has {state}: run hexa-worker outbox init")
            # Places are repeated, not lost, if the server forgets the last ones; and rows are found by their ids.
            self._db.execute("SET synchronous_commit = off")
            for name, value in GONE.items():
                self._db.execute(f"SET {name} = {value}")
            # What cannot be avoided then counts as dear, which would have it compiled for longer than it runs.
            for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"):
                self._db.execute(f"SET {name} = off")

    def close(self) -> None:
        """See `Store`."""
        self._place = None
        self._server_pid = 0
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _connection(self) -> "psycopg.Connection[Any]":
        if self._db is None:
            raise OutboxUnavailable("the outbox is not open")
        return self._db

    def _named(self) -> Any:
        return named(self._options.url)

    # -- its turn

    def lead(self) -> bool:
        """See `Store`."""
        db = self._connection
        with self._named():
            if not self._server_pid:
                self._server_pid = self._own_session(db)
            if not self._lock("relay", "pg_try_advisory_lock"):
                return False
            db.execute(
                "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = ANY(%s)", (str(LEASE_MS), [*FROZEN])
            )
            db.execute(f'LISTEN "{self._options.table}"')
            self._load()
            return True

    def _lock(self, purpose: str, function: str) -> bool:
        """Try to take a lock of this table: by its number, for a name may lead to several, and several to one."""
        query = f"SELECT {function}(%s, {_HALF})"
        row = self._connection.execute(query, (schema.LOCK, self._options.table, purpose)).fetchone()
        return row is not None and bool(row[0])

    def _own_session(self, db: "psycopg.Connection[Any]") -> int:
        """The number of the server's process for this connection.

        A pooler has numbers of its own for its clients. One in transaction mode gives ours, which is idle now, to
        whoever asks next: us. That is tried before any lock is taken, which would stay with the pooler.

        Raises:
            OutboxError: the connection is not ours alone.
        """
        mine = int(self._one("SELECT pg_backend_pid()")[0])
        if mine != db.info.backend_pid:
            with closing(connect(self._options.url)) as other:
                if self._pid_of(other) == mine:
                    raise OutboxError(POOLED)
        return mine

    def _pid_of(self, other: "psycopg.Connection[Any]") -> int:
        """As the server tells it; a pooler without a connection to spare would let us wait for minutes."""
        other.pgconn.send_query(b"SELECT pg_backend_pid()")
        with selectors.DefaultSelector() as waiting:
            waiting.register(other.fileno(), selectors.EVENT_READ)
            if not waiting.select(POOLER_S):
                raise OutboxError(NO_SECOND)
        row = other.pgconn.get_result()
        value = None if row is None else row.get_value(0, 0)
        if value is None:
            raise OutboxUnavailable("the pooler has closed the connection")
        return int(value)

    def _load(self) -> None:
        db = self._connection
        row = db.execute(self._sql.cursor).fetchone()
        here = db.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        if row is None or here is None:
            raise OutboxError(f"{self._options.table}_cursor is empty: run hexa-worker outbox init")
        seq, low, low_id, high, high_id, last_id, cluster = row
        if cluster != here[0]:
            raise OutboxError(
                f"{self._options.table} came from another database cluster, whose transactions cannot be told from "
                "those of this one: run hexa-worker outbox init --restored"
            )
        self._cluster = cluster
        self._place = PgPlace(seq=seq, low=low, low_id=low_id, high=high, high_id=high_id, last_id=last_id)

    def fetch(self, limit: int) -> OutboxBatch | None:
        """See `Store`."""
        with self._named():
            place = self._place
            if place is None:
                raise Fenced("it was never the leader")
            self._hear()
            if place.finished:
                self._heard = False  # what was told of until now is visible to what is read now
                begun = self._begin(place)
                if begun is None:
                    return None
                place = begun
            rows = self._read(place, limit)
            self._place = after = place.after(int(rows[-1][0]) if len(rows) == limit else None)
            if not rows:
                self._place = replace(after, seq=place.seq)  # nothing was sent, so there is nothing to note
                return None
            return OutboxBatch([record(row) for row in rows], after)

    def _begin(self, place: PgPlace) -> PgPlace | None:
        """The place seen from now; None when nothing can have come."""
        now, drawn = self._snapshot(), self._drawn()
        if not something_new(place, drawn, now):
            return None
        # In this order: who draws an id before it is read here has a number before ours, so that the snapshot,
        # which knows that we have ended, lists it if it has not.
        drawn = self._drawn()
        self._connection.execute("SELECT pg_current_xact_id()")
        return place.begun(self._snapshot().text, drawn)

    def _snapshot(self) -> Snapshot:
        row = self._one("SELECT pg_current_snapshot()::text, pg_backend_pid()")
        if row[1] != self._server_pid:
            raise OutboxError(POOLED)
        return Snapshot(row[0])

    def _drawn(self) -> int:
        return int(self._one(self._sql.ids)[0])

    def _read(self, place: PgPlace, limit: int) -> list[Any]:
        rows = self._read_late(place, limit)
        if len(rows) < limit:
            asked = _asked(place, limit - len(rows))
            rows += self._connection.cursor(binary=True).execute(self._sql.next, asked).fetchall()
        return rows

    def _read_late(self, place: PgPlace, limit: int) -> list[Any]:
        """Rows of transactions that ran when `place.low` was taken."""
        if place.last_id >= place.low_id or not Snapshot(place.low).running:
            return []
        return self._connection.cursor(binary=True).execute(self._sql.late, _asked(place, limit)).fetchall()

    def confirm(self) -> None:
        """See `Store`."""
        if self._place is None:
            raise Fenced("it does not lead")
        with self._named():
            self._hear()
            newer = self._connection.execute(self._sql.newer, (self._place.seq,)).fetchone()
        if newer is not None and newer[0]:
            raise Fenced("another relay has noted a later place")

    def advance(self, place: RelayPosition, held: Sequence[HeldRecord]) -> None:
        """See `Store`."""
        assert isinstance(place, PgPlace)  # noqa: S101 - it came from `fetch`
        db = self._connection
        fields = {name: getattr(place, name) for name in place.__struct_fields__}
        with self._named():
            try:
                with db.transaction():
                    self._hold(held)
                    noted = db.execute(self._sql.advance, {**fields, "cluster": self._cluster})
                    if not noted.rowcount:
                        raise Fenced("another relay has noted a later place")
            except errors.UniqueViolation as error:
                raise Fenced("another relay has noted the same place") from error
            if place.seq % KEPT_PLACES == 0:
                db.execute(self._sql.forget, (place.seq,))

    def wait(self, seconds: float) -> None:
        """See `Store`."""
        with self._named():
            if not self._heard:
                for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                    pass
            self._heard = False

    def _hear(self) -> None:
        """Take what psycopg has kept of notifications: one for each commit, for as long as nobody asks for them."""
        for _ in self._connection.notifies(timeout=0):
            self._heard = True

    # -- what is held

    def blocked(self, *, parked: bool) -> set[Line]:
        """See `Store`."""
        with self._named():
            return {
                (row[0], bytes(row[1])) for row in self._connection.execute(blocked(self._options.table, parked=parked))
            }

    def unled(self, *, parked: bool) -> Sequence[Line]:
        """See `Store`."""
        with self._named():
            return [
                (row[0], bytes(row[1])) for row in self._connection.execute(unled(self._options.table, parked=parked))
            ]

    def due(self, now_ms: int, limit: int) -> Sequence[HeldRecord]:
        """See `Store`."""
        with self._named():
            return [held_record(row) for row in self._connection.execute(self._sql.due, (now_ms, limit))]

    def line(self, line: Line, limit: int) -> Sequence[HeldRecord]:
        """See `Store`."""
        with self._named():
            return [held_record(row) for row in self._connection.execute(self._sql.line, (*line, limit))]

    def settle(self, sent: Sequence[int], held: Sequence[HeldRecord]) -> None:
        """See `Store`."""
        with self._named(), self._connection.transaction():
            self.confirm()
            self._connection.execute(self._sql.let_go, (list(sent),))
            self._hold(held)

    def _hold(self, held: Sequence[HeldRecord]) -> None:
        if held:
            self._connection.cursor().executemany(self._sql.hold, [held_columns(one) for one in held])

    # -- commands

    def held(self, limit: int) -> Sequence[HeldRecord]:
        """See `Store`."""
        with self._named():
            return [held_record(row) for row in self._connection.execute(self._sql.held, (limit,))]

    def retry(self, ids: Sequence[int] | None) -> int:
        """See `Store`."""
        named_ids = None if ids is None else list(ids)
        with self._named():
            return self._connection.execute(self._sql.retry, (named_ids, named_ids)).rowcount

    def drop(self, ids: Sequence[int]) -> int:
        """See `Store`."""
        with self._named():
            return self._connection.execute(self._sql.drop, (list(ids),)).rowcount

    def find(self, event_id: str) -> str | None:
        """See `Store`."""
        with self._named():
            found = self._connection.execute(self._sql.find_held, (event_id,)).fetchone()
            if found is not None:
                return str(found[0])
            place = self._noted()
            asked = {"event_id": event_id, "low": place.low, "low_id": place.low_id}
            return "waiting" if self._connection.execute(self._sql.find, asked).fetchone() else None

    def _noted(self) -> PgPlace:
        row = self._connection.execute(self._sql.cursor).fetchone()
        if row is None:
            raise OutboxError(f"{self._options.table}_cursor is empty: run hexa-worker outbox init")
        return PgPlace(seq=row[0], low=row[1], low_id=row[2], high=row[3], high_id=row[4], last_id=row[5])

    def lacking(self) -> Sequence[str]:
        """See `Store`."""
        with self._named():
            rows = self._connection.execute(
                "SELECT right_name || ' on ' || name FROM unnest(%s::text[], %s::text[]) AS needs (name, right_name)"
                " WHERE NOT CASE WHEN name = %s THEN has_sequence_privilege(name, right_name)"
                " ELSE has_table_privilege(name, right_name) END",
                (*[list(column) for column in zip(*self._sql.needs, strict=True)], f"{self._options.table}_ids"),
            )
            return [row[0] for row in rows]

    def busy(self) -> bool:
        """See `Store`."""
        with self._named():
            if self._first(self._seen_now()):
                return True
            return self._connection.execute(self._sql.any_refused).fetchone() is not None

    def status(self, now_ms: int) -> Status:
        """See `Store`."""
        with self._named():
            db = self._connection
            seen = self._seen_now()
            pending, exact = self._pending(seen)
            held, parked, all_counted = self._count_held()
            oldest = [row[6] for row in self._first(seen)]
            oldest += [row[0] for row in db.execute(self._sql.oldest_held)]
            return Status(
                pending=pending + held,
                exact=exact and all_counted,
                oldest_age_s=max(now_ms - min(oldest), 0) / 1000 if oldest else None,
                held=held,
                parked=parked,
                leader=self._leader(),
                blocked_by=self._blocked_by(),
                version=schema.VERSION,
            )

    def _now(self) -> Snapshot:
        return Snapshot(self._one("SELECT pg_current_snapshot()::text")[0])

    def _seen_now(self) -> list[PgPlace]:
        """The place that was noted, seen from now; and within a snapshot, what came since before that place."""
        place, now = self._noted(), self._now().text
        behind = replace(place, high=now)
        if place.finished:
            return [behind]
        return [behind, replace(place, low=place.high, low_id=place.last_id, last_id=0, high=now)]

    def _first(self, seen: Sequence[PgPlace]) -> list[Any]:
        """The first rows that wait, at most one of each part of `seen`; none: nothing waits."""
        behind, *since = seen
        return self._read(behind, 1) + [row for one in since for row in self._read_late(one, 1)]

    def _count_held(self) -> tuple[int, int, bool]:
        """How many are held, how many parked, and whether they were counted: many are estimated."""
        held, parked, estimate = self._one(self._sql.counts, {"limit": COUNTED + 1})
        if max(held, parked) <= COUNTED:
            return held, parked, True
        most = max(estimate, held + parked)
        return (held, most - held, False) if held <= COUNTED else (most - parked, parked, False)

    def _pending(self, seen: Sequence[PgPlace]) -> tuple[int, bool]:
        place = seen[0]
        late = sum(self._count(self._sql.late, one) for one in seen)
        following = self._count(self._sql.next, place)
        if following <= COUNTED:
            return late + following, late <= COUNTED
        return late + self._drawn() - max(place.last_id, place.low_id), False

    def _count(self, query: str, place: PgPlace) -> int:
        return int(self._one(f"SELECT count(*) FROM ({query}) AS rows", _asked(place, COUNTED + 1))[0])

    def _one(self, query: str, asked: dict[str, Any] | None = None) -> Any:
        """The row of a query that always has one."""
        row = self._connection.execute(query, asked).fetchone()
        assert row is not None  # noqa: S101 - see above
        return row

    def _leader(self) -> str | None:
        row = self._connection.execute(
            "SELECT coalesce(client_addr::text, 'local') || ' pid ' || pid FROM pg_locks JOIN pg_stat_activity"
            " USING (pid) WHERE locktype = 'advisory' AND classid = %s AND granted"
            f" AND objid = ({_HALF}::bigint & 4294967295)::oid AND objsubid = 2"
            " AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (schema.LOCK, self._options.table, "relay"),
        ).fetchone()
        return None if row is None else str(row[0])

    def _blocked_by(self) -> tuple[int, float | None] | None:
        """By its lock, which every login may see; one that has notified, as all that emit, cannot be prepared."""
        row = self._connection.execute(
            "SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8"
            " FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
            " ORDER BY age(transactionid) DESC LIMIT 1"
        ).fetchone()
        return None if row is None else (int(row[0]), None if row[1] is None else float(row[1]))

    # -- cleaning

    def clean(self, before_ms: int) -> int:
        """See `Store`."""
        with self._named():
            place = self._noted()
            for part in self._sql.parts:
                self._truncate(part, place, before_ms)
            self._skip(place, before_ms)
            return self._connection.execute(self._sql.forget_claims, (before_ms,)).rowcount

    def _truncate(self, part: str, place: PgPlace, before_ms: int) -> None:
        """Empty a partition whose rows are all sent and old. Whoever may still write to it is waited for, not long."""
        db = self._connection
        newest = db.execute(self._sql.newest_of(part)).fetchone()
        if newest is None or newest[1] >= before_ms:
            return
        try:
            with db.transaction():
                db.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
                db.execute(f"LOCK TABLE ONLY {part} IN ACCESS EXCLUSIVE MODE")
                newest = db.execute(self._sql.newest_of(part)).fetchone()
                unsent = db.execute(self._sql.unsent_of(part), {"low": place.low, "low_id": place.low_id}).fetchone()
                if newest is not None and newest[1] < before_ms and unsent is not None and not unsent[0]:
                    db.execute(f"TRUNCATE {part}")
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            return  # a reader or writer has it: the next round will do

    def _skip(self, place: PgPlace, before_ms: int) -> None:
        """Begin the next partition where the present one holds old rows, so that it can be emptied one day.

        One at a time: the second of two that found the same end would set the ids back, to some that are sent.
        """
        with self._connection.transaction():
            if self._lock("skip", "pg_try_advisory_xact_lock"):
                self._skip_alone(place, before_ms)

    def _skip_alone(self, place: PgPlace, before_ms: int) -> None:
        drawn = self._drawn()
        part = self._sql.parts[drawn // schema.BLOCK % schema.PARTITIONS]
        oldest = self._connection.execute(self._sql.oldest_of(part)).fetchone()
        end = (drawn // schema.BLOCK + 1) * schema.BLOCK
        if oldest is not None and oldest[1] < before_ms and oldest[0] <= place.low_id:
            self._connection.execute(self._sql.skip_ids, {"end": end, "room": SKIP_ROOM})


def _asked(place: PgPlace, limit: int) -> dict[str, Any]:
    return {
        "low": place.low,
        "high": place.high,
        "low_id": place.low_id,
        "last_id": place.last_id,
        "limit": limit,
    }
