"""The tables in SQLite, and how a database gets and keeps them."""

import sqlite3

from hexa_worker.errors import ConfigError
from hexa_worker.outbox.versions import require_known, reserved

VERSION = 1
_VERSION_1 = """
CREATE TABLE {table} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    key BLOB,
    headers BLOB NOT NULL,
    payload BLOB NOT NULL,
    timestamp_ms INTEGER NOT NULL
);
CREATE TABLE {table}_cursor (seq INTEGER NOT NULL, last_id INTEGER NOT NULL, version INTEGER NOT NULL);
INSERT INTO {table}_cursor VALUES (0, 0, 0);
CREATE TABLE {table}_held (
    id INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    key BLOB,
    headers BLOB NOT NULL,
    payload BLOB NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    due_ms INTEGER NOT NULL
);
CREATE INDEX {table}_held_line ON {table}_held (channel, key, id) WHERE key IS NOT NULL;
CREATE INDEX {table}_held_due ON {table}_held (due_ms, id) WHERE state = 'refused';
CREATE INDEX {table}_held_parked ON {table}_held (id) WHERE state = 'parked';
CREATE TABLE {table}_inbox (
    action TEXT NOT NULL,
    event_id TEXT NOT NULL,
    done_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)),
    PRIMARY KEY (action, event_id)
) WITHOUT ROWID;
CREATE INDEX {table}_inbox_done ON {table}_inbox (done_at);
CREATE VIEW {table}_debezium AS SELECT
    event_id AS id, channel AS aggregatetype, CAST(key AS TEXT) AS aggregateid,
    'event' AS type, payload, timestamp_ms FROM {table};
"""
MIGRATIONS = {1: _VERSION_1}
"""By version, what makes it from the one before."""


def ddl(table: str, since: int = 0) -> str:
    """What brings the tables from version `since` to `VERSION`."""
    steps = "".join(MIGRATIONS[version].format(table=table) for version in range(since + 1, VERSION + 1))
    return f"{steps}UPDATE {table}_cursor SET version = {VERSION};\n" if steps else ""


def version(db: sqlite3.Connection, table: str) -> int | None:
    """The version of the tables; None where there are none.

    Raises:
        ConfigError: the table is somebody else's.
    """
    known = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN (?, ?)"
    count = int(db.execute(known, (table, f"{table}_cursor")).fetchone()[0])
    if not count:
        return None
    if count == 1:
        raise ConfigError(f"table {table} is there and is no outbox", where="outbox.table", hint="name another table")
    return int(db.execute(f"SELECT version FROM {table}_cursor").fetchone()[0])


def migrate(db: sqlite3.Connection, table: str) -> tuple[int | None, int]:
    """Make or renew the tables, one process at a time; returns the version before and the one now.

    Args:
        db: without transactions of its own (`isolation_level` None).
        table: what they are named after.

    Raises:
        ConfigError: they are of a newer version, or somebody else's.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        before = version(db, table)
        require_known(before, VERSION, table)
        _require_plain(db, table)
        for statement in ddl(table, before or 0).split(";\n") if before != VERSION else ():
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    return before, VERSION


def _require_plain(db: sqlite3.Connection, table: str) -> None:
    """Refuse words that SQLite takes for its own.

    Raises:
        ConfigError: the table's name is one.
    """
    try:
        db.execute(f"SELECT 1 FROM (SELECT 1) AS {table}")
    except sqlite3.OperationalError as error:
        if "syntax error" in str(error):
            raise reserved(table) from error
