"""The outbox under the harness: tables in a test's own SQLite connection, relayed in virtual time."""

import sqlite3
from collections.abc import Sequence

from hexa_worker.clock import Clock
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked, Released, Settlement
from hexa_worker.drivers.base import SubscriptionSpec, Unsettled
from hexa_worker.drivers.memory import MemorySource, MemoryStore
from hexa_worker.errors import LeaseLost
from hexa_worker.outbox.inbox import HandlerOutbox
from hexa_worker.outbox.outbox import Outbox
from hexa_worker.outbox.records import COLUMNS, record
from hexa_worker.outbox.sqlite.schema import ddl, version


class HarnessOutbox:
    """The outbox of a harness.

    Args:
        connection: a test's own; the tables are made in it. None: handlers bring theirs, and nothing is relayed.
        table: what the tables are named after.
        clock: the harness's.
    """

    def __init__(self, connection: sqlite3.Connection | None, table: str, clock: Clock) -> None:
        self.transactions = HandlerOutbox(Outbox(table, lambda message: message, clock))
        self._connection = connection
        self._table = table
        self._last = 0
        if connection is not None and version(connection, table) is None:
            connection.executescript(ddl(table))

    def take(self) -> list[Message]:
        """What was committed and not taken yet, in order."""
        if self._connection is None or self._connection.in_transaction:
            return []
        query = f"SELECT id, {', '.join(COLUMNS)} FROM {self._table} WHERE id > ? ORDER BY id"  # noqa: S608 - the table's name is checked
        rows = [record(row) for row in self._connection.execute(query, (self._last,))]
        if rows:
            self._last = rows[-1].id
        return [one.message for one in rows]


class Crashes:
    """How often a process is to die between the end of a handler and its acknowledgement."""

    def __init__(self) -> None:
        self.left = 0


class CrashingSource(MemorySource):
    """A source whose acknowledgements never arrive, as often as it is told: what they were about comes again."""

    def __init__(self, store: MemoryStore, spec: SubscriptionSpec, crashes: Crashes) -> None:
        super().__init__(store, spec)
        self._crashes = crashes

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """As the source's, or not at all."""
        kept: list[Settlement] = []
        lost: list[Unsettled] = []
        for one in settlements:
            if self._crashes.left and isinstance(one, Acked):
                self._crashes.left -= 1
                kept.append(Released(one.delivery))
                lost.append(Unsettled(one, LeaseLost("the process died before it acknowledged")))
            else:
                kept.append(one)
        return [*await super().settle(kept), *lost]
