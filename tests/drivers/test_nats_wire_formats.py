"""hexa-event's value and CloudEvents on a real NATS server."""

import json
from collections.abc import Callable

import pytest

from hexa_worker.core.lineage import lineage_of, origin_headers
from hexa_worker.core.message import Message, header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Route, settle
from hexa_worker.drivers.formats import ChannelFormats, FormattingDriver
from hexa_worker.record_formats.form import Form, Wire
from tests.drivers.consuming import publish, spec, take
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker
from tests.unit.test_wire_hexa import LINES

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("wire", ["hexa", "cloudevents", "cloudevents-structured"])
async def test_an_event_and_its_retry_keep_payload_key_and_id(nats: Broker, unique_name: Name, wire: Wire) -> None:
    one = spec(unique_name(), wire=wire)
    async with opened(nats.address) as inner:
        driver = FormattingDriver(inner, ChannelFormats(Form("plain", "nats", "a shöp")))
        await driver.declare([one])
        headers = (*origin_headers("e1"), ("own", "grün".encode()))
        await driver.publish([Message(channel=one.channels[0], payload=b"\x00\xff", key=b"k", headers=headers)])
        source = await driver.subscribe(one)
        (first,) = await take(source, 1)
        assert (first.payload, first.key, header(first.headers, "own")) == (b"\x00\xff", b"k", "grün".encode())
        route = Route(action=one.action, retry_base=one.retry_base, policy=RetryPolicy(initial_interval_s=0.1))
        done = settle(Raised(ValueError("no")), first, route, now_ms=first.timestamp_ms)
        assert await source.settle([done]) == []
        (second,) = await take(source, 1)
        assert (second.payload, second.key, second.attempt) == (b"\x00\xff", b"k", 1)
        assert lineage_of(second) == lineage_of(first)
        await source.close()


async def test_a_value_of_go_is_opened(nats: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), wire="hexa")
    value = next(line["text"]["value"] for line in LINES if line["case"] == "go-raw-value").encode()
    async with opened(nats.address) as inner:
        driver = FormattingDriver(inner, ChannelFormats(Form("plain", "nats", "shop")))
        await driver.declare([one])
        await publish(inner, one.channels[0], value)
        source = await driver.subscribe(one)
        (delivery,) = await take(source, 1)
        assert json.loads(delivery.payload) == {"id": 0, "customer": "ada", "amount": 12.5}
        assert header(delivery.headers, "hexa-correlation-id") == b"cid-1"
        await source.close()
