"""The tables of the embedded broker, and how a file gets and keeps them.

- A *channel* is a log: ids of its rows are ``channel << SEQUENCE_BITS | sequence``, so reading a stretch of a
  channel is a range scan of the table itself. ``next`` is the sequence its next record gets, ``first`` the
  lowest one that trimming has left.
- A *position* is how far a subscription has leased a channel. With order by key each stripe has a position of
  its own, and ``positions.next`` only counts what was leased, so that a backlog stays one subtraction.
- ``channels.striped``: 0 no record has a stripe, 1 new ones do, 2 all do. Nobody reads stripes before 2.
- A *lease* is a stretch ``[low, high)`` in the hands of an owner (0: nobody, free to take). ``done`` holds what is
  finished beyond ``low``. A lease on delayed records has channel 0 and row ids for ``low`` and ``high``;
  ``members`` says which of them it took (null: all), less those given back; what is finished is deleted.
- *Delayed* records wait for their time: each that nobody has leased is in the *schedule*. A record is written
  once and deleted once, and neither a million of them nor their payloads are ever looked at to find the next
  one due.
- *Postponed* records wait for a retry in their place: they stay leased; what is noted is for whoever has them next.
"""

import sqlite3

from hexa_worker.errors import DriverRejected

VERSION = 2
SEQUENCE_BITS = 40
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
STRIPES = 64
NO_STRIPE = -1
NOBODY = 0

_POSTPONED = """
CREATE TABLE postponed (
    subscription INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    PRIMARY KEY (subscription, channel, sequence)
) WITHOUT ROWID;
"""
_TABLES = """
CREATE TABLE channels (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    dead_letter INTEGER NOT NULL DEFAULT 0,
    striped INTEGER NOT NULL DEFAULT 0,
    first INTEGER NOT NULL DEFAULT 0,
    next INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    stripe INTEGER,
    at_ms INTEGER NOT NULL,
    key BLOB,
    headers BLOB,
    payload BLOB NOT NULL
);
CREATE INDEX log_stripe ON log (stripe) WHERE stripe IS NOT NULL;
CREATE TABLE subscriptions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    pattern TEXT,
    by_key INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE positions (
    subscription INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (subscription, channel)
) WITHOUT ROWID;
CREATE TABLE stripes (
    subscription INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    stripe INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (subscription, channel, stripe)
) WITHOUT ROWID;
CREATE TABLE retry_bases (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    next INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE retry_channels (
    name TEXT PRIMARY KEY,
    base INTEGER NOT NULL,
    number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE delayed (
    id INTEGER PRIMARY KEY,
    base INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    key BLOB,
    headers BLOB,
    payload BLOB NOT NULL
);
CREATE TABLE schedule (
    base INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (base, due_ms, id)
) WITHOUT ROWID;
CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    subscription INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    stripe INTEGER NOT NULL,
    low INTEGER NOT NULL,
    high INTEGER NOT NULL,
    done BLOB,
    members BLOB,
    remaining INTEGER NOT NULL,
    owner INTEGER NOT NULL
);
CREATE INDEX leases_place ON leases (subscription, channel, stripe);
CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
);
"""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Create the tables in a new file, or bring an older file up to date. Inside one write transaction.

    Raises:
        DriverRejected: a newer hexa-worker wrote the file, or another program did.
    """
    version = _version(connection)
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # another process may have been faster
        _refuse_foreign(connection, path, version)
        if version < VERSION:
            for statement in (_TABLES * (version == 0) + _POSTPONED).split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refuse_foreign(connection: sqlite3.Connection, path: str, version: int) -> None:
    if version > VERSION:
        raise DriverRejected(
            f"{path} was written by a newer hexa-worker (file version {version}, this one knows {VERSION}): "
            "upgrade hexa-worker, or use another file"
        )
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise DriverRejected(f"{path} is another program's database: use another file")


def _version(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA user_version").fetchone()
    return row[0]
