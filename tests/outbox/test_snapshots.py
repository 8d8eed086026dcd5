"""PostgreSQL: however transactions begin, draw ids and commit, events are sent once and in the order of their keys."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hexa_worker import Event
from hexa_worker.config.secret import Secret
from hexa_worker.outbox.base import OutboxStore
from hexa_worker.outbox.errors import OutboxError
from hexa_worker.outbox.inbox import HandlerOutbox
from hexa_worker.outbox.initialising import initialise, restore
from hexa_worker.outbox.postgres import schema
from hexa_worker.outbox.postgres.connecting import connect
from hexa_worker.outbox.postgres.statements import Statements
from hexa_worker.outbox.postgres.store import PostgresOutboxStore
from hexa_worker.outbox.records import HeldRecord
from hexa_worker.subscriptions.transactions import Block
from tests.lab.pgbouncer import PgBouncer
from tests.outbox.stage import Place, fetch_all, make_config, payloads

pytestmark = pytest.mark.postgres
STATEMENTS = Statements("hexa_outbox")


def emit(place: Place, connection: Any, number: int, key: str) -> None:
    place.outbox.emit_sync(connection, Event(channel="orders", payload=number, key=key))


def number_of_transaction(connection: Any) -> int:
    return int(connection.execute("SELECT pg_current_xact_id()::text").fetchone()[0])


def test_a_transaction_that_commits_late_is_sent_in_its_turn(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    late = place.connect()
    emit(place, late, 1, "a")
    place.write(2, 3, key="b")
    assert fetch_all(store) == [2, 3]
    place.write(4, key="b")
    assert fetch_all(store) == [4]
    emit(place, late, 5, "a")
    assert store.fetch(10) is None
    late.commit()
    assert fetch_all(store, limit=1) == [1, 5]
    assert store.fetch(10) is None


def test_the_later_of_two_writers_of_a_key_comes_later_though_it_began_and_commits_otherwise(
    postgres_place: Place,
) -> None:
    """The one that waited for the lock has the lower transaction number, and a third one holds the horizon back."""
    place, store = postgres_place, postgres_place.store()
    waiting, third, first = place.connect(), place.connect(), place.connect()
    numbers = [number_of_transaction(one) for one in (waiting, third, first)]
    assert numbers == sorted(numbers)
    emit(place, first, 1, "a")
    first.commit()  # its lock goes to the one that waited
    emit(place, waiting, 2, "a")
    waiting.commit()
    assert fetch_all(store) == [1, 2]
    emit(place, third, 3, "a")
    third.commit()
    assert fetch_all(store) == [3]


def test_a_large_backlog_is_read_in_batches_that_late_transactions_do_not_disturb(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    late = place.connect()
    emit(place, late, 1, "a")
    place.write(*range(10, 20), key="b")
    batch = store.fetch(4)
    assert batch is not None
    assert payloads(batch.records) == [10, 11, 12, 13]
    store.advance(batch.place, [])
    late.commit()
    place.write(20, key="b")
    store.close()
    again = place.store()  # as after a kill: the place was noted in the middle of a snapshot
    assert fetch_all(again, limit=4) == [*range(14, 20), 1, 20]


def test_events_of_a_late_transaction_are_counted_wherever_the_relay_has_stopped(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    late, later = place.connect(), place.connect()
    emit(place, late, 1, "a")
    place.write(2)
    assert fetch_all(store) == [2]
    late.commit()
    assert (store.status(0).pending, store.busy()) == (1, True)
    assert fetch_all(store) == [1]
    assert (store.status(0).pending, store.busy()) == (0, False)
    emit(place, later, 3, "a")
    place.write(4, 5)
    batch = store.fetch(2)  # a full one: the place is noted within its snapshot
    assert batch is not None
    store.advance(batch.place, [])
    assert (store.status(0).pending, store.busy()) == (0, False)
    emit(place, later, 6, "a")
    later.commit()
    place.write(7)
    assert (store.status(0).pending, store.busy()) == (3, True)
    assert store.fetch(2) is None
    assert fetch_all(store) == [3, 6, 7]
    assert (store.status(0).pending, store.busy()) == (0, False)


class Interleaving:
    """Transactions that lock keys, emit and end in any order, beside a relay.

    Args:
        place: the outbox.
        store: the relay's.
    """

    def __init__(self, place: Place, store: OutboxStore) -> None:
        self._place = place
        self._store = store
        self._connections = [place.connect() for _ in range(4)]
        self._locks: dict[str, int] = {}  # key: which transaction holds it
        self._emitted: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self._committed: dict[str, list[int]] = defaultdict(list)
        self._sent: dict[str, list[int]] = defaultdict(list)
        self._count = 0

    def step(self, what: str, who: int, key: str) -> None:
        connection = self._connections[who]
        match what:
            case "number":
                number_of_transaction(connection)
            case "emit":
                if self._locks.setdefault(key, who) == who:
                    self._count += 1
                    emit(self._place, connection, self._count, key)
                    self._emitted[who].append((key, self._count))
            case "commit" | "rollback":
                connection.commit() if what == "commit" else connection.rollback()
                for each, number in self._emitted.pop(who, []):
                    if what == "commit":
                        self._committed[each].append(number)
                self._locks = {each: owner for each, owner in self._locks.items() if owner != who}
            case "relay":
                self.relay(who + 1)

    def relay(self, limit: int) -> bool:
        batch = self._store.fetch(limit)
        if batch is None:
            return False
        for one in batch.records:
            assert one.message.key is not None
            self._sent[one.message.key.decode()].append(int(one.message.payload))
        self._store.advance(batch.place, [])
        return True

    def end(self) -> None:
        for who in range(len(self._connections)):
            self.step("rollback", who, "")
        while self.relay(3):
            pass
        assert dict(self._sent) == {key: numbers for key, numbers in self._committed.items() if numbers}


steps = st.lists(
    st.tuples(
        st.sampled_from(["number", "emit", "emit", "commit", "rollback", "relay", "relay"]),
        st.integers(0, 3),
        st.sampled_from(["a", "b"]),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps)
def test_what_is_sent_is_what_was_committed_in_the_order_of_each_key(
    postgres_place: Place, taken: list[tuple[str, int, str]]
) -> None:
    store = postgres_place.store()
    try:
        run = Interleaving(postgres_place, store)
        for step in taken:
            run.step(*step)
        run.end()
    finally:
        postgres_place.close()
        postgres_place._opened.clear()


def test_writers_in_threads_lose_nothing_and_keep_their_order(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    writers = [threading.Thread(target=write_many, args=(place, name)) for name in range(4)]
    for one in writers:
        one.start()
    sent: list[int] = []
    while any(one.is_alive() for one in writers):
        sent += fetch_all(store, limit=50)
    sent += fetch_all(store)
    assert sorted(sent) == sorted(1000 * name + number for name in range(4) for number in range(150))
    for name in range(4):
        mine = [one for one in sent if one // 1000 == name]
        assert mine == sorted(mine)


def write_many(place: Place, name: int) -> None:
    with psycopg.connect(place.options.url.reveal()) as connection:
        for number in range(150):
            emit(place, connection, 1000 * name + number, str(name))
            connection.commit()


def test_a_transaction_has_its_number_before_it_draws_an_id(postgres_place: Place) -> None:
    """The relay looks for late rows by number and for others by id: this order is what makes that exact."""
    connection = postgres_place.connect()
    plan = connection.execute(
        "EXPLAIN (VERBOSE, FORMAT JSON) INSERT INTO hexa_outbox (event_id, channel, headers, payload, timestamp_ms)"
        " SELECT 'e', 'c', '', '', n FROM generate_series(1, 2) AS n"
    ).fetchone()[0]
    (output,) = [node["Output"] for node in plan[0]["Plan"]["Plans"]]
    assert output[0] == "pg_current_xact_id()"
    assert output[1].startswith("nextval(")
    cache = connection.execute("SELECT seqcache FROM pg_sequence WHERE seqrelid = 'hexa_outbox_ids'::regclass")
    assert cache.fetchone()[0] == 1


def test_sent_partitions_are_emptied_and_the_ids_go_on_in_the_next_one(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    place.write(1)
    assert fetch_all(store) == [1]
    store.clean(2**52)
    connection = place.connect()
    assert connection.execute("SELECT count(*) FROM hexa_outbox").fetchone()[0] == 0
    connection.rollback()
    place.write(2)
    assert fetch_all(store) == [2]
    place.write(3)
    store.clean(2**52)  # what is not sent stays
    assert fetch_all(store) == [3]


def test_old_rows_of_a_quiet_outbox_get_out_of_the_way_of_new_ones(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    place.write(1)
    assert fetch_all(store) == [1]
    reader = place.connect()
    reader.execute("SELECT count(*) FROM hexa_outbox_0")  # keeps the partition from being emptied
    store.clean(2**52)
    place.write(2)
    assert reader.execute("SELECT max(id) FROM hexa_outbox").fetchone()[0] == schema.BLOCK + 1
    assert fetch_all(store) == [2]
    reader.rollback()
    store.clean(2**52)
    assert reader.execute("SELECT count(*) FROM hexa_outbox_0").fetchone()[0] == 0


def test_two_that_clean_at_once_do_not_set_the_ids_back(postgres_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place, relay = postgres_place, postgres_place.store()
    command: Any = place.store(leading=False)
    place.write(1)
    assert fetch_all(relay) == [1]
    place.connect().execute("SELECT count(*) FROM hexa_outbox_0")  # keeps the partition from being emptied
    drawn = command._drawn

    def beside_the_relay() -> int:
        found = int(drawn())
        relay.clean(2**52)
        place.write(2, 3)
        assert fetch_all(relay) == [2, 3]
        return found

    monkeypatch.setattr(command, "_drawn", beside_the_relay)
    command.clean(2**52)
    place.write(4)
    place.write(5)
    assert fetch_all(relay) == [4, 5]


@pytest.fixture
def pooled(request: pytest.FixtureRequest, postgres_place: Place, tmp_path: Path) -> Iterator[PostgresOutboxStore]:
    """A store of a relay by way of a pooler in the mode of the parameter, maybe with so many connections."""
    server = postgres_place.options.url.reveal()
    mode, _, size = request.param.partition(" of ")
    pooler = PgBouncer(tmp_path / "pooler", server=server, mode=mode, size=int(size or 20))
    pooler.start()
    store = PostgresOutboxStore(replace(postgres_place.options, url=Secret(pooler.address)))
    yield store
    store.close()
    pooler.close()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_a_pooler_that_shares_connections_is_found_out_before_a_lock_is_left_with_it(
    postgres_place: Place, pooled: PostgresOutboxStore
) -> None:
    pooled.open()
    with pytest.raises(OutboxError, match="pooler in session mode"):
        pooled.lead()
    assert postgres_place.store().status(0).leader is not None


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
def test_a_pooler_that_gives_each_client_a_connection_serves_a_relay(
    postgres_place: Place, pooled: PostgresOutboxStore
) -> None:
    pooled.open()
    assert pooled.lead()
    postgres_place.write(1)
    assert fetch_all(pooled) == [1]
    assert not postgres_place.store(leading=False).lead()


@pytest.mark.parametrize("pooled", ["session of 1"], indirect=True)
def test_a_pooler_without_a_second_connection_is_an_error_within_seconds(pooled: PostgresOutboxStore) -> None:
    pooled.open()
    begin = time.monotonic()
    with pytest.raises(OutboxError, match="pool_size"):
        pooled.lead()
    assert time.monotonic() - begin < 60  # by itself the pooler lets a client wait for 120 s


def test_one_leads_a_table_however_it_is_named(postgres_place: Place) -> None:
    place, _ = postgres_place, postgres_place.store()
    other = PostgresOutboxStore(replace(place.options, table="public.hexa_outbox"))
    other.open()
    assert not other.lead()
    other.close()


def test_the_server_finds_out_within_seconds_that_the_leader_s_machine_is_lost(postgres_place: Place) -> None:
    store: Any = postgres_place.store()
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    idle, interval, count = (int(store._db.execute(f"SHOW {name}").fetchone()[0]) for name in names)
    assert 0 < idle + interval * count <= 15
    assert store._db.execute("SHOW tcp_user_timeout").fetchone()[0] in ("10s", "10000")


def test_tables_of_one_name_in_two_schemas_have_a_leader_each(postgres_place: Place) -> None:
    place, _ = postgres_place, postgres_place.store()
    connection = place.connect()
    connection.execute("CREATE SCHEMA other")
    connection.commit()
    apart = Secret(f"{place.options.url.reveal()}?options=-csearch_path%3Dother")
    with connect(apart) as second:
        schema.migrate(second, "hexa_outbox")
    other = PostgresOutboxStore(replace(place.options, url=apart))
    other.open()
    assert other.status(0).leader is None
    assert other.lead()
    assert other.status(0).leader is not None
    other.close()


def test_a_writer_that_is_not_done_keeps_its_partition(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    writer = place.connect()
    emit(place, writer, 1, "a")
    place.write(2)
    assert fetch_all(store) == [2]
    store.clean(2**52)
    writer.commit()
    assert fetch_all(store) == [1]


def test_a_held_snapshot_leaves_no_dead_rows_behind(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    holder = place.connect()
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT 1")
    place.write(*range(100))
    assert fetch_all(store) == list(range(100))
    connection = place.connect()
    connection.execute("SELECT pg_stat_force_next_flush()")
    dead = connection.execute(
        "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables WHERE relname ~ '^hexa_outbox_[0-9]+$'"
    ).fetchone()[0]
    assert dead == 0


@pytest.mark.parametrize("query", ["next", "late"])
def test_the_relay_reads_by_index_and_stops_after_its_batch(postgres_place: Place, query: str) -> None:
    place = postgres_place
    place.write(*range(2_000))
    store: Any = place.store()
    asked = {"low": "1:1:", "low_id": 10**9 if query == "late" else 0, "last_id": 0, "limit": 50}
    if query == "late":
        (xid,) = store._connection.execute("SELECT min(xid)::text FROM hexa_outbox").fetchone()
        asked["low"] = f"{xid}:{int(xid) + 1}:{xid}"
    asked["high"] = store._connection.execute("SELECT pg_current_snapshot()::text").fetchone()[0]
    text = f"EXPLAIN (ANALYZE, FORMAT JSON) {getattr(STATEMENTS, query)}"
    plan = json.dumps(store._connection.execute(text, asked).fetchone()[0])
    assert "Seq Scan" not in plan
    assert max(node["Actual Rows"] for node in nodes(json.loads(plan)[0]["Plan"]) if "Scan" in node["Node Type"]) <= 51


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *[each for one in plan.get("Plans", []) for each in nodes(one)]]


class Explaining:
    """A connection that explains each query before it runs it, and counts the rows that its scans touch."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.touched: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self, **more: Any) -> Any:
        del more
        return self

    def execute(self, query: str, asked: Any = None) -> Any:
        if query.split(maxsplit=1)[0] in ("SELECT", "WITH"):
            (plan,) = self._connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", asked).fetchone()[0]
            touched = max(rows_touched(node) for node in nodes(plan["Plan"]))
            self.touched[query] = max(touched, self.touched.get(query, 0))
        return self._connection.execute(query, asked)


def rows_touched(node: dict[str, Any]) -> int:
    if "Scan" not in node["Node Type"]:
        return 0
    each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return int(each * node["Actual Loops"])


def test_a_backlog_is_not_read_to_tell_how_long_it_is(postgres_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexa_worker.outbox.postgres.store.COUNTED", 50)
    place = postgres_place
    place.write(*range(2_000))
    open_one = place.connect()
    emit(place, open_one, 2_000, "late")
    place.write(*range(2_001, 4_000))
    store: Any = place.store()
    batch = store.fetch(1_000)
    first, *rest = batch.records
    behind = [HeldRecord(record=one, state="behind") for one in rest]
    store.advance(batch.place, [HeldRecord(record=first, state="refused"), *behind])
    store._db = explaining = Explaining(store._db)
    assert store.status(0).pending > 3_000
    assert store.busy()
    assert store.blocked(parked=True) == {("orders", b"k")}
    assert store.unled(parked=True) == []
    assert [one.record for one in store.due(0, 10)] == [first]
    assert len(store.line(("orders", b"k"), 10)) == 10
    assert len(store.fetch(50).records) == 50
    assert len(explaining.touched) > 10
    assert {query: rows for query, rows in explaining.touched.items() if rows > 150} == {}


def test_a_database_restored_elsewhere_is_not_relayed_by_mistake(postgres_place: Place) -> None:
    place, store = postgres_place, postgres_place.store()
    place.write(1)
    assert fetch_all(store) == [1]
    place.write(2)
    store.close()
    connection = place.connect()
    connection.execute("UPDATE hexa_outbox_cursor SET cluster = '1'")
    connection.commit()
    with pytest.raises(OutboxError, match="--restored"):
        place.store()
    place.let_go()
    restore(place.config)
    place.write(3)
    assert fetch_all(place.store())[-2:] == [2, 3]  # of what was sent shortly before, something may come again


class Meanwhile:
    """A connection beside which a younger transaction ends after each UPDATE."""

    def __init__(self, connection: Any, other: Any) -> None:
        self._connection = connection
        self._other = other

    def transaction(self) -> Any:
        return self._connection.transaction()

    def execute(self, query: str, *values: Any) -> Any:
        done = self._connection.execute(query, *values)
        if query.startswith("UPDATE"):
            number_of_transaction(self._other)
            self._other.commit()
        return done


def test_what_a_dump_brought_is_sent_though_others_commit_while_it_is_taken_over(postgres_place: Place) -> None:
    place = postgres_place
    place.write(1, 2)
    with psycopg.connect(place.options.url.reveal(), autocommit=True) as connection:
        connection.execute("UPDATE hexa_outbox_cursor SET cluster = '1'")
        assert schema.adopt(Meanwhile(connection, place.connect()), "hexa_outbox") == 2
    assert fetch_all(place.store()) == [1, 2]


def test_events_of_the_transaction_that_made_the_tables_are_sent(postgres_url: str, tmp_path: Path) -> None:
    place = Place(make_config(postgres_url, tmp_path))
    migration = place.connect()
    number_of_transaction(migration)
    other = place.connect()
    number_of_transaction(other)
    other.commit()
    migration.execute(schema.ddl("hexa_outbox"))
    place.write(1, connection=migration)
    assert fetch_all(place.store()) == [1]
    place.close()


def test_a_relay_that_never_rests_gathers_no_notifications(postgres_place: Place) -> None:
    place = postgres_place
    store: Any = place.store()
    connection = place.connect()
    for number in range(200):
        place.write(number, connection=connection)
        if number % 2:
            store.confirm()
    assert len(getattr(store._db, "_notifies_backlog", ())) < 10
    batch = store.fetch(150)
    place.write(200, connection=connection)
    begin = time.monotonic()
    rest = store.fetch(150)  # of the snapshot that is read already
    assert len(batch.records) + len(rest.records) == 200
    store.wait(60.0)  # it was heard of the last one, though nobody waited then
    assert time.monotonic() - begin < 60.0
    assert payloads(store.fetch(150).records) == [200]


def test_making_the_tables_twice_changes_nothing(postgres_place: Place) -> None:
    postgres_place.write(1)
    assert initialise(postgres_place.config) == (1, 1)
    assert fetch_all(postgres_place.store()) == [1]


RIGHTS = """
CREATE ROLE {service} LOGIN;
GRANT INSERT ON hexa_outbox TO {service};
GRANT USAGE ON hexa_outbox_ids TO {service};
GRANT SELECT, INSERT ON hexa_outbox_inbox TO {service};
CREATE ROLE {relay} LOGIN;
GRANT SELECT, TRUNCATE ON hexa_outbox, {parts} TO {relay};
GRANT SELECT, UPDATE ON hexa_outbox_ids TO {relay};
GRANT SELECT, INSERT, UPDATE, DELETE ON hexa_outbox_cursor, hexa_outbox_held, hexa_outbox_inbox TO {relay};
"""


def test_a_login_of_few_rights_is_told_whose_transaction_is_open(
    postgres_place: Place, unique_name: Callable[..., str]
) -> None:
    place, looker = postgres_place, unique_name("looker").replace("-", "_")
    owner, writer = place.connect(), place.connect()
    owner.execute(
        f"CREATE ROLE {looker} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {looker};"
        f"GRANT SELECT ON hexa_outbox_ids TO {looker}"
    )
    owner.commit()
    url = place.options.url.reveal().replace("postgres@", f"{looker}@")
    store = PostgresOutboxStore(replace(place.options, url=Secret(url)))
    store.open()
    assert store.status(0).blocked_by is None
    emit(place, writer, 1, "a")
    assert store.status(0).blocked_by == (writer.info.backend_pid, None)
    (pid, age_s) = place.store(leading=False).status(0).blocked_by or (0, None)
    assert pid == writer.info.backend_pid
    assert age_s is not None
    store.close()


def test_the_rights_that_the_page_names_are_enough(postgres_place: Place, unique_name: Callable[..., str]) -> None:
    place = postgres_place
    service, relay = (unique_name(name).replace("-", "_") for name in ("service", "relay"))
    parts = ", ".join(STATEMENTS.parts)
    owner = place.connect()
    owner.execute(RIGHTS.format(service=service, relay=relay, parts=parts))
    owner.commit()
    url = place.options.url.reveal()
    with psycopg.connect(url.replace("postgres@", f"{service}@")) as connection:
        emit(place, connection, 1, "a")
        with HandlerOutbox(place.outbox).transaction(connection, "do", "e", Block()):
            emit(place, connection, 2, "a")
    store = PostgresOutboxStore(replace(place.options, url=Secret(url.replace("postgres@", f"{relay}@"))))
    store.open()
    assert store.lacking() == []
    assert store.lead()
    batch = store.fetch(10)
    assert batch is not None
    assert payloads(batch.records) == [1, 2]
    store.advance(batch.place, [HeldRecord(record=batch.records[1], state="refused")])
    store.settle([batch.records[1].id], [])
    assert store.status(0).pending == 0
    assert store.clean(2**52) == 1
    assert owner.execute("SELECT count(*) FROM hexa_outbox").fetchone()[0] == 0
    store.close()
    owner.execute(f"REVOKE TRUNCATE ON hexa_outbox_3 FROM {relay}; REVOKE UPDATE ON hexa_outbox_ids FROM {relay}")
    owner.commit()
    store.open()
    assert store.lacking() == ["TRUNCATE on hexa_outbox_3", "UPDATE on hexa_outbox_ids"]
    store.close()
