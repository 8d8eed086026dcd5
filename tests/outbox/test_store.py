"""What is written is found once, in order, whatever its transactions do; the same in every database."""

import errno
import traceback
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from hexa_worker import Event
from hexa_worker.config.outbox import OutboxConfig as OutboxOptions
from hexa_worker.config.secret import Secret
from hexa_worker.outbox.errors import Fenced, OutboxError, OutboxUnavailable
from hexa_worker.outbox.postgres.store import PostgresOutboxStore
from hexa_worker.outbox.records import HeldRecord, State
from hexa_worker.outbox.sqlite.relay_lock import RelayLock
from tests.outbox.stage import Place, fetch_all, lead, payloads


def test_what_is_committed_is_found_in_order_and_once(place: Place) -> None:
    store = place.store()
    assert store.fetch(10) is None
    place.write(1, 2, 3)
    place.write(4)
    assert fetch_all(store, limit=3) == [1, 2, 3, 4]
    assert store.fetch(10) is None


def test_the_first_event_of_all_is_found_by_a_relay_that_looked_before_it(place: Place) -> None:
    store = place.store()
    assert [store.fetch(10), store.fetch(10)] == [None, None]
    place.write(1)
    assert fetch_all(store) == [1]


def test_what_is_rolled_back_is_never_found(place: Place) -> None:
    store, connection = place.store(), place.connect()
    place.outbox.emit_sync(connection, Event(channel="orders", payload=1, key="k"))
    connection.rollback()
    place.write(2)
    assert fetch_all(store) == [2]


def test_a_record_is_found_exactly_as_it_was_prepared(place: Place) -> None:
    event = Event(
        channel="orders",
        payload=b"\x00\xff",
        key=b"\xfe",
        headers={"tenant": "é"},
        correlation_id="c",
        carried=(("traceparent", b"00-1-2-03"), ("x", b"\xff")),
    )
    connection = place.connect()
    (event_id,) = place.outbox.emit_sync(connection, event)
    connection.commit()
    batch = place.store().fetch(10)
    assert batch is not None
    (found,) = batch.records
    assert found.event_id == event_id
    again = Event(**{**{name: getattr(event, name) for name in event.__struct_fields__}, "id": event_id})
    _, (prepared,) = place.outbox._prepared([again], None)
    assert found.message.headers == prepared.message.headers
    assert (found.message.payload, found.message.key) == (b"\x00\xff", b"\xfe")
    assert abs(found.message.timestamp_ms - prepared.message.timestamp_ms) < 60_000


def test_one_relay_leads_and_the_next_goes_on_where_it_ended(place: Place) -> None:
    first = place.store()
    second = place.store(leading=False)
    assert not second.lead()
    place.write(1, 2, 3, 4)
    batch = first.fetch(2)
    assert batch is not None
    first.advance(batch.place, [])
    assert payloads(first.fetch(2).records) == [3, 4]  # type: ignore[union-attr]
    first.close()
    lead(second)
    assert fetch_all(second) == [3, 4]


def test_who_was_overtaken_notes_nothing_any_more(place: Place) -> None:
    first, second = place.store(), place.store(leading=False)
    place.write(1)
    stale = first.fetch(1)
    assert stale is not None
    first.close()
    lead(second)
    assert fetch_all(second) == [1]
    first.open()
    with pytest.raises((Fenced, AssertionError)):
        first.advance(stale.place, [])


def test_a_leader_that_is_frozen_loses_the_lead_and_sends_nothing_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hexa_worker.outbox.sqlite.relay_lock.LEASE_MS", 1_000)
    with monkeypatch.context() as short:
        short.setattr("hexa_worker.outbox.postgres.store.LEASE_MS", 1_000)
        frozen = place.store()
    place.write(1, 2, 3)
    second, third = place.store(leading=False), place.store(leading=False)
    lead(second)
    assert not third.lead()
    assert payloads(second.fetch(10).records) == [1, 2, 3]  # type: ignore[union-attr]
    for ask in (frozen.confirm, partial(frozen.fetch, 1), partial(frozen.settle, [], [])):
        with pytest.raises((Fenced, OutboxUnavailable)):
            ask()


def test_held_records_are_kept_in_lines_until_they_are_settled(place: Place) -> None:
    store = place.store()
    place.write(1, 2)
    place.write(3, key=None)
    batch = store.fetch(10)
    assert batch is not None
    one, two, three = batch.records
    store.advance(
        batch.place,
        [
            HeldRecord(record=one, state="refused", attempts=1, reason="no", due_ms=50),
            HeldRecord(record=two, state="behind"),
            HeldRecord(record=three, state="parked", attempts=9, reason="never"),
        ],
    )
    line = ("orders", b"k")
    assert store.blocked(parked=True) == {line}
    assert not store.due(49, 10)
    assert [held.record for held in store.due(50, 10)] == [one]
    assert [held.record for held in store.line(line, 10)] == [one, two]
    assert not store.unled(parked=True)
    store.settle([one.id], [])
    assert store.unled(parked=True) == [line]
    assert [(held.record, held.state, held.reason) for held in store.held(10)] == [(three, "parked", "never")]
    status = store.status(0)
    assert (status.pending, status.held, status.parked) == (1, 1, 1)
    assert store.retry(None) == 1
    assert [held.record for held in store.due(0, 10)] == [three]


def test_a_status_tells_what_waits_how_long_and_who_leads(place: Place) -> None:
    looker = place.store(leading=False)
    assert looker.status(0).leader is None
    store = place.store()
    place.write(1, 2)
    batch = store.fetch(1)
    assert batch is not None
    at = batch.records[0].message.timestamp_ms
    status = looker.status(at + 5_000)
    assert (status.pending, status.exact, status.version) == (2, True, 1)
    assert status.oldest_age_s == 5.0
    assert "pid" in (status.leader or "")
    store.advance(batch.place, [])
    assert looker.status(at).pending == 1


def test_of_many_events_is_told_about_how_many_they_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexa_worker.outbox.sqlite.store.COUNTED", 10)
    monkeypatch.setattr("hexa_worker.outbox.postgres.store.COUNTED", 10)
    store = place.store()
    place.write(*range(30))
    batch = store.fetch(20)
    assert batch is not None
    assert (store.status(0).pending, store.status(0).exact) == (30, False)
    store.advance(batch.place, [HeldRecord(record=one, state="behind") for one in batch.records])
    connection = place.connect()
    connection.execute("ANALYZE")
    connection.commit()
    status = store.status(0)
    assert (status.pending, status.held, status.parked, status.exact) == (30, 20, 0, False)
    store.settle([one.id for one in batch.records], [])
    assert (store.status(0).pending, store.status(0).exact) == (10, True)


def test_the_lines_in_which_something_waits_are_found_one_by_one(place: Place) -> None:
    store = place.store()
    for number, key in enumerate("abc"):
        place.write(number, 10 + number, key=key)
    place.write(3, 4, key=None)
    batch = store.fetch(10)
    assert batch is not None
    states: dict[int, State] = {0: "parked", 10: "behind", 1: "refused", 11: "behind", 2: "behind", 12: "behind"}
    held = [HeldRecord(record=one, state=states.get(int(one.message.payload), "refused")) for one in batch.records]
    store.advance(batch.place, held)
    a, b, c = (("orders", key) for key in (b"a", b"b", b"c"))
    assert store.blocked(parked=True) == store.blocked(parked=False) == {a, b, c}
    assert store.unled(parked=True) == [c]
    assert store.unled(parked=False) == [a, c]


def test_an_event_is_found_by_its_id_until_it_is_sent(place: Place) -> None:
    store = place.store()
    (event_id,) = place.write(1)
    assert store.find(event_id) == "waiting"
    fetch_all(store)
    assert store.find(event_id) is None


def test_cleaning_removes_what_was_sent_and_nothing_else(place: Place) -> None:
    store = place.store()
    place.write(1)
    assert fetch_all(store) == [1]
    place.write(2)
    store.clean(2**52)
    assert fetch_all(store) == [2]


def test_tables_that_are_missing_are_an_error_that_says_what_to_do(place: Place) -> None:
    connection = place.connect()
    connection.execute("DROP VIEW hexa_outbox_debezium")
    connection.execute("DROP TABLE hexa_outbox_cursor")
    connection.execute("DROP TABLE hexa_outbox" + ("" if place.sqlite else " CASCADE"))
    connection.commit()
    with pytest.raises(OutboxError, match="hexa-worker outbox init"):
        place.store()


def test_a_url_that_cannot_be_read_is_an_error_that_does_not_show_it() -> None:
    for url in ("postgresql://me:50%secret@127.0.0.1/shop", "postgresql://me@127.0.0.1/shop?passwrd=secret"):
        store = PostgresOutboxStore(OutboxOptions(url=Secret(url)))
        with pytest.raises(OutboxError, match="no connection string") as caught:
            store.open()
        assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_disk_that_fails_under_the_leaders_lock_file_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RelayLock(tmp_path / "lock")
    assert lock.take(nullcontext)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as failing:
        failing.setattr("os.utime", fail)
        with pytest.raises(OutboxUnavailable, match="Read-only file system"):
            lock.touch()
    lock.touch()
    lock.free()
