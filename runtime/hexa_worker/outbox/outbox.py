"""`Outbox`: events are prepared and written in the caller's own transaction."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.load import load_config
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Message
from hexa_worker.core.naming import channel_problem
from hexa_worker.drivers.opening import driver_name, record_form
from hexa_worker.errors import ConfigError
from hexa_worker.event_encoder import Preparer
from hexa_worker.outbox.connections import CallerConnection, async_connection, sync_connection
from hexa_worker.outbox.errors import OutboxError
from hexa_worker.outbox.records import Prepared
from hexa_worker.outbox.statements import Statement, insert
from hexa_worker.subscriptions.api import Event

ToWire = Callable[[Message], Message]


class Outbox:
    """Writes events into a database, where a relay finds them. Thread-safe; opens no connection.

    Args:
        table: what the outbox's tables are named after.
        to_wire: puts a record into the form that its channel has in the broker.
        clock: stamps records and ids; default: the machine's.
        driver: of the broker that the records go to, whose rules for a channel's name hold.
    """

    def __init__(self, table: str, to_wire: ToWire, clock: Clock | None = None, driver: str = "") -> None:
        self.table = table
        self._to_wire = to_wire
        self._driver = driver
        self._preparer = Preparer(clock or SystemClock(), encode)

    @classmethod
    def from_config(cls, path: str | Path = "worker.toml") -> Self:
        """The outbox of a worker.toml. Neither handlers nor the broker's client library are imported.

        Raises:
            ConfigError: worker.toml cannot work, or has no ``[outbox]``.
        """
        config = load_config(Path(path))
        options = config.file.outbox
        if options is None:
            raise ConfigError("there is no outbox", where=f"{config.path.name}: outbox", hint="add [outbox] with a url")
        return cls(options.table, record_form(config), driver=driver_name(config))

    async def emit(
        self, connection: Any, *events: Event, parent: Lineage | None = None, autocommit: bool = False
    ) -> list[str]:
        """Write events in the transaction that `connection` is in; returns their event ids.

        They are sent once it is committed, exactly as they are now. One statement writes them all.

        Args:
            connection: of psycopg, asyncpg or aiosqlite, or a connection or session of SQLAlchemy; awaited ones.
            events: what to emit, in this order.
            parent: the event that they are children of (`Context.lineage`); None starts new trees.
            autocommit: write them though no transaction is open, so that they are committed at once.

        Raises:
            ConfigError: an event cannot be emitted as it is; then none is written.
            OutboxError: the connection is of no known kind, or in no transaction.
            Exception: the database library's own errors, as they are.

        Cancellation: as the library's; what was written belongs to the caller's transaction.
        """
        ids, prepared = self._prepared(events, parent)
        if prepared:
            target = await async_connection(connection)
            for statement in self._statements(target, prepared, autocommit=autocommit):
                await target.execute(statement)
        return ids

    def emit_sync(
        self, connection: Any, *events: Event, parent: Lineage | None = None, autocommit: bool = False
    ) -> list[str]:
        """As `emit`, for connections whose calls block: sqlite3, psycopg, SQLAlchemy, and Django's ``connection``."""
        ids, prepared = self._prepared(events, parent)
        if prepared:
            target = sync_connection(connection)
            for statement in self._statements(target, prepared, autocommit=autocommit):
                target.execute(statement)
        return ids

    def _prepared(self, events: Sequence[Event], parent: Lineage | None) -> tuple[list[str], list[Prepared]]:
        made = [self._preparer.prepare(event, parent) for event in events]
        for _, message in made:
            if problem := channel_problem(self._driver, message.channel):
                raise ConfigError(problem)
        return [event_id for event_id, _ in made], [Prepared(one, self._to_wire(message)) for one, message in made]

    def _statements(self, target: CallerConnection, events: Sequence[Prepared], *, autocommit: bool) -> list[Statement]:
        if not autocommit and not target.in_transaction:
            raise OutboxError(
                "this connection is in autocommit: the events would be sent whatever becomes of the rows they are "
                "about. Open a transaction, or say autocommit=True"
            )
        return insert(target.dialect, self.table, events)
