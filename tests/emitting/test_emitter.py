import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from hexa_worker import (
    ConfigError,
    Delivery,
    DriverRejected,
    DriverUnavailable,
    Embedded,
    Emitter,
    Event,
    Kafka,
    Nats,
    NatsStream,
    Secret,
    SyncEmitter,
    User,
)
from hexa_worker.core.lineage import CORRELATION_ID, Lineage, lineage_of
from hexa_worker.core.message import header
from hexa_worker.core.propagated import read_user
from hexa_worker.drivers.embedded import EmbeddedDriver
from tests.emitting.stage import Gated

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def stored(path: Path, channel: str) -> Sequence[Delivery]:
    driver = EmbeddedDriver(path, Embedded())
    await driver.open()
    try:
        return await driver.browse(channel, -1, 10)
    finally:
        await driver.close()


async def settle_down() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await checkpoint()


async def test_an_emitter_of_worker_toml_stores_events_for_good(tmp_path: Path) -> None:
    config = tmp_path / "worker.toml"
    config.write_text('[worker]\nname = "web"\nhandlers = ["none"]\n[broker]\ndriver = "embedded"\npath = "hexa.db"\n')
    user = User(identifier="u-1", name="Ada", is_active=True)
    async with Emitter.from_config(config) as emitter:
        event_id = await emitter.emit(
            "orders.created", {"id": 1}, key="ada", headers={"x": "y"}, correlation_id="req-1", user=user, locale="de"
        )
    (found,) = await stored(tmp_path / "hexa.db", "orders.created")
    assert (found.payload, found.key, header(found.headers, "x")) == (b'{"id":1}', b"ada", b"y")
    assert lineage_of(found) == Lineage(event_id, event_id, None)
    assert header(found.headers, CORRELATION_ID) == b"req-1"
    assert read_user(header(found.headers, "_ctx_user")) == user
    assert header(found.headers, "_ctx_locale") == b"de"


async def test_an_emitter_needs_no_worker_toml_but_the_options_of_its_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with Emitter.connect(Embedded(path="hexa.db", durability="full")) as emitter:
        event_id = await emitter.emit_event(Event("orders.created", {"id": 1}))
    (found,) = await stored(tmp_path / "hexa.db", "orders.created")
    assert (found.payload, lineage_of(found).event_id) == (b'{"id":1}', event_id)


async def test_a_worker_toml_of_a_service_that_only_emits_names_no_handlers(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text('worker.name = "web"\nbroker = { driver = "embedded", path = "hexa.db" }\n')
    async with Emitter.from_config(tmp_path / "worker.toml") as emitter:
        await emitter.emit("orders.created", {"id": 1})
    assert len(await stored(tmp_path / "hexa.db", "orders.created")) == 1


async def test_cloudevents_tell_the_name_of_an_application_without_a_worker_toml(tmp_path: Path) -> None:
    options = Embedded(path=str(tmp_path / "hexa.db"), wire="cloudevents")
    async with Emitter.connect(options, name="shop") as emitter:
        await emitter.emit("orders.created")
    (found,) = await stored(tmp_path / "hexa.db", "orders.created")
    assert header(found.headers, "ce_source") == b"shop"


@pytest.mark.parametrize(
    ("options", "name", "mistake"),
    [
        (Kafka(servers=("a:1",), partitions=0), "web", "broker.partitions: must be an integer of at least 1, not 0"),
        (Kafka(client_id=5), "web", "broker.client_id: must be a string, not 5"),  # type: ignore[arg-type]
        (Nats(streams=(NatsStream(name="a b", subjects=("x",)),)), "web", "broker.streams[0].name"),
        (Nats(user="u", password=Secret("s3cret"), ack="no"), "web", 'broker.ack: must be "confirmed" or "fast"'),  # type: ignore[arg-type]
        (Embedded(lease_s=-1), "web", "broker.lease_s: must be a number above 0, not -1"),
        (Embedded(), "a b", "worker.name: must be a name"),
        ("kafka:9092", "web", "broker: must be a table"),
    ],
)
@pytest.mark.parametrize("connect", [Emitter.connect, SyncEmitter.connect])
def test_an_option_that_worker_toml_would_refuse_is_refused(
    options: Any, name: str, mistake: str, connect: Callable[..., object]
) -> None:
    with pytest.raises(ConfigError, match=re.escape(mistake)) as caught:
        connect(options, name=name)
    assert "s3cret" not in str(caught.value)


async def test_what_is_emitted_while_a_publish_is_under_way_goes_out_as_one_batch() -> None:
    driver = Gated()
    driver.shut()
    ids: dict[int, str] = {}
    async with Emitter(driver, max_batch=40) as emitter:

        async def emit(number: int) -> None:
            ids[number] = await emitter.emit("c", number)

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(emit, number)
            await driver.asked.wait()
            await settle_down()
            assert ids == {}
            driver.gate.set()
    assert len(set(ids.values())) == 100
    sizes = [len(batch) for batch in driver.batches]
    assert sum(sizes) == 100
    assert max(sizes) == 40
    assert len(sizes) <= 4


async def test_events_of_one_task_leave_in_order() -> None:
    driver = Gated()
    async with Emitter(driver, max_batch=7, max_pending=20) as emitter:
        answers = await emitter.emit_many([Event(channel="c", payload=number) for number in range(100)])
    assert len(set(answers)) == 100
    assert [int(message.payload) for batch in driver.batches for message in batch] == list(range(100))


@pytest.mark.parametrize("limit", [{"max_pending": 5}, {"max_pending_bytes": 50}])
async def test_beyond_the_limit_emits_wait_and_all_are_confirmed(limit: Any) -> None:
    driver = Gated()
    driver.shut()
    done: list[int] = []
    async with Emitter(driver, **limit) as emitter:

        async def emit(number: int) -> None:
            await emitter.emit("c", b"0123456789")
            done.append(number)

        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(emit, number)
            await driver.asked.wait()
            await settle_down()
            assert emitter._pending == 5
            driver.gate.set()
    assert sorted(done) == list(range(30))
    assert max(len(batch) for batch in driver.batches) <= 5


async def test_an_event_larger_than_the_limit_goes_alone() -> None:
    driver = Gated()
    async with Emitter(driver, max_pending_bytes=10) as emitter, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(emitter.emit, "c", b"x" * 100)
    assert [len(batch) for batch in driver.batches] == [1, 1, 1]


async def test_everybody_in_a_lost_batch_hears_of_it_and_the_next_one_is_tried() -> None:
    driver = Gated()
    driver.error = DriverUnavailable("away")
    errors: list[Exception] = []
    async with Emitter(driver) as emitter:

        async def emit() -> None:
            try:
                await emitter.emit("c")
            except DriverUnavailable as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(emit)
        assert [str(error) for error in errors] == ["away"] * 3
        assert len({id(error) for error in errors}) == 3
        (answer,) = await emitter.emit_many([Event(channel="c")])
        assert isinstance(answer, DriverUnavailable)
        driver.error = None
        assert await emitter.emit("c", id="mine") == "mine"


async def test_a_refused_event_is_its_own_failure() -> None:
    driver = Gated()
    limit = driver.capabilities.max_payload
    driver.error = DriverRejected("too large")
    async with Emitter(driver) as emitter:
        with pytest.raises(DriverRejected):
            await emitter.emit("c", b"x" * (limit or 10))


async def test_an_event_that_cannot_be_emitted_is_refused_before_it_is_queued() -> None:
    driver = Gated()
    async with Emitter(driver) as emitter:
        with pytest.raises(ConfigError):
            await emitter.emit("c", headers={"hexa-event-id": "x"})
        with pytest.raises(ConfigError):
            await emitter.emit_many([Event(channel="c"), Event(channel="")])
    assert driver.batches == []


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"key": 5}, "a key must be str or bytes, not int"),
        ({"headers": {"count": 1}}, "header 'count' must be str, not int"),
        ({"headers": {"raw": b"x"}}, "header 'raw' must be str, not bytes"),
        ({"correlation_id": 7}, "correlation_id must be str, not int"),
        ({"locale": 7}, "locale must be str, not int"),
        ({"channel": 7}, "a channel must be str, not int"),
        ({"headers": {7: "x"}}, "a header's name must be str, not int"),
        ({"headers": {"x": "\ud800"}}, "header 'x' is no text that UTF-8 can say"),
        ({"key": "\ud800"}, "a key is no text that UTF-8 can say"),
        ({"channel": "\ud800"}, "a channel is no text that UTF-8 can say"),
        ({"headers": {"_ctx_user": "junk"}}, "header '_ctx_user' says no user"),
        ({"headers": {"_ctx_user": ""}}, "header '_ctx_user' says no user"),
        ({"headers": {"_payload_encoder": "xml"}}, "header '_payload_encoder' must be json or protobuf, not 'xml'"),
        ({"user": {"identifier": "u"}}, "user must be a User, not dict"),
        ({"user": User(identifier=5)}, "user has a field of another type"),  # type: ignore[arg-type]  # what is tried
        ({"user": User(roles="admin")}, "user has a field of another type"),  # type: ignore[arg-type]  # as above
    ],
)
async def test_what_nobody_could_read_is_refused_before_it_is_queued(event: dict[str, Any], told: str) -> None:
    driver = Gated()
    async with Emitter(driver) as emitter:
        with pytest.raises(ConfigError, match=told):
            await emitter.emit(**({"channel": "c"} | event))
    assert driver.batches == []


async def test_leaving_the_emitter_publishes_what_waits() -> None:
    driver = Gated()
    driver.shut()
    ids: list[str] = []

    async def emit() -> None:
        ids.append(await emitter.emit("c"))

    async with anyio.create_task_group() as group:
        async with Emitter(driver) as emitter:
            for _ in range(10):
                group.start_soon(emit)
            await driver.asked.wait()
            await settle_down()
            driver.gate.set()
        assert sum(len(batch) for batch in driver.batches) == 10
    assert len(ids) == 10


async def test_a_cancelled_emit_that_was_not_sent_is_forgotten() -> None:
    driver = Gated()
    driver.shut()
    async with Emitter(driver, max_pending=3) as emitter, anyio.create_task_group() as group:
        group.start_soon(emitter.emit, "c", "first")
        await driver.asked.wait()
        with anyio.move_on_after(0.01):
            await emitter.emit("c", "second")
        with anyio.move_on_after(0.01):
            await emitter.emit_many([Event(channel="c", payload=str(number)) for number in range(5)])
        assert emitter._pending == 1
        driver.gate.set()
    assert [message.payload for batch in driver.batches for message in batch] == [b"first"]


async def test_an_emitter_that_is_not_open_says_so() -> None:
    emitter = Emitter(Gated())
    with pytest.raises(ConfigError, match="not open"):
        await emitter.emit("c")
    async with emitter:
        await emitter.emit("c")
    with pytest.raises(ConfigError, match="not open"):
        await emitter.emit("c")


async def test_a_child_of_an_event_keeps_its_root() -> None:
    driver = Gated()
    async with Emitter(driver) as emitter:
        event_id = await emitter.emit("c", parent=Lineage("e1", "e0", None))
    ((message,),) = driver.batches
    assert dict(message.headers) == {
        "hexa-event-id": event_id.encode(),
        "hexa-root-id": b"e0",
        "hexa-parent-id": b"e1",
    }


async def test_an_error_of_the_application_leaves_the_emitter_as_it_is() -> None:
    async def application() -> None:
        async with Emitter(Gated()) as emitter:
            await emitter.emit("c")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await application()


async def test_a_cancelled_application_ends_and_what_it_sent_is_stored() -> None:
    driver = Gated()
    with anyio.move_on_after(0.05) as scope:
        async with Emitter(driver) as emitter:
            await emitter.emit("c")
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert len(driver.batches) == 1


@pytest.mark.parametrize("event_id", ["é", "a b", "x" * 201, "\n"])
async def test_an_id_that_no_header_can_carry_is_refused(event_id: str) -> None:
    async with Emitter(Gated()) as emitter:
        with pytest.raises(ConfigError, match="event id"):
            await emitter.emit("c", id=event_id)


async def test_a_correlation_id_from_outside_never_raises() -> None:
    driver = Gated()
    async with Emitter(driver) as emitter:
        await emitter.emit("c", correlation_id="\udcff\n", locale="\udcff")
    ((message,),) = driver.batches
    assert header(message.headers, CORRELATION_ID) == b"?\n"


async def test_of_a_protobuf_message_hexa_event_is_told() -> None:
    from google.protobuf.wrappers_pb2 import StringValue

    driver = Gated()
    async with Emitter(driver) as emitter:
        await emitter.emit("c", StringValue(value="x"))
        await emitter.emit("c", {"plain": True})
    first, second = (batch[0] for batch in driver.batches)
    assert (first.payload, header(first.headers, "_payload_encoder")) == (b'"x"', b"protobuf")
    assert header(second.headers, "_payload_encoder") is None


async def test_an_event_for_later_leaves_with_its_due_time_and_the_time_of_its_emit() -> None:
    driver = Gated()
    at = datetime(2100, 1, 1, tzinfo=UTC)
    async with Emitter(driver) as emitter:
        await emitter.emit("c", 1, after=60)
        with pytest.raises(ConfigError, match="no time zone"):
            await emitter.emit("c", 1, at=at.replace(tzinfo=None))
        with pytest.raises(ConfigError, match="the limit is 365 days"):
            await emitter.emit_many([Event(channel="c", at=at)])
    ((sent,),) = driver.batches
    assert 60_000 <= sent.due_ms - sent.timestamp_ms <= 60_001
