"""The tables in PostgreSQL, and how a database gets and keeps them."""

from typing import Any

from hexa_worker.errors import ConfigError
from hexa_worker.outbox.versions import require_known, reserved

VERSION = 1
PARTITIONS = 8
BLOCK = 1_000_000
"""So many ids in a row go to one partition, the next ones to the next, and round."""
NOTHING = "1:1:"
"""A snapshot in which nothing is visible. One that a transaction takes itself may show the rows of that transaction."""
LOCK = 0x68657861
"""First half of the advisory locks: "hexa"; the second half says what for."""

# `xid` stands before `id` because defaults are computed in the order of the columns: a transaction has its number
# before it draws ids, so who sees a snapshot taken after an id was drawn sees that transaction finished or running.
_VERSION_1 = """
CREATE SEQUENCE {table}_ids AS bigint CACHE 1;
CREATE TABLE {table} (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint NOT NULL DEFAULT nextval('{table}_ids'),
    event_id text NOT NULL,
    channel text NOT NULL,
    key bytea,
    headers bytea NOT NULL,
    payload bytea NOT NULL,
    timestamp_ms bigint NOT NULL
) PARTITION BY LIST (((id / {block}) % {partitions}));
{parts}
CREATE INDEX ON {table} (id);
CREATE INDEX ON {table} (xid, id);
CREATE FUNCTION {table}_notify() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('{channel}', ''); RETURN NULL; END $$;
CREATE TRIGGER {name}_notify AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_notify();
CREATE TABLE {table}_cursor (
    seq bigint PRIMARY KEY,
    low pg_snapshot NOT NULL,
    low_id bigint NOT NULL,
    high pg_snapshot NOT NULL,
    high_id bigint NOT NULL,
    last_id bigint NOT NULL,
    cluster text NOT NULL
);
INSERT INTO {table}_cursor SELECT 0, '{nothing}', 0, '{nothing}', 0, 0, system_identifier FROM pg_control_system();
CREATE TABLE {table}_held (
    id bigint PRIMARY KEY,
    event_id text NOT NULL,
    channel text NOT NULL,
    key bytea,
    headers bytea NOT NULL,
    payload bytea NOT NULL,
    timestamp_ms bigint NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL,
    reason text NOT NULL,
    due_ms bigint NOT NULL
);
CREATE INDEX ON {table}_held (channel, key, id) WHERE key IS NOT NULL;
CREATE INDEX ON {table}_held (due_ms, id) WHERE state = 'refused';
CREATE INDEX ON {table}_held (id) WHERE state = 'parked';
CREATE TABLE {table}_inbox (
    action text NOT NULL,
    event_id text NOT NULL,
    done_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (action, event_id)
);
CREATE INDEX ON {table}_inbox (done_at);
CREATE VIEW {table}_debezium AS SELECT
    event_id AS id, channel AS aggregatetype, convert_from(key, 'UTF8') AS aggregateid,
    'event' AS type, payload, timestamp_ms FROM {table};
"""
MIGRATIONS = {1: _VERSION_1}
"""By version, what makes it from the one before."""


def ddl(table: str, since: int = 0) -> str:
    """What brings the tables from version `since` to `VERSION`."""
    name = table.rpartition(".")[2]
    parts = "".join(
        f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES IN ({number});\n"
        for number in range(PARTITIONS)
    )
    steps = [
        MIGRATIONS[version].format(
            table=table,
            name=name,
            channel=table,
            parts=parts,
            block=BLOCK,
            partitions=PARTITIONS,
            nothing=NOTHING,
        )
        for version in range(since + 1, VERSION + 1)
    ]
    return "".join(steps) + f"COMMENT ON TABLE {table} IS '{_comment(VERSION)}';\n" if steps else ""


def _comment(version: int) -> str:
    return f"hexa-worker outbox, version {version}"


def version(connection: Any, table: str) -> int | None:
    """The version of the tables; None where there are none.

    Raises:
        ConfigError: the table is somebody else's.
    """
    found = connection.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class') WHERE to_regclass(%s) IS NOT NULL", (table, table)
    ).fetchone()
    if found is None:
        return None
    head, _, number = (found[0] or "").rpartition(" ")
    if f"{head} 0" != _comment(0) or not number.isdigit():
        raise ConfigError(f"table {table} is there and is no outbox", where="outbox.table", hint="name another table")
    return int(number)


def migrate(connection: Any, table: str) -> tuple[int | None, int]:
    """Make or renew the tables, one process at a time; returns the version before and the one now.

    Args:
        connection: of psycopg, by itself in autocommit.
        table: what they are named after.

    Raises:
        ConfigError: they are of a newer version, or somebody else's.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (LOCK, f"{table} schema"))
        before = version(connection, table)
        require_known(before, VERSION, table)
        _require_plain(connection, table)
        if before != VERSION:
            connection.execute(ddl(table, before or 0))
    return before, VERSION


def _require_plain(connection: Any, table: str) -> None:
    """Refuse words that PostgreSQL takes for its own.

    Raises:
        ConfigError: the table's name is one.
    """
    query = "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T') AND word = ANY(%s)"
    found = connection.execute(query, (table.split("."),)).fetchone()
    if found is not None:
        raise reserved(found[0])


def adopt(connection: Any, table: str) -> int:
    """Take the rows of another cluster's dump as this one's; returns how many wait to be sent.

    Their transaction numbers mean nothing here: what was not sent gets one of this cluster, the rest is removed.
    """
    with connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        last = connection.execute(
            f"SELECT low::text, low_id, seq FROM {table}_cursor ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        low, low_id, seq = last or (NOTHING, 0, 0)
        sent = "id <= %s AND pg_visible_in_snapshot(xid, %s)"
        connection.execute(f"DELETE FROM {table} WHERE {sent}", (low_id, low))
        moved = connection.execute(f"UPDATE {table} SET xid = pg_current_xact_id()").rowcount
        connection.execute(
            f"INSERT INTO {table}_cursor SELECT %s, %s, 0, %s, 0, 0, system_identifier FROM pg_control_system()",
            (seq + 1, NOTHING, NOTHING),
        )
        return int(moved)
