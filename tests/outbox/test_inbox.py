"""`ctx.transaction`: rows, the claim of the event and the events it emits are there together, once."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from hexa_worker import Ack, Duplicate, Event
from hexa_worker.core.lineage import Lineage
from hexa_worker.outbox.errors import OutboxError
from hexa_worker.outbox.inbox import HandlerOutbox
from hexa_worker.subscriptions.transactions import Block
from tests.outbox.stage import Place, fetch_all
from tests.outbox.test_connections import in_autocommit, url_of
from tests.outbox.thrice import effects, prepare, run_worker

LINEAGE = Lineage("child-of", "root", None)


def enter(inbox: HandlerOutbox, connection: Any, action: str, event_id: str) -> Any:
    """As `Context.transaction`, in a run of the handler of its own."""
    return inbox.transaction(connection, action, event_id, Block())


@pytest.fixture
def inbox(place: Place) -> HandlerOutbox:
    connection = place.connect()
    connection.execute("CREATE TABLE effects (event text)")
    connection.commit()
    return HandlerOutbox(place.outbox)


def act(connection: Any, event: str) -> None:
    connection.execute(f"INSERT INTO effects VALUES ('{event}')")


def test_what_a_block_writes_and_emits_is_there_when_it_ends(place: Place, inbox: HandlerOutbox) -> None:
    store, connection = place.store(), place.connect()
    with enter(inbox, connection, "do", "e"):
        act(connection, "e")
        inbox.writer(connection, LINEAGE, (("traceparent", b"t"),)).emit_sync(Event(channel="orders", payload=1))
    assert effects(place) == ["e"]
    batch = store.fetch(10)
    assert batch is not None
    headers = dict(batch.records[0].message.headers)
    assert (headers["hexa-root-id"], headers["hexa-parent-id"]) == (b"root", b"child-of")
    assert headers["traceparent"] == b"t"


def test_an_event_that_is_done_is_a_duplicate_for_its_action_only(place: Place, inbox: HandlerOutbox) -> None:
    connection = place.connect()
    for action in ("do", "other"):
        with enter(inbox, connection, action, "e"):
            act(connection, action)
    with pytest.raises(Duplicate), enter(inbox, connection, "do", "e"):
        act(connection, "again")
    assert effects(place) == ["do", "other"]


def test_a_block_within_a_block_is_refused_and_not_taken_for_a_duplicate(place: Place, inbox: HandlerOutbox) -> None:
    connection, run = place.connect(), Block()
    with pytest.raises(OutboxError, match="already"), inbox.transaction(connection, "do", "e", run):
        act(connection, "lost")
        with inbox.transaction(connection, "do", "e", run):
            pass
    with inbox.transaction(connection, "do", "e", run):
        act(connection, "e")
    assert effects(place) == ["e"]


def test_a_block_behind_a_committed_one_is_refused_and_not_taken_for_a_duplicate(
    place: Place, inbox: HandlerOutbox
) -> None:
    connection, run = place.connect(), Block()
    with pytest.raises(ValueError, match="no"), inbox.transaction(connection, "do", "e", run):
        raise ValueError("no")
    with inbox.transaction(connection, "do", "e", run):
        act(connection, "first")
    with pytest.raises(OutboxError, match="belongs into the first"), inbox.transaction(connection, "do", "e", run):
        act(connection, "second")
    with pytest.raises(Duplicate), enter(inbox, connection, "do", "e"):
        act(connection, "again")
    assert effects(place) == ["first"]


@pytest.mark.postgres
def test_a_transaction_of_psycopg_that_is_open_already_is_refused_before_the_block_runs(
    postgres_place: Place,
) -> None:
    inbox, connection = HandlerOutbox(postgres_place.outbox), postgres_place.connect()
    ran = False
    with (
        pytest.raises(OutboxError, match=r"enter ctx\.transaction first"),
        connection.transaction(),
        enter(inbox, connection, "do", "e"),
    ):
        ran = True
    assert not ran
    with enter(inbox, connection, "do", "e"):
        pass


class Order:
    """What a caller makes of its rows."""

    def __init__(self, *, number: int) -> None:
        self.number = number


def test_a_caller_s_own_kind_of_rows_changes_nothing(place: Place, inbox: HandlerOutbox) -> None:
    from psycopg.rows import class_row

    connection = place.connect()
    connection.row_factory = (lambda _, row: Order(number=row["number"])) if place.sqlite else class_row(Order)
    with enter(inbox, connection, "do", "e"):
        place.outbox.emit_sync(connection, Event(channel="orders", payload=1))
    with pytest.raises(Duplicate), enter(inbox, connection, "do", "e"):
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.postgres
async def test_of_two_tasks_of_a_handler_one_may_enter(postgres_place: Place) -> None:
    inbox, run, refused = HandlerOutbox(postgres_place.outbox), Block(), []
    url = postgres_place.options.url.reveal()
    async with (
        await psycopg.AsyncConnection.connect(url) as first,
        await psycopg.AsyncConnection.connect(url) as second,
    ):

        async def enter_with(connection: Any) -> None:
            try:
                async with inbox.transaction(connection, "do", "e", run):
                    await asyncio.sleep(0)
            except OutboxError as error:
                refused.append(error)

        await asyncio.gather(enter_with(first), enter_with(second))
    assert len(refused) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.postgres
async def test_an_awaited_block_within_a_block_is_refused_too(postgres_place: Place) -> None:
    inbox = HandlerOutbox(postgres_place.outbox)
    async with await psycopg.AsyncConnection.connect(postgres_place.options.url.reveal()) as connection:
        run = Block()
        with pytest.raises(OutboxError, match="already"):
            async with (
                inbox.transaction(connection, "do", "e", run),
                inbox.transaction(connection, "do", "e", run),
            ):
                pass
        async with enter(inbox, connection, "do", "e"):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.postgres
async def test_a_block_whose_statement_failed_unseen_is_not_taken_for_done(postgres_place: Place) -> None:
    """PostgreSQL answers the commit of such a transaction, without an error, by rolling it back."""
    inbox, url = HandlerOutbox(postgres_place.outbox), postgres_place.options.url.reveal()
    connection = postgres_place.connect()
    with (
        pytest.raises(OutboxError, match="nothing was committed"),
        enter(inbox, connection, "do", "e"),
        pytest.raises(psycopg.errors.DivisionByZero),
    ):
        connection.execute("SELECT 1 / 0")
    with enter(inbox, connection, "do", "e"):
        pass
    async with await psycopg.AsyncConnection.connect(url) as awaited:
        with pytest.raises(OutboxError, match="nothing was committed"):
            async with enter(inbox, awaited, "do", "f"):
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await awaited.execute("SELECT 1 / 0")
        async with enter(inbox, awaited, "do", "f"):
            pass


def test_a_block_that_fails_leaves_neither_rows_nor_claim(place: Place, inbox: HandlerOutbox) -> None:
    store, connection = place.store(), place.connect()
    with pytest.raises(ValueError, match="no"), enter(inbox, connection, "do", "e"):
        act(connection, "e")
        inbox.writer(connection, LINEAGE, ()).emit_sync(Event(channel="orders", payload=1))
        raise ValueError("no")
    assert effects(place) == []
    assert store.fetch(10) is None
    with enter(inbox, connection, "do", "e"):
        act(connection, "e")
    assert effects(place) == ["e"]


def test_an_ack_that_is_raised_in_a_block_is_a_success(place: Place, inbox: HandlerOutbox) -> None:
    connection = place.connect()
    with pytest.raises(Ack), enter(inbox, connection, "do", "e"):
        act(connection, "e")
        raise Ack
    assert effects(place) == ["e"]


def test_a_connection_in_autocommit_gets_a_transaction_of_its_own(place: Place, inbox: HandlerOutbox) -> None:
    connection = in_autocommit(place)
    with pytest.raises(ValueError, match="no"), enter(inbox, connection, "do", "e"):
        act(connection, "e")
        raise ValueError("no")
    with enter(inbox, connection, "do", "e"):
        act(connection, "e")
    assert effects(place) == ["e"]
    connection.close()


def test_of_two_at_once_one_acts_and_the_other_is_told_when_it_is_done(place: Place, inbox: HandlerOutbox) -> None:
    inside, leave = threading.Event(), threading.Event()
    ends: list[str] = []

    def first() -> None:
        connection = place.own_connection()
        with enter(inbox, connection, "do", "e"):
            act(connection, "e")
            inside.set()
            leave.wait(10)
        ends.append("done")
        connection.close()

    def second() -> None:
        inside.wait(10)
        connection = place.own_connection()
        try:
            with enter(inbox, connection, "do", "e"):
                act(connection, "twice")
        except Duplicate:
            ends.append("duplicate")
        connection.close()

    threads = [threading.Thread(target=one) for one in (first, second)]
    for one in threads:
        one.start()
    inside.wait(10)
    leave.set()
    for one in threads:
        one.join(20)
    assert ends == ["done", "duplicate"]
    assert effects(place) == ["e"]


async def of_asyncpg(place: Place) -> Any:
    import asyncpg

    return await asyncpg.connect(place.options.url.reveal())


async def of_psycopg(place: Place) -> Any:
    return await psycopg.AsyncConnection.connect(place.options.url.reveal())


async def of_session(place: Place) -> Any:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    class Plain(AsyncSession):
        async def execute(self, statement: Any, *arguments: Any, **more: Any) -> Any:
            given = text(statement) if isinstance(statement, str) else statement
            return await super().execute(given, *arguments, **more)

    return Plain(create_async_engine(url_of(place, "psycopg")))


@pytest.mark.postgres
@pytest.mark.parametrize("connect", [of_asyncpg, of_psycopg, of_session])
def test_awaited_connections_commit_and_roll_back_too(postgres_place: Place, connect: Callable[[Place], Any]) -> None:
    place = postgres_place
    setup = place.connect()
    setup.execute("CREATE TABLE effects (event text)")
    setup.commit()
    inbox = HandlerOutbox(place.outbox)

    async def run() -> None:
        connection = await connect(place)
        with pytest.raises(ValueError, match="no"):
            async with enter(inbox, connection, "do", "e"):
                await connection.execute("INSERT INTO effects VALUES ('e')")
                raise ValueError("no")
        async with enter(inbox, connection, "do", "e"):
            await connection.execute("INSERT INTO effects VALUES ('e')")
            await inbox.writer(connection, LINEAGE, ()).emit(Event(channel="orders", payload=1))
        with pytest.raises(Duplicate):
            async with enter(inbox, connection, "do", "e"):
                await connection.execute("INSERT INTO effects VALUES ('twice')")
        await connection.close()

    asyncio.run(run())
    assert effects(place) == ["e"]
    assert fetch_all(place.store()) == [1]


@pytest.mark.postgres
@pytest.mark.parametrize("connect", [of_asyncpg, of_psycopg, of_session])
def test_a_block_that_swallows_a_failed_statement_is_no_success(
    postgres_place: Place, connect: Callable[[Place], Any]
) -> None:
    """PostgreSQL answers the COMMIT of such a transaction with a rollback, and no error."""
    inbox = HandlerOutbox(postgres_place.outbox)

    async def run() -> None:
        connection = await connect(postgres_place)
        with pytest.raises(OutboxError, match="nothing was committed"):
            async with enter(inbox, connection, "do", "e"):
                with contextlib.suppress(Exception):
                    await connection.execute("SELECT nothing")
        async with enter(inbox, connection, "do", "e"):  # it is no duplicate
            pass
        await connection.close()

    asyncio.run(run())


@pytest.mark.postgres
def test_a_transaction_of_asyncpg_that_is_open_already_is_refused(postgres_place: Place) -> None:
    place = postgres_place

    async def run() -> None:
        connection = await of_asyncpg(place)
        async with connection.transaction():
            with pytest.raises(OutboxError, match="in a transaction already"):
                async with enter(HandlerOutbox(place.outbox), connection, "do", "e"):
                    pass
        await connection.close()

    asyncio.run(run())


def test_old_claims_are_removed(place: Place, inbox: HandlerOutbox) -> None:
    connection = place.connect()
    with enter(inbox, connection, "do", "e"):
        pass
    assert place.store().clean(2**52) == 1
    with enter(inbox, connection, "do", "e"):
        act(connection, "again")
    assert effects(place) == ["again"]


def test_every_effect_happens_once_though_events_come_three_times_and_processes_die(place: Place) -> None:
    """Rows and child events of sixty events, each emitted three times, with kills inside and behind the transaction."""
    prepare(place, 60)
    run_worker(place, deaths=0.03, within_s=200)
    expected = [f"{number:06}" for number in range(60)]
    assert effects(place) == expected
    told = (place.config.folder / "told.txt").read_text().split()
    assert sorted(set(told)) == expected
