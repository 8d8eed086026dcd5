"""The connections that a caller may have, each in the manner of its library. None of them is imported here.

An outbox writes in the transaction of whoever calls it: it opens no connection and commits nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from hexa_worker.outbox.errors import OutboxError
from hexa_worker.outbox.statements import Dialect, Statement

KINDS = "sqlite3, aiosqlite, psycopg, asyncpg, SQLAlchemy or Django"
_BROKEN = "nothing was committed: a statement in this transaction failed; try what may fail in a savepoint"
_IN_TRANSACTION = "this connection is in a transaction already: enter ctx.transaction first"
_PROBE = Statement("SELECT 1", ())
"""Fails in a transaction that can only be rolled back: PostgreSQL's COMMIT does not, and some libraries do not tell."""


class CallerConnection(Protocol):
    """A caller's connection.

    Attributes:
        dialect: of its database.
    """

    dialect: Dialect

    @property
    def in_transaction(self) -> bool:
        """Whether what is written now belongs to a transaction that somebody ends."""
        ...


class SyncConnection(CallerConnection, Protocol):
    """One whose calls block."""

    def begin(self) -> None:
        """Begin a transaction, if none is open."""
        ...

    def execute(self, statement: Statement) -> Sequence[Any]:
        """Run a statement; returns its rows."""
        ...

    def end(self, *, commit: bool) -> None:
        """Commit the transaction or roll it back."""
        ...


class AsyncConnection(CallerConnection, Protocol):
    """One whose calls are awaited."""

    async def begin(self) -> None:
        """As `SyncConnection.begin`."""
        ...

    async def execute(self, statement: Statement) -> Sequence[Any]:
        """As `SyncConnection.execute`."""
        ...

    async def end(self, *, commit: bool) -> None:
        """As `SyncConnection.end`."""
        ...


class _Sqlite:
    dialect: Dialect = "sqlite"

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def in_transaction(self) -> bool:
        """sqlite3 opens one before a statement that writes, unless it was told not to."""
        return bool(self._raw.in_transaction) or not self._autocommit

    @property
    def _autocommit(self) -> bool:
        manual = getattr(self._raw, "autocommit", -1)  # from Python 3.12: True, False or -1 (as before)
        return manual is True or (manual == -1 and self._raw.isolation_level is None)


class Sqlite(_Sqlite):
    """sqlite3."""

    def begin(self) -> None:
        """See `SyncConnection`."""
        if not self._raw.in_transaction:
            self._raw.execute("BEGIN IMMEDIATE")

    def execute(self, statement: Statement) -> Sequence[Any]:
        """See `SyncConnection`."""
        cursor = self._raw.cursor()
        cursor.row_factory = None  # the caller's may make of a row what it knows only
        return list(cursor.execute(statement.text, statement.values))

    def end(self, *, commit: bool) -> None:
        """See `SyncConnection`."""
        if self._raw.in_transaction:
            self._raw.execute("COMMIT" if commit else "ROLLBACK")


class AioSqlite(_Sqlite):
    """aiosqlite."""

    async def begin(self) -> None:
        """See `AsyncConnection`."""
        if not self._raw.in_transaction:
            await self._raw.execute("BEGIN IMMEDIATE")

    async def execute(self, statement: Statement) -> Sequence[Any]:
        """See `AsyncConnection`."""
        cursor = await self._raw.cursor()
        cursor.row_factory = None  # as above
        await cursor.execute(statement.text, statement.values)
        return cast("Sequence[Any]", await cursor.fetchall())

    async def end(self, *, commit: bool) -> None:
        """See `AsyncConnection`."""
        if self._raw.in_transaction:
            await self._raw.execute("COMMIT" if commit else "ROLLBACK")


class _Psycopg:
    dialect: Dialect = "postgresql"

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def in_transaction(self) -> bool:
        """Psycopg opens one before any statement, unless it is in autocommit."""
        return not self._raw.autocommit or self._raw.info.transaction_status.name != "IDLE"

    @property
    def _broken(self) -> bool:
        """PostgreSQL has given the transaction up, and would answer a commit, as if all were well, by a rollback."""
        return bool(self._raw.info.transaction_status.name == "INERROR")

    def _cursor(self) -> Any:
        """One whose rows are tuples, whatever the caller's are made into."""
        from psycopg.rows import tuple_row  # noqa: PLC0415 - the caller has it

        return self._raw.cursor(row_factory=tuple_row)

    def _require_own_end(self) -> None:
        """Refuse ``connection.transaction()`` around it, in which psycopg lets nobody commit.

        Nothing public tells of it; a psycopg that does not tell refuses at the end of the block.
        """
        if getattr(self._raw, "_num_transactions", 0):
            raise OutboxError(_IN_TRANSACTION)


class Psycopg(_Psycopg):
    """psycopg 3."""

    def begin(self) -> None:
        """See `SyncConnection`."""
        self._require_own_end()
        if not self.in_transaction:
            self._raw.execute("BEGIN")

    def execute(self, statement: Statement) -> Sequence[Any]:
        """See `SyncConnection`."""
        done = self._cursor().execute(statement.styled("format"), statement.values)
        return cast("Sequence[Any]", done.fetchall()) if done.description else ()

    def end(self, *, commit: bool) -> None:
        """See `SyncConnection`."""
        broken = commit and self._broken
        self._raw.commit() if commit and not broken else self._raw.rollback()
        if broken:
            raise OutboxError(_BROKEN)


class AsyncPsycopg(_Psycopg):
    """psycopg 3, awaited."""

    async def begin(self) -> None:
        """See `AsyncConnection`."""
        self._require_own_end()
        if not self.in_transaction:
            await self._raw.execute("BEGIN")

    async def execute(self, statement: Statement) -> Sequence[Any]:
        """See `AsyncConnection`."""
        done = await self._cursor().execute(statement.styled("format"), statement.values)
        return cast("Sequence[Any]", await done.fetchall()) if done.description else ()

    async def end(self, *, commit: bool) -> None:
        """See `AsyncConnection`."""
        broken = commit and self._broken
        await (self._raw.commit() if commit and not broken else self._raw.rollback())
        if broken:
            raise OutboxError(_BROKEN)


class Asyncpg:
    """asyncpg."""

    dialect: Dialect = "postgresql"

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._transaction: Any = None

    @property
    def in_transaction(self) -> bool:
        """Asyncpg has one only inside of ``connection.transaction()``."""
        return bool(self._raw.is_in_transaction())

    async def begin(self) -> None:
        """See `AsyncConnection`."""
        if self.in_transaction:
            raise OutboxError(_IN_TRANSACTION)
        self._transaction = self._raw.transaction()
        await self._transaction.start()

    async def execute(self, statement: Statement) -> Sequence[Any]:
        """See `AsyncConnection`."""
        return cast("Sequence[Any]", await self._raw.fetch(statement.styled("dollar"), *statement.values))

    async def end(self, *, commit: bool) -> None:
        """See `AsyncConnection`."""
        try:
            if commit:
                await self.execute(_PROBE)
        except Exception as error:
            await self._transaction.rollback()
            raise OutboxError(_BROKEN) from error
        await (self._transaction.commit() if commit else self._transaction.rollback())


class _Alchemy:
    """A connection or session of SQLAlchemy 2, whose own transaction begins by itself."""

    def __init__(self, raw: Any, bind: Any) -> None:
        self._raw = raw
        self.dialect: Dialect = dialect_of(bind.dialect.name)
        self._autocommit = _isolation(raw, bind) == "AUTOCOMMIT"

    @property
    def in_transaction(self) -> bool:
        """Always, unless autocommit was asked for."""
        return not self._autocommit

    @staticmethod
    def _asked(statement: Statement) -> tuple[Any, dict[str, Any]]:
        from sqlalchemy import text  # noqa: PLC0415 - the caller has it

        return text(statement.styled("named")), {f"p{place}": value for place, value in enumerate(statement.values)}


def _isolation(raw: Any, bind: Any) -> str | None:
    options: dict[str, Any] = getattr(raw, "get_execution_options", dict)()
    found: str | None = options.get("isolation_level") or bind.get_execution_options().get("isolation_level")
    return found or getattr(bind.dialect, "_on_connect_isolation_level", None)


class Alchemy(_Alchemy):
    """SQLAlchemy."""

    def begin(self) -> None:
        """See `SyncConnection`: it begins by itself."""

    def execute(self, statement: Statement) -> Sequence[Any]:
        """See `SyncConnection`."""
        done = self._raw.execute(*self._asked(statement))
        return cast("Sequence[Any]", done.all()) if done.returns_rows else ()

    def end(self, *, commit: bool) -> None:
        """See `SyncConnection`."""
        try:
            if commit and self.dialect == "postgresql":
                self.execute(_PROBE)
        except Exception as error:
            self._raw.rollback()
            raise OutboxError(_BROKEN) from error
        self._raw.commit() if commit else self._raw.rollback()


class AsyncAlchemy(_Alchemy):
    """SQLAlchemy, awaited."""

    async def begin(self) -> None:
        """See `AsyncConnection`: it begins by itself."""

    async def execute(self, statement: Statement) -> Sequence[Any]:
        """See `AsyncConnection`."""
        done = await self._raw.execute(*self._asked(statement))
        return cast("Sequence[Any]", done.all()) if done.returns_rows else ()

    async def end(self, *, commit: bool) -> None:
        """See `AsyncConnection`."""
        try:
            if commit and self.dialect == "postgresql":
                await self.execute(_PROBE)
        except Exception as error:
            await self._raw.rollback()
            raise OutboxError(_BROKEN) from error
        await (self._raw.commit() if commit else self._raw.rollback())


class Django:
    """Django's ``connection``."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.dialect: Dialect = dialect_of(raw.vendor)
        self._atomic: Any = None

    @property
    def in_transaction(self) -> bool:
        """Inside of ``transaction.atomic()``, or where autocommit was switched off."""
        return bool(self._raw.in_atomic_block) or not self._raw.get_autocommit()

    def begin(self) -> None:
        """See `SyncConnection`."""
        from django.db import transaction  # noqa: PLC0415 - the caller has it

        self._atomic = transaction.atomic(using=self._raw.alias)
        self._atomic.__enter__()

    def execute(self, statement: Statement) -> Sequence[Any]:
        """See `SyncConnection`."""
        with self._raw.cursor() as cursor:
            cursor.execute(statement.styled("format"), statement.values)
            return cast("Sequence[Any]", cursor.fetchall()) if cursor.description else ()

    def end(self, *, commit: bool) -> None:
        """See `SyncConnection`."""
        broken: Exception | None = None
        try:
            if commit and self.dialect == "postgresql":
                self.execute(_PROBE)
        except Exception as error:  # noqa: BLE001 - whatever the library calls it
            broken = error
        if not commit or broken is not None:
            self._raw.set_rollback(True)
        self._atomic.__exit__(None, None, None)
        if broken is not None:
            raise OutboxError(_BROKEN) from broken


def dialect_of(name: str) -> Dialect:
    """The dialect by the name that SQLAlchemy and Django have for it.

    Raises:
        OutboxError: an outbox cannot be in such a database.
    """
    if name in ("postgresql", "sqlite"):
        return cast("Dialect", name)
    raise OutboxError(f"an outbox is in PostgreSQL or SQLite, not in {name}")


def sync_connection(raw: Any) -> SyncConnection:
    """A caller's connection whose calls block.

    Raises:
        OutboxError: it is of no known kind.
    """
    names = _names(raw)
    if "sqlite3.Connection" in names:
        return Sqlite(raw)
    if "psycopg.Connection" in names:
        return Psycopg(raw)
    if "sqlalchemy.Connection" in names:
        return Alchemy(raw, raw.engine)
    if "sqlalchemy.Session" in names or "sqlalchemy.scoped_session" in names:
        return Alchemy(raw, raw.connection().engine)
    if "django.BaseDatabaseWrapper" in names or "django.ConnectionProxy" in names:
        return Django(raw)
    hint = "await outbox.emit(…)" if any(one.split(".")[-1].startswith("Async") for one in names) else KINDS
    raise OutboxError(f"{type(raw).__module__}.{type(raw).__qualname__} is no connection of these: {hint}")


async def async_connection(raw: Any) -> AsyncConnection:
    """A caller's connection whose calls are awaited.

    Raises:
        OutboxError: it is of no known kind, or its calls block.
    """
    names = _names(raw)
    if "aiosqlite.Connection" in names:
        return AioSqlite(raw)
    if "psycopg.AsyncConnection" in names:
        return AsyncPsycopg(raw)
    if "asyncpg.Connection" in names or "asyncpg.PoolConnectionProxy" in names:
        return Asyncpg(raw)
    if "sqlalchemy.AsyncConnection" in names:
        return AsyncAlchemy(raw, raw.engine)
    if "sqlalchemy.AsyncSession" in names or "sqlalchemy.async_scoped_session" in names:
        return AsyncAlchemy(raw, (await raw.connection()).engine)
    raise OutboxError(
        f"{type(raw).__module__}.{type(raw).__qualname__} is no connection that is awaited: use emit_sync in a plain "
        f"function, or a connection of {KINDS}"
    )


def _names(raw: Any) -> set[str]:
    """What a connection is, by the names of its classes: package and class, the modules between left out."""
    return {f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}" for cls in type(raw).__mro__}
