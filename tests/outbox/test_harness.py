"""Handlers that use the outbox, under the harness: SQLite in memory, virtual time, a crash where it hurts."""

import sqlite3

import pytest

from hexa_worker import Context, Event, subscribe
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend


@subscribe("orders", action="charge")
async def charge(order: dict[str, int], ctx: Context) -> None:
    connection: sqlite3.Connection = ctx.state
    with ctx.transaction(connection):
        connection.execute("INSERT INTO charges VALUES (?)", (order["id"],))
        ctx.outbox(connection).emit_sync(Event(channel="charged", payload=order, key="k"))
        if order.get("fails", 0) > ctx.attempt:
            raise ValueError("not yet")


@subscribe("charged", action="ship")
async def ship(order: dict[str, int], ctx: Context) -> None:
    ctx.state.execute("INSERT INTO shipments VALUES (?)", (order["id"],))
    ctx.state.commit()


@subscribe("orders", action="charge-twice")
async def charge_twice(order: dict[str, int], ctx: Context) -> None:
    for _ in range(2):
        with ctx.transaction(ctx.state):
            ctx.state.execute("INSERT INTO charges VALUES (?)", (order["id"],))


@pytest.fixture
def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript("CREATE TABLE charges (id int); CREATE TABLE shipments (id int);")
    return connection


def rows(database: sqlite3.Connection, table: str) -> list[int]:
    return [row[0] for row in database.execute(f"SELECT id FROM {table}")]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_handler_commits_is_sent_and_handled(database: sqlite3.Connection, backend: Backend) -> None:
    with Harness([charge, ship], state=database, outbox=database, backend=backend) as harness:
        harness.emit("orders", {"id": 1})
        harness.run_until_idle()
        assert (rows(database, "charges"), rows(database, "shipments")) == ([1], [1])
        assert [one.channel for one in harness.emitted] == ["charged"]


def test_what_fails_leaves_nothing_until_its_retry(database: sqlite3.Connection) -> None:
    with Harness([charge, ship], state=database, outbox=database) as harness:
        harness.emit("orders", {"id": 1, "fails": 2})
        harness.run_until_idle()
        assert (rows(database, "charges"), rows(database, "shipments")) == ([1], [1])
        assert len(harness.retried) == 2


def test_a_second_transaction_means_the_dead_letter_and_no_retry_that_is_a_duplicate(
    database: sqlite3.Connection,
) -> None:
    with Harness([charge_twice], state=database, outbox=database) as harness:
        harness.emit("orders", {"id": 1})
        harness.run_until_idle()
        assert rows(database, "charges") == [1]
        assert (len(harness.retried), len(harness.dead_letters)) == (0, 1)


def test_a_crash_between_commit_and_acknowledgement_makes_no_second_effect(database: sqlite3.Connection) -> None:
    with Harness([charge, ship], state=database, outbox=database) as harness:
        harness.crash_before_acknowledging()
        harness.emit("orders", {"id": 1})
        harness.run_until_idle()
        assert (rows(database, "charges"), rows(database, "shipments")) == ([1], [1])
        assert [one.action for one in harness.acked] == ["charge", "ship"]


def test_a_crash_where_nothing_guards_the_effect_repeats_it(database: sqlite3.Connection) -> None:
    with Harness([ship], state=database) as harness:
        harness.crash_before_acknowledging()
        harness.emit("charged", {"id": 1})
        harness.run_until_idle()
        assert rows(database, "shipments") == [1, 1]


def test_what_a_test_writes_itself_is_sent_too(database: sqlite3.Connection) -> None:
    from hexa_worker.outbox import Outbox

    with Harness([ship], state=database, outbox=database) as harness:
        outbox = Outbox("hexa_outbox", lambda message: message)
        outbox.emit_sync(database, Event(channel="charged", payload={"id": 7}))
        harness.run_until_idle()
        assert rows(database, "shipments") == []
        database.commit()
        harness.run_until_idle()
        assert rows(database, "shipments") == [7]


def test_an_event_for_later_is_written_with_its_rows_and_comes_when_it_is_due(database: sqlite3.Connection) -> None:
    seen: list[float] = []

    @subscribe("orders", action="plan")
    async def plan(order: dict[str, int], ctx: Context) -> None:
        with ctx.transaction(ctx.state):
            ctx.outbox(ctx.state).emit_sync(Event(channel="due", payload=order, headers={"a": "b"}, after=3600))

    @subscribe("due", action="do")
    async def do(order: dict[str, int], ctx: Context) -> None:
        assert ctx.headers == {"a": "b"}
        seen.append(harness.now.timestamp())

    with Harness([plan, do], state=database, outbox=database) as harness:
        start = harness.now.timestamp()
        harness.emit("orders", {"id": 1})
        harness.run_until_idle()
        assert [at - start for at in seen] == pytest.approx([3600], abs=0.1)
        assert seen[0] - start >= 3600
