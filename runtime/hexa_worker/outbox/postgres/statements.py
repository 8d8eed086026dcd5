"""The statements in PostgreSQL, for one table. Parameters are psycopg's.

Which rows are to be sent: those visible in the snapshot `high` and not in `low`. Ids tell where to look: every row of
a transaction that began after `low` has an id above `low_id`, which was read before `low` was taken; a row below it
belongs to a transaction that ran then, and the snapshot lists these.
"""

from hexa_worker.outbox.postgres.schema import PARTITIONS
from hexa_worker.outbox.records import COLUMNS, HELD_COLUMNS

_COLUMNS = ", ".join(COLUMNS)
_HELD = ", ".join(HELD_COLUMNS)


class Statements:
    """See the module.

    Args:
        table: what the tables are named after; checked by the configuration.
    """

    def __init__(self, table: str) -> None:
        self.table = table
        self.parts = [f"{table}_{number}" for number in range(PARTITIONS)]
        self.needs = [
            *[(name, right) for name in (table, *self.parts) for right in ("SELECT", "TRUNCATE")],
            *[(f"{table}_ids", right) for right in ("SELECT", "UPDATE")],
            *[
                (f"{table}_{name}", right)
                for name in ("cursor", "held", "inbox")
                for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
            ],
        ]
        self._say_rows(table)
        self._say_places(table)
        self._say_held(table)
        self._say_watching(table)

    def _say_rows(self, table: str) -> None:
        """What waits, and where its ids stand."""
        self.ids = f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {table}_ids"
        self.skip_ids = f"""
            SELECT setval('{table}_ids', %(end)s) FROM {table}_ids WHERE %(end)s - last_value > %(room)s"""
        self.late = f"""
            SELECT o.* FROM pg_snapshot_xip(%(low)s) AS x, LATERAL (
                SELECT id, {_COLUMNS} FROM {table}
                WHERE xid = x AND id > %(last_id)s AND id <= %(low_id)s ORDER BY id LIMIT %(limit)s
            ) AS o WHERE pg_visible_in_snapshot(x, %(high)s) ORDER BY o.id LIMIT %(limit)s"""
        self.next = f"""
            SELECT id, {_COLUMNS} FROM {table}
            WHERE id > greatest(%(last_id)s, %(low_id)s)
                AND NOT pg_visible_in_snapshot(xid, %(low)s) AND pg_visible_in_snapshot(xid, %(high)s)
            ORDER BY id LIMIT %(limit)s"""

    def _say_places(self, table: str) -> None:
        """How far it is sent."""
        self.cursor = f"""
            SELECT seq, low::text, low_id, high::text, high_id, last_id, cluster
            FROM {table}_cursor ORDER BY seq DESC LIMIT 1"""
        self.advance = f"""
            INSERT INTO {table}_cursor (seq, low, low_id, high, high_id, last_id, cluster)
            SELECT %(seq)s, %(low)s, %(low_id)s, %(high)s, %(high_id)s, %(last_id)s, %(cluster)s
            WHERE NOT EXISTS (SELECT FROM {table}_cursor WHERE seq >= %(seq)s)"""
        self.newer = f"SELECT EXISTS (SELECT FROM {table}_cursor WHERE seq > %s)"
        self.forget = f"DELETE FROM {table}_cursor WHERE seq < %s"

    def _say_held(self, table: str) -> None:
        """What could not be sent in its turn."""
        self.hold = f"""
            INSERT INTO {table}_held ({_HELD}) VALUES ({", ".join(["%s"] * len(HELD_COLUMNS))})
            ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempts = excluded.attempts,
                reason = excluded.reason, due_ms = excluded.due_ms"""
        self.let_go = f"DELETE FROM {table}_held WHERE id = ANY(%s)"
        self.due = f"""
            SELECT {_HELD} FROM {table}_held WHERE state = 'refused' AND due_ms <= %s
            ORDER BY due_ms, id LIMIT %s"""
        self.line = f"""
            SELECT {_HELD} FROM {table}_held WHERE channel = %s AND key = %s AND state <> 'parked'
            ORDER BY id LIMIT %s"""
        self.held = f"SELECT {_HELD} FROM {table}_held WHERE state <> 'behind' ORDER BY id LIMIT %s"
        self.any_refused = f"SELECT 1 FROM {table}_held WHERE state = 'refused' LIMIT 1"
        self.retry = f"""
            UPDATE {table}_held SET state = 'refused', attempts = 0, due_ms = 0
            WHERE state = 'parked' AND (%s::bigint[] IS NULL OR id = ANY(%s))"""
        self.drop = f"DELETE FROM {table}_held WHERE state = 'parked' AND id = ANY(%s)"

    def _say_watching(self, table: str) -> None:
        """How it stands, where an event is, and old claims."""
        self.counts = f"""
            SELECT (SELECT count(*) FROM (SELECT FROM {table}_held WHERE state <> 'parked' LIMIT %(limit)s) AS held),
                (SELECT count(*) FROM (SELECT FROM {table}_held WHERE state = 'parked' LIMIT %(limit)s) AS parked),
                (SELECT reltuples::bigint FROM pg_class WHERE oid = '{table}_held'::regclass)"""
        self.oldest_held = f"SELECT timestamp_ms FROM {table}_held WHERE state <> 'parked' ORDER BY id LIMIT 1"
        self.forget_claims = f"""
            DELETE FROM {table}_inbox WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM {table}_inbox WHERE done_at < to_timestamp(%s / 1000.0) LIMIT 10000))"""
        self.find_held = f"SELECT state FROM {table}_held WHERE event_id = %s"
        self.find = f"""
            SELECT 1 FROM {table} WHERE event_id = %(event_id)s AND NOT pg_visible_in_snapshot(xid, %(low)s)
                AND (id > %(low_id)s OR xid IN (SELECT pg_snapshot_xip(%(low)s))) LIMIT 1"""

    @staticmethod
    def newest_of(part: str) -> str:
        """When the last row of a partition was written."""
        return f"SELECT id, timestamp_ms FROM {part} ORDER BY id DESC LIMIT 1"

    @staticmethod
    def oldest_of(part: str) -> str:
        """When the first row of a partition was written."""
        return f"SELECT id, timestamp_ms FROM {part} ORDER BY id LIMIT 1"

    @staticmethod
    def unsent_of(part: str) -> str:
        """Whether a partition has rows that are not sent."""
        return f"""
            SELECT EXISTS (SELECT FROM {part} WHERE id > %(low_id)s AND NOT pg_visible_in_snapshot(xid, %(low)s))
                OR EXISTS (SELECT FROM {part} WHERE xid IN (SELECT pg_snapshot_xip(%(low)s)))"""
