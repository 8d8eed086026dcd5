"""The relay: what was committed arrives as it was prepared, in the order of keys; a refusal stops its own key only."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from hexa_worker import Event
from hexa_worker.core.message import Message
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable
from hexa_worker.outbox.errors import Fenced, OutboxError, OutboxUnavailable
from hexa_worker.outbox.opening import make_store
from hexa_worker.outbox.relay import Relay
from tests.deadlines import until
from tests.outbox.stage import Place, make_config, make_tables

pytestmark = pytest.mark.anyio
LIMIT_S = 20.0


class Broker(MemoryDriver):
    """A memory broker that refuses and is away at will.

    Attributes:
        refused: payloads that it takes no more.
        away: how many publishes fail from now on.
        gone: channels that are away.
        sent: what it took, in order.
    """

    def __init__(self, largest: int | None = None) -> None:
        super().__init__(MemoryStore())
        self.refused: set[bytes] = set()
        self.away = 0
        self.gone: set[str] = set()
        self.sent: list[Message] = []
        self._largest = largest

    @property
    def capabilities(self) -> Any:
        return replace(super().capabilities, max_payload=self._largest)

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        if self.away:
            self.away -= 1
            raise DriverUnavailable("gone fishing")
        if self.gone and all(one.channel in self.gone for one in messages):
            raise DriverUnavailable("its leader is away")
        answers: list[str | DriverError] = []
        for one in messages:
            if one.channel in self.gone:
                answers.append(DriverUnavailable("its leader is away"))
            elif one.payload in self.refused:
                answers.append(DriverRejected("no such luck"))
            else:
                self.sent.append(one)
                answers.append("id")
        return answers

    def numbers(self, key: bytes | None = None) -> list[int]:
        return [int(one.payload) for one in self.sent if key is None or one.key == key]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def waiting(place: Place) -> int:
    """How many events are not sent."""
    pending = place.store(leading=False).status(0).pending
    place.let_go()
    return pending


def parked_by(place: Place) -> int:
    """How many events are parked."""
    parked = place.store(leading=False).status(0).parked
    place.let_go()
    return parked


class Running:
    """A relay that runs for the length of a block."""

    def __init__(self, place: Place, broker: Broker, **options: Any) -> None:
        self.store = make_store(place.config)
        self.relay = Relay(self.store, broker, replace(place.options, **options))
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Relay:
        await self._group.__aenter__()
        self._group.start_soon(self.relay.run)
        return self.relay

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.relay.stop()
        self._group.cancel_scope.deadline = anyio.current_time() + LIMIT_S
        await self._group.__aexit__(kind, error, traceback)


async def test_what_was_written_before_and_after_arrives_in_order_and_once(place: Place) -> None:
    broker = Broker()
    place.write(*range(50))
    async with Running(place, broker, batch=7) as relay:
        await until(lambda: len(broker.sent) == 50)
        place.write(50)
        await until(lambda: len(broker.sent) == 51)
        with anyio.fail_after(LIMIT_S):
            while await relay.busy():
                await anyio.sleep(0.01)
    assert broker.numbers() == list(range(51))
    async with Running(place, broker):
        place.write(51)
        await until(lambda: len(broker.sent) == 52)
    assert broker.numbers() == list(range(52))


async def test_a_relay_stays_the_leader_while_the_broker_is_slow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexa_worker.outbox.relay.RENEW_S", 0.01)
    broker, answered = Broker(), anyio.Event()
    asked: list[bool] = []

    class Slow(Broker):
        async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
            asked.clear()
            await answered.wait()
            return await broker.publish(messages)

    running = Running(place, Slow())
    confirm = running.store.confirm

    def noting() -> None:
        asked.append(True)
        confirm()

    running.store.confirm = noting  # type: ignore[method-assign]
    place.write(1)
    async with running:
        await until(lambda: len(asked) >= 3)
        answered.set()
        await until(lambda: broker.sent)
    assert broker.numbers() == [1]


async def test_a_record_arrives_as_it_was_prepared(place: Place) -> None:
    broker, connection = Broker(), place.connect()
    event = Event(channel="orders", payload={"a": 1}, key="k", headers={"x": "y"}, carried=(("traceparent", b"t"),))
    (event_id,) = place.outbox.emit_sync(connection, event)
    connection.commit()
    async with Running(place, broker):
        await until(lambda: bool(broker.sent))
    (message,) = broker.sent
    assert message.payload == b'{"a":1}'
    assert dict(message.headers) == {"hexa-event-id": event_id.encode(), "x": b"y", "traceparent": b"t"}


async def test_a_broker_that_is_away_is_waited_for(place: Place) -> None:
    broker = Broker()
    broker.away = 3
    place.write(1, 2)
    async with Running(place, broker):
        await until(lambda: len(broker.sent) == 2)
    assert broker.numbers() == [1, 2]


async def test_what_was_sent_is_not_sent_again_while_another_one_keeps_the_place_from_being_noted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hexa_worker.outbox.sqlite.store.BUSY_S", 0.05)
    broker, writer, said = Broker(), place.connect(), []
    monkeypatch.setattr(Relay, "_say", lambda _, error: said.append(error))
    place.write(1, 2)
    if place.sqlite:
        writer.execute("BEGIN IMMEDIATE")
    else:
        url = place.options.url.reveal()
        monkeypatch.setattr(type(place.options.url), "reveal", lambda _: f"{url}?options=-clock_timeout%3D50ms")
        writer.execute("LOCK TABLE hexa_outbox_cursor IN SHARE MODE")
    async with Running(place, broker):
        await until(lambda: len(said) > 3)
        writer.rollback()
        await until(lambda: waiting(place) == 0)
    assert broker.numbers() == [1, 2]


async def test_a_row_that_emit_did_not_write_is_named_and_ends_no_worker(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    broker, connection = Broker(), place.connect()
    columns = "(event_id, channel, headers, payload, timestamp_ms)"
    connection.execute(f"INSERT INTO hexa_outbox {columns} VALUES ('e', 'orders', '', '1', 0)")
    connection.commit()
    async with Running(place, broker):
        await until(lambda: "row 1 of the outbox was not written by Outbox.emit" in caplog.text)
        connection.execute("DELETE FROM hexa_outbox")
        connection.commit()
        place.write(2)
        await until(lambda: broker.numbers() == [2])


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[Place]:
    made = Place(make_config("sqlite:///shop.db", tmp_path))
    make_tables(made.config)
    yield made
    made.close()


async def test_a_database_that_is_replaced_is_relayed_from_its_new_file(sqlite_place: Place) -> None:
    place, broker = sqlite_place, Broker()
    path = place.config.folder / "shop.db"
    async with Running(place, broker):
        place.write(1)
        await until(lambda: broker.numbers() == [1])
        await until(lambda: waiting(place) == 0)
        place.let_go()
        path.with_name("copy").write_bytes(path.read_bytes())
        path.with_name("copy").rename(path)
        place.write(2)
        await until(lambda: broker.numbers() == [1, 2])


async def test_a_lock_file_that_cannot_be_opened_is_said(sqlite_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    lock = sqlite_place.config.folder / "shop.db.relay"
    lock.mkdir()
    sqlite_place.write(1)
    broker = Broker()
    async with Running(sqlite_place, broker):
        await until(lambda: "Is a directory" in caplog.text)
        lock.rmdir()
        await until(lambda: broker.numbers() == [1])


async def test_a_refused_record_stops_its_key_and_no_other_until_it_is_taken(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"1"}
    place.write(1)
    async with Running(place, broker, maximum_retries=10_000) as relay:
        await until(lambda: relay.refused > 0)
        place.write(2, 3)
        place.write(4, key="other")
        place.write(5, key=None)
        await until(lambda: len(broker.sent) == 2)
        assert broker.numbers() == [4, 5]
        broker.refused.clear()
        await until(lambda: len(broker.sent) == 5)
        place.write(6)
        await until(lambda: len(broker.sent) == 6)
    assert broker.numbers(b"k") == [1, 2, 3, 6]


async def test_many_refused_records_are_tried_again_together(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"%d" % number for number in range(300)}
    place.write(*range(300), key=None)
    place.write(300, key="k")
    async with Running(place, broker, maximum_retries=10_000, retry_interval_s=0.01) as relay:
        await until(lambda: relay.refused >= 600)
        before = relay.refused, relay.batches
        await until(lambda: relay.refused >= before[0] + 600)
        assert relay.batches - before[1] <= (relay.refused - before[0]) // 300 + 1
        broker.refused.clear()
        await until(lambda: len(broker.sent) == 301)
    assert sorted(broker.numbers()) == list(range(301))


async def test_nothing_passes_a_record_of_its_key_that_was_refused_before(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"1", b"3"}
    place.write(1, 3)
    async with Running(place, broker, retry_interval_s=0.01, maximum_retries=1):
        await until(lambda: parked_by(place) == 1)
        place.write(5)
        other = place.store(leading=False)
        (parked,) = other.held(10)
        assert other.drop([parked.record.id]) == 1
        await until(lambda: parked_by(place) == 1)
        assert broker.numbers() == []
        broker.refused.clear()
        assert other.retry(None) == 1
        await until(lambda: broker.numbers() == [3, 5])


async def test_a_channel_that_is_away_stops_no_other_and_uses_up_no_attempts(place: Place) -> None:
    broker, connection = Broker(), place.connect()
    broker.gone = {"lost"}
    place.outbox.emit_sync(connection, Event(channel="lost", payload=1, key="k"))
    place.write(2, connection=connection)
    async with Running(place, broker, retry_interval_s=0.01, maximum_retries=0):
        await until(lambda: broker.numbers() == [2])
        place.write(3)
        await until(lambda: broker.numbers() == [2, 3])
        assert parked_by(place) == 0
        broker.gone.clear()
        await until(lambda: broker.numbers() == [2, 3, 1])


async def test_a_record_that_is_known_to_be_too_large_never_lets_its_followers_pass(place: Place) -> None:
    broker = Broker(largest=3)
    place.write(1, 20_000, 3, 4)
    place.write(5, key="other")
    async with Running(place, broker, maximum_retries=10_000) as relay:
        await until(lambda: len(broker.sent) == 2)
        assert broker.numbers() == [1, 5]
        await until(lambda: relay.refused > 0)
        broker._largest = None
        await until(lambda: len(broker.sent) == 5)
    assert broker.numbers(b"k") == [1, 20_000, 3, 4]


async def test_a_record_is_parked_after_its_attempts_and_its_key_stays_until_it_is_told(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"1"}
    place.write(1)
    async with Running(place, broker, retry_interval_s=0.01):
        await until(lambda: parked_by(place) == 1)
        place.write(2)
        place.write(3, key="other")
        await until(lambda: broker.numbers() == [3])
        other = place.store(leading=False)
        (parked,) = other.held(10)
        assert (parked.state, parked.attempts, parked.reason) == ("parked", 3, "no such luck")
        broker.refused.clear()
        assert other.retry([parked.record.id]) == 1
        await until(lambda: broker.numbers(b"k") == [1, 2])


@pytest.mark.parametrize("on_refused", ["hold", "park"])
async def test_of_records_refused_together_the_later_ones_wait_behind_the_first(place: Place, on_refused: str) -> None:
    broker = Broker()
    broker.refused = {b"1", b"2", b"3"}
    place.write(1, 2, 3)
    async with Running(place, broker, maximum_retries=20, retry_interval_s=0.01, on_refused=on_refused) as relay:
        await until(lambda: relay.refused > 0)
        broker.refused = {b"1"}
        await until(lambda: parked_by(place) == 1)
        if on_refused == "hold":
            place.write(4, key="other")
            await until(lambda: bool(broker.sent))
            assert broker.numbers(b"k") == []
            broker.refused = set()
            assert place.store(leading=False).retry(None) == 1
            await until(lambda: broker.numbers(b"k") == [1, 2, 3])
        await until(lambda: broker.numbers(b"k")[-2:] == [2, 3])


async def test_a_parked_record_that_is_dropped_lets_its_key_go_on(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"1"}
    place.write(1)
    async with Running(place, broker, retry_interval_s=0.01):
        await until(lambda: parked_by(place) == 1)
        place.write(2)
        other = place.store(leading=False)
        (parked,) = other.held(10)
        assert other.drop([parked.record.id]) == 1
        await until(lambda: broker.numbers() == [2])


async def test_a_key_goes_on_behind_a_parked_record_where_that_is_configured(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"1"}
    place.write(1)
    async with Running(place, broker, retry_interval_s=0.01, on_refused="park") as relay:
        await until(lambda: relay.refused > 0)
        place.write(2)
        await until(lambda: broker.numbers() == [2])
        assert parked_by(place) == 1


async def test_what_is_held_is_remembered_by_the_next_relay(place: Place) -> None:
    broker = Broker()
    broker.refused = {b"1"}
    place.write(1)
    async with Running(place, broker, maximum_retries=10_000) as relay:
        await until(lambda: relay.refused > 0)
        place.write(2)
        place.write(3, key=None)
        await until(lambda: broker.numbers() == [3])
    broker.refused.clear()
    async with Running(place, broker):
        place.write(4)
        await until(lambda: len(broker.sent) == 4)
    assert broker.numbers(b"k") == [1, 2, 4]


async def test_of_two_relays_one_sends_and_the_other_takes_over(place: Place) -> None:
    broker = Broker()
    async with Running(place, broker) as second:
        await until(lambda: second.state == "leading")
        async with Running(place, broker) as first:
            await until(lambda: first.state == "standby")
            place.write(*range(10))
            await until(lambda: len(broker.sent) == 10)
            assert (first.relayed, second.relayed) == (0, 10)
            second.stop()
            place.write(10)
            await until(lambda: len(broker.sent) == 11)
    assert broker.numbers() == list(range(11))


async def test_what_failed_is_forgotten_where_another_relay_sends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(place.config)
    opening, refusals = store.open, [OutboxError("its tables are being made")]

    def refuse_once() -> None:
        if refusals:
            raise refusals.pop()
        opening()

    monkeypatch.setattr(store, "open", refuse_once)
    broker = Broker()
    async with Running(place, broker) as first:
        await until(lambda: first.state == "leading")
        second = Relay(store, broker, place.options)
        async with anyio.create_task_group() as group:
            group.start_soon(second.run)
            await until(lambda: second.failure is not None)
            await until(lambda: second.state == "standby" and second.failure is None)
            second.stop()


async def test_a_relay_ends_when_it_is_stopped_while_the_broker_is_away(place: Place) -> None:
    broker = Broker()
    broker.away = 10_000
    place.write(1)
    async with Running(place, broker):
        await until(lambda: broker.away < 10_000)


async def test_a_relay_that_was_frozen_while_it_fetched_asks_whether_it_still_leads(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hexa_worker.outbox.relay.DOUBT_S", 0.2)
    broker, store, asked = Broker(), make_store(place.config), list[int]()
    fetch, confirm = store.fetch, store.confirm

    def fetch_and_freeze(limit: int) -> Any:
        batch = fetch(limit)
        if batch is not None and not broker.sent:
            time.sleep(0.4)
        return batch

    def ask() -> None:
        if not broker.sent:
            asked.append(len(broker.sent))
        confirm()

    monkeypatch.setattr(store, "fetch", fetch_and_freeze)
    monkeypatch.setattr(store, "confirm", ask)
    monkeypatch.setattr("hexa_worker.outbox.relay.RENEW_S", 60.0)
    place.write(1)
    relay = Relay(store, broker, place.options)
    async with anyio.create_task_group() as group:
        group.start_soon(relay.run)
        await until(lambda: broker.numbers() == [1])
        relay.stop()
    assert asked == [0]


async def test_a_relay_that_finds_itself_overtaken_before_it_sends_goes_on_when_it_leads_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hexa_worker.outbox.relay.DOUBT_S", 0.0)
    broker, store = Broker(), make_store(place.config)
    confirm, doubts = store.confirm, [Fenced("another one leads"), OutboxUnavailable("it is away")]

    def doubt() -> None:
        if doubts:
            raise doubts.pop()
        confirm()

    monkeypatch.setattr(store, "confirm", doubt)
    place.write(1)
    relay = Relay(store, broker, place.options)
    async with anyio.create_task_group() as group:
        group.start_soon(relay.run)
        await until(lambda: broker.numbers() == [1])
        relay.stop()
