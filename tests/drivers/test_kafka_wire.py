"""hexa-event's form on a real Kafka node: one retry ladder, written by both languages."""

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaConsumer

from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.core.lineage import CORRELATION_ID, lineage_of
from hexa_worker.core.message import header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Route, settle
from hexa_worker.drivers.formats import ChannelFormats, FormattingDriver
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.record_formats.form import Form
from hexa_worker.subscriptions.api import Event
from tests.drivers.consuming import take
from tests.drivers.kafka_tools import opened, raw_producer, spec
from tests.lab.base import Broker
from tests.unit.test_wire_hexa import NEEDED, golden, of

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]
DELAYS_MS = (600, 1_200)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def raw_record(address: str, topic: str) -> Any:
    """The first record of a topic, as aiokafka reads it."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        with anyio.fail_after(20):
            return await consumer.getone()
    finally:
        await consumer.stop()


async def test_a_ladder_that_go_began_goes_on_here_at_its_attempt_and_in_its_time(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), wire="hexa", retry_delays_ms=DELAYS_MS)
    gos = golden(of("go-retry", "go-action.retry.1", 1))
    async with opened(kafka.address) as inner, raw_producer(kafka.address) as producer:
        driver = FormattingDriver(inner, ChannelFormats(Form("plain", "kafka", "shop")))
        await driver.declare([one])
        sent = await producer.send_and_wait(one.retry_channels[0], gos.payload, gos.key, headers=list(gos.headers))
        source = await driver.subscribe(one)
        (delivery,) = await take(source, 1)
        now_ms = time.time() * 1000
        assert sent.timestamp + DELAYS_MS[0] <= now_ms < sent.timestamp + DELAYS_MS[0] + 5_000
        assert (delivery.attempt, lineage_of(delivery).event_id) == (1, "orders-0-1")
        assert header(delivery.headers, CORRELATION_ID) == b"cid-2"

        route = Route(action="go-action", retry_base=one.retry_base, policy=RetryPolicy(maximum_retries=2))
        done = settle(Raised(ValueError("no")), delivery, route, now_ms=int(now_ms))
        assert await source.settle([done]) == []
        record = await raw_record(kafka.address, one.retry_channels[1])
        foreign = [(name, value) for name, value in record.headers if not name.startswith("hexa-")]
        assert foreign == list(gos.headers)
        assert (record.key, record.value) == (gos.key, gos.payload)
        assert record.timestamp == int(now_ms)
        await source.close()


async def test_what_is_emitted_is_complete_for_a_go_consumer(kafka: Broker, unique_name: Name) -> None:
    channel = unique_name()
    async with opened(kafka.address) as inner:
        driver = FormattingDriver(inner, ChannelFormats(Form("hexa", "kafka", "shop")))
        emitter = EventEncoder(driver, SystemClock(), encode)
        await emitter.emit(Event(channel=channel, payload={"id": 1}, key="k", correlation_id="cid"))
        record = await raw_record(kafka.address, channel)
    headers = dict(record.headers)
    assert set(headers) >= {*NEEDED, "_reply_channel"}
    assert headers["_ctx_correlation_id"] == b"cid"
    assert (record.key, record.value) == (b"k", b'{"id":1}')
