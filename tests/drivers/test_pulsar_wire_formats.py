"""hexa-event's value and CloudEvents on a real Pulsar."""

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pulsar as client_library
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.core.lineage import lineage_of, origin_headers
from hexa_worker.core.message import Message, header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.propagated import GUEST
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DeadLettered, RetryAt, Route, settle
from hexa_worker.drivers.formats import ChannelFormats, FormattingDriver
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.record_formats.form import Form, Wire
from hexa_worker.subscriptions.api import Event
from tests.drivers.consuming import spec, take
from tests.drivers.pulsar_tools import opened, options, raw_client
from tests.lab.base import Broker
from tests.unit.test_wire_hexa import LINES

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio]
Name = Callable[..., str]
GO_VALUES = [line for line in LINES if line["case"] == "go-raw-value"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("wire", ["hexa", "cloudevents", "cloudevents-structured"])
async def test_an_event_its_retry_and_its_dead_letter_keep_payload_key_and_id(
    pulsar: Broker, unique_name: Name, wire: Wire
) -> None:
    one = spec(unique_name(), wire=wire)
    async with opened(options(pulsar)) as inner:
        driver = FormattingDriver(inner, ChannelFormats(Form("plain", "pulsar", "a shöp")))
        await driver.declare([one])
        source = await driver.subscribe(one)
        headers = (*origin_headers("e1"), ("own", "grün".encode()))
        await driver.publish([Message(channel=one.channels[0], payload=b"\x00\xff", key=b"k", headers=headers)])
        (first,) = await take(source, 1)
        assert (first.payload, first.key, header(first.headers, "own")) == (b"\x00\xff", b"k", "grün".encode())
        policy = RetryPolicy(initial_interval_s=0.1, maximum_retries=1)
        route = Route(action=one.action, retry_base=one.retry_base, policy=policy)
        done = settle(Raised(ValueError("no")), first, route, now_ms=first.timestamp_ms)
        assert isinstance(done, RetryAt)
        assert await source.settle([done]) == []
        (second,) = await take(source, 1)
        assert (second.payload, second.key, second.attempt) == (b"\x00\xff", b"k", 1)
        assert lineage_of(second) == lineage_of(first)
        last = settle(Raised(ValueError("no")), second, route, now_ms=second.timestamp_ms)
        assert isinstance(last, DeadLettered)
        assert await source.settle([last]) == []
        (letter,) = await driver.browse(one.dead_letter_channel, -1, 10)
        assert (letter.payload, letter.key, lineage_of(letter).event_id) == (b"\x00\xff", b"k", "e1")
        await source.close()


@pytest.mark.parametrize("line", GO_VALUES, ids=lambda one: one["user"])
async def test_a_value_of_go_is_opened(pulsar: Broker, unique_name: Name, line: dict[str, Any]) -> None:
    one = spec(unique_name(), wire="hexa")
    async with opened(options(pulsar)) as inner:
        driver = FormattingDriver(inner, ChannelFormats(Form("plain", "pulsar", "shop")))
        await driver.declare([one])
        source = await driver.subscribe(one)
        with raw_client(pulsar) as client:
            producer = client.create_producer(one.channels[0])
            producer.send(line["text"]["value"].encode(), partition_key="ada", event_timestamp=1_234_567)
        (delivery,) = await take(source, 1)
        assert json.loads(delivery.payload) == {"id": 0, "customer": "ada", "amount": 12.5}
        assert header(delivery.headers, "hexa-correlation-id") == b"cid-1"
        assert (delivery.key, delivery.timestamp_ms) == (b"ada", 1_234_567)
        await source.close()


async def test_what_is_emitted_is_a_value_that_go_opens_with_key_and_event_time(
    pulsar: Broker, unique_name: Name
) -> None:
    channel = unique_name()
    with raw_client(pulsar) as client:
        consumer = client.subscribe(channel, "go", initial_position=client_library.InitialPosition.Earliest)
        async with opened(options(pulsar)) as inner:
            emitter = EventEncoder(
                FormattingDriver(inner, ChannelFormats(Form("hexa", "pulsar", "shop"))), SystemClock(), encode
            )
            await emitter.emit(Event(channel=channel, payload={"id": 1}, key="ada", correlation_id="cid"))
        found = consumer.receive(timeout_millis=20_000)
    value = json.loads(found.data())
    assert set(value) == {"header", "payload"}
    assert b64decode(value["payload"]) == b'{"id":1}'
    assert {name: b64decode(text) for name, text in value["header"].items()} == {
        "_ctx_correlation_id": b"cid",
        "_ctx_locale": b"",
        "_ctx_user": GUEST,
        "_reply_channel": b"",
        "_payload_encoder": b"json",
    }
    assert found.partition_key() == "ada"
    assert found.event_timestamp() > 0
