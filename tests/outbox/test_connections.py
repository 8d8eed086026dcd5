"""Events are written in the caller's transaction, whatever library it is of: committed with it, gone with it."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from hexa_worker import Event
from hexa_worker.errors import ConfigError
from hexa_worker.outbox import Outbox
from hexa_worker.outbox.errors import OutboxError
from tests.outbox.stage import Place, fetch_all, make_config, make_tables

Emit = Callable[..., Awaitable[list[str]]]


class Caller:
    """A connection of some library, used as its users do.

    Args:
        emit: what the outbox offers for it.
        begin, commit, rollback: of the outer transaction.
        savepoint: makes one and rolls back to it, with something awaited in between.
    """

    def __init__(self, emit: Emit, commit: Any, rollback: Any, savepoint: Any) -> None:
        self.emit = emit
        self.commit = commit
        self.rollback = rollback
        self.savepoint = savepoint


def url_of(place: Place, library: str) -> str:
    """SQLAlchemy's URL."""
    path = place.options.sqlite_path(place.config.folder)
    if path is not None:
        return f"sqlite+{'aiosqlite' if library == 'async' else 'pysqlite'}:///{path}"
    return place.options.url.reveal().replace("postgresql://", f"postgresql+{library}://")


def blocking(outbox: Outbox, connection: Any) -> Emit:
    async def emit(*events: Event, **more: Any) -> list[str]:
        return outbox.emit_sync(connection, *events, **more)

    return emit


def awaited(outbox: Outbox, connection: Any) -> Emit:
    async def emit(*events: Event, **more: Any) -> list[str]:
        return await outbox.emit(connection, *events, **more)

    return emit


def ready(function: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        function()

    return call


def by_sql(execute: Callable[[str], Any]) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]:
    async def savepoint(inside: Callable[[], Awaitable[Any]]) -> None:
        for statement in ("SAVEPOINT s", None, "ROLLBACK TO SAVEPOINT s"):
            done = await inside() if statement is None else execute(statement)
            if asyncio.iscoroutine(done):
                await done

    return savepoint


@asynccontextmanager
async def of_psycopg(place: Place) -> AsyncIterator[Caller]:
    with psycopg.connect(place.options.url.reveal()) as raw:
        yield Caller(blocking(place.outbox, raw), ready(raw.commit), ready(raw.rollback), by_sql(raw.execute))


@asynccontextmanager
async def of_async_psycopg(place: Place) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(place.options.url.reveal()) as raw:
        yield Caller(awaited(place.outbox, raw), raw.commit, raw.rollback, by_sql(raw.execute))


@asynccontextmanager
async def of_asyncpg(place: Place) -> AsyncIterator[Caller]:
    raw = await asyncpg.connect(place.options.url.reveal())
    transaction = raw.transaction()
    await transaction.start()
    yield Caller(awaited(place.outbox, raw), transaction.commit, transaction.rollback, by_sql(raw.execute))
    await raw.close()


@asynccontextmanager
async def of_sqlite(place: Place) -> AsyncIterator[Caller]:
    raw = place.connect()
    raw.execute("BEGIN")
    yield Caller(blocking(place.outbox, raw), ready(raw.commit), ready(raw.rollback), by_sql(raw.execute))


@asynccontextmanager
async def of_aiosqlite(place: Place) -> AsyncIterator[Caller]:
    path = place.options.sqlite_path(place.config.folder)
    async with aiosqlite.connect(str(path)) as raw:
        await raw.execute("BEGIN")

        async def execute(text: str) -> None:
            await raw.execute(text)

        yield Caller(awaited(place.outbox, raw), raw.commit, raw.rollback, by_sql(execute))


def alchemy(kind: str, library: str) -> Callable[[Place], Any]:
    @asynccontextmanager
    async def of_alchemy(place: Place) -> AsyncIterator[Caller]:
        engine = sqlalchemy.create_engine(url_of(place, library))
        with Session(engine) if kind == "session" else engine.connect() as raw:

            async def savepoint(inside: Callable[[], Awaitable[Any]]) -> None:
                nested = raw.begin_nested()
                await inside()
                nested.rollback()

            yield Caller(blocking(place.outbox, raw), ready(raw.commit), ready(raw.rollback), savepoint)
        engine.dispose()

    return of_alchemy


def async_alchemy(kind: str, library: str) -> Callable[[Place], Any]:
    @asynccontextmanager
    async def of_alchemy(place: Place) -> AsyncIterator[Caller]:
        engine = create_async_engine(url_of(place, library))
        async with AsyncSession(engine) if kind == "session" else engine.connect() as raw:

            async def savepoint(inside: Callable[[], Awaitable[Any]]) -> None:
                nested = await raw.begin_nested()
                await inside()
                await nested.rollback()

            yield Caller(awaited(place.outbox, raw), raw.commit, raw.rollback, savepoint)
        await engine.dispose()

    return of_alchemy


ON_SQLITE = {
    "sqlite3": of_sqlite,
    "aiosqlite": of_aiosqlite,
    "alchemy-connection": alchemy("connection", "sqlite"),
    "alchemy-session": alchemy("session", "sqlite"),
    "alchemy-async-connection": async_alchemy("connection", "async"),
    "alchemy-async-session": async_alchemy("session", "async"),
}
ON_POSTGRES = {
    "psycopg": of_psycopg,
    "psycopg-async": of_async_psycopg,
    "asyncpg": of_asyncpg,
    "alchemy-connection": alchemy("connection", "psycopg"),
    "alchemy-session": alchemy("session", "psycopg"),
    "alchemy-async-connection": async_alchemy("connection", "asyncpg"),
    "alchemy-async-session": async_alchemy("session", "psycopg"),
}


def event(number: int) -> Event:
    return Event(channel="orders", payload=number, key="k")


async def check_caller(place: Place, make: Callable[[Place], Any]) -> None:
    """Commit, rollback and a savepoint do to events what they do to rows."""
    store = place.store()
    async with make(place) as caller:
        ids = await caller.emit(event(1), event(2))
        assert store.fetch(10) is None
        await caller.savepoint(lambda: caller.emit(event(3)))
        await caller.commit()
    assert len(set(ids)) == 2
    assert fetch_all(store) == [1, 2]
    async with make(place) as caller:
        await caller.emit(event(4))
        await caller.rollback()
    assert store.fetch(10) is None


@pytest.mark.parametrize("library", ON_SQLITE)
def test_events_share_the_fate_of_a_transaction_in_sqlite(place: Place, library: str) -> None:
    if place.sqlite:
        asyncio.run(check_caller(place, ON_SQLITE[library]))


@pytest.mark.postgres
@pytest.mark.parametrize("library", ON_POSTGRES)
def test_events_share_the_fate_of_a_transaction_in_postgresql(postgres_place: Place, library: str) -> None:
    asyncio.run(check_caller(postgres_place, ON_POSTGRES[library]))


def test_a_thousand_events_are_written_in_their_order(place: Place) -> None:
    store, connection = place.store(), place.connect()
    ids = place.outbox.emit_sync(connection, *[event(number) for number in range(7_000)])
    connection.commit()
    assert len(set(ids)) == 7_000
    assert fetch_all(store, limit=3_000) == list(range(7_000))


def in_autocommit(place: Place) -> Any:
    path = place.options.sqlite_path(place.config.folder)
    if path is None:
        return psycopg.connect(place.options.url.reveal(), autocommit=True)
    return sqlite3.connect(path, isolation_level=None)


def test_autocommit_is_refused_unless_it_is_asked_for(place: Place) -> None:
    store, connection = place.store(), in_autocommit(place)
    with pytest.raises(OutboxError, match="autocommit=True"):
        place.outbox.emit_sync(connection, event(1))
    assert store.fetch(10) is None
    place.outbox.emit_sync(connection, event(2), autocommit=True)
    assert fetch_all(store) == [2]
    connection.execute("BEGIN")
    place.outbox.emit_sync(connection, event(3))
    connection.execute("COMMIT")
    assert fetch_all(store) == [3]
    connection.close()


@pytest.mark.postgres
def test_autocommit_is_refused_by_every_library_that_has_it(postgres_place: Place) -> None:
    async def check() -> None:
        raw = await asyncpg.connect(postgres_place.options.url.reveal())
        with pytest.raises(OutboxError, match="autocommit"):
            await postgres_place.outbox.emit(raw, event(1))
        await raw.close()
        engine = create_async_engine(url_of(postgres_place, "psycopg"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            with pytest.raises(OutboxError, match="autocommit"):
                await postgres_place.outbox.emit(connection, event(1))
        await engine.dispose()

    asyncio.run(check())


def test_what_is_no_connection_or_of_the_other_kind_is_refused_with_what_to_do(place: Place) -> None:
    with pytest.raises(OutboxError, match="str is no connection"):
        place.outbox.emit_sync("postgresql://", event(1))

    async def check() -> None:
        with pytest.raises(OutboxError, match="emit_sync"):
            await place.outbox.emit(place.connect(), event(1))

    asyncio.run(check())


def test_an_event_that_cannot_be_emitted_leaves_nothing_of_its_call(place: Place) -> None:
    store, connection = place.store(), place.connect()
    with pytest.raises(ConfigError, match="reserved"):
        place.outbox.emit_sync(connection, event(1), Event(channel="orders", headers={"hexa-x": "1"}))
    connection.commit()
    assert store.fetch(10) is None


@pytest.mark.parametrize(
    ("broker", "channel", "message"),
    [
        ('driver = "kafka"\nservers = ["localhost:9092"]', "orders/created", "ASCII letters"),
        ('driver = "nats"\nservers = ["nats://localhost:4222"]', "orders created", "without spaces"),
        ('driver = "pulsar"\nurl = "pulsar://localhost:6650"', "orders/created", "no '/'"),
    ],
)
def test_a_channel_that_the_broker_cannot_have_is_refused_before_it_is_written(
    tmp_path: Path, broker: str, channel: str, message: str
) -> None:
    place = Place(make_config("sqlite:///shop.db", tmp_path, broker))
    make_tables(place.config)
    connection = place.connect()
    with pytest.raises(ConfigError, match=message):
        place.outbox.emit_sync(connection, event(1), Event(channel=channel, payload=2))
    assert connection.execute("SELECT count(*) FROM hexa_outbox").fetchone() == (0,)
    place.close()


def test_no_events_need_no_connection(place: Place) -> None:
    assert place.outbox.emit_sync(None) == []


def test_the_libraries_of_others_are_not_imported() -> None:
    import subprocess

    program = (
        "import hexa_worker.outbox, sys\n"
        "print([n for n in ('psycopg', 'asyncpg', 'sqlalchemy', 'django', 'aiosqlite') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
