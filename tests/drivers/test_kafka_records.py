"""Whatever may lie in a Kafka topic arrives, and nothing in it stops the records behind it."""

from collections.abc import Callable

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.config.kafka import KafkaSubscription
from hexa_worker.core.message import Message, header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Route, settle
from hexa_worker.drivers.kafka import KafkaDriver
from hexa_worker.errors import DriverRejected
from tests.drivers.consuming import ack, kept_open, publish, subscribed, take
from tests.drivers.kafka_tools import make_topic, opened, options, raw_producer, spec, with_checksum
from tests.lab.base import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_tombstone_is_an_empty_payload_that_says_so(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        async with raw_producer(kafka.address) as producer:
            await producer.send_and_wait(one.channels[0], value=None, key=b"k")
            await producer.send_and_wait(one.channels[0], value=b"", key=b"k")
        gone, empty = await take(source, 2)
    assert (gone.payload, gone.key, header(gone.headers, "hexa-tombstone")) == (b"", b"k", b"1")
    assert (empty.payload, empty.headers) == (b"", ())


async def test_headers_without_value_repeated_and_huge_arrive(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    headers = [("a", b"1"), ("a", b"2"), ("n", None), ("", b"x"), ("h", b"h" * 300_000)]
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        async with raw_producer(kafka.address) as producer:
            await producer.send_and_wait(one.channels[0], value=b"v", headers=headers)
        (got,) = await take(source, 1)
    assert got.headers == (("a", b"1"), ("a", b"2"), ("n", b""), ("", b"x"), ("h", b"h" * 300_000))


async def test_a_due_time_on_a_first_hop_record_is_not_believed(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        async with raw_producer(kafka.address) as producer:
            await producer.send_and_wait(one.channels[0], value=b"v", headers=[("hexa-due-ms", b"99999999999999")])
        (got,) = await take(source, 1)
    assert (got.due_ms, got.attempt) == (0, 0)


async def test_open_and_aborted_transactions_are_left_out_and_their_gaps_passed(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), options=KafkaSubscription(isolation_level="read_committed"))
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        async with raw_producer(kafka.address, transactional_id=unique_name()) as producer:
            async with producer.transaction():
                await producer.send(one.channels[0], b"kept 1")
            await producer.begin_transaction()
            await producer.send_and_wait(one.channels[0], b"aborted")
            await producer.abort_transaction()
            async with producer.transaction():
                await producer.send(one.channels[0], b"kept 2")
        taken = await take(source, 2)
        await ack(source, taken)
        assert [got.payload for got in taken] == [b"kept 1", b"kept 2"]
        await _idle(source)


async def test_aborted_records_come_where_nothing_is_said_about_transactions(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        async with raw_producer(kafka.address, transactional_id=unique_name()) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(one.channels[0], b"aborted")
            await producer.abort_transaction()
        (got,) = await take(source, 1)
        assert got.payload == b"aborted"


async def test_a_compacted_topic_is_read_to_its_end(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    await make_topic(
        kafka.address,
        one.channels[0],
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="100",
    )
    async with raw_producer(kafka.address) as producer:
        for number in range(60):
            await producer.send_and_wait(one.channels[0], b"%d" % number, key=b"k%d" % (number % 3))
            await anyio.sleep(0.01)
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        last: set[bytes] = set()
        while not last >= {b"57", b"58", b"59"}:
            taken = await take(source, 1)
            last |= {got.payload for got in taken}
            await ack(source, taken)
        await _idle(source)


async def _idle(source: object) -> None:
    with anyio.fail_after(10):
        while not (await source.backlog()).idle:  # type: ignore[attr-defined]
            receiving_s = 0.2
            with anyio.move_on_after(receiving_s):
                await source.receive(10, 10**6)  # type: ignore[attr-defined]


async def test_a_header_name_that_is_not_utf_8_keeps_no_record_back(
    kafka: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        async with raw_producer(kafka.address) as producer:
            batch = producer.create_batch()
            for number in range(5):
                batch.append(key=None, value=b"%d" % number, timestamp=None, headers=[(f"na{number}e", b"x")])
            batch.close()
            # As a careless C client would write it.
            batch._buffer = with_checksum(bytes(batch._build()).replace(b"na2e", b"na\xffe"))
            await (await producer.send_batch(batch, one.channels[0], partition=0))
            await producer.send_and_wait(one.channels[0], b"behind")
        taken = await take(source, 6)
        await ack(source, taken)
        assert [got.payload for got in taken] == [b"0", b"1", b"2", b"3", b"4", b"behind"]
        browsed = await driver.browse(one.channels[0], -1, 10)
        assert [(got.payload, got.headers) for got in browsed] == [(got.payload, got.headers) for got in taken]
        assert taken[2].headers == (("na\\xffe", b"x"),)
        await _idle(source)
    assert caplog.text.count("not UTF-8") == 1


async def test_a_record_too_large_for_its_topic_is_refused_and_publishing_goes_on(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    await make_topic(kafka.address, one.channels[0], max_message_bytes="1000")
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        answers = await driver.publish(
            [Message(channel=one.channels[0], payload=payload) for payload in (b"a", b"x" * 5_000, b"b")]
        )
        assert [isinstance(answer, DriverRejected) for answer in answers] == [False, True, False]
        await publish(driver, one.channels[0], b"c")
        assert sorted(got.payload for got in await take(source, 3)) == [b"a", b"b", b"c"]


async def test_a_message_that_cannot_be_encoded_is_refused_alone(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        bad = Message(channel=one.channels[0], payload=b"bad", headers=(("x", "text"),))  # type: ignore[arg-type]
        answers = await driver.publish([Message(channel=one.channels[0], payload=b"good"), bad])
        assert [type(answer) for answer in answers] == [str, DriverRejected]
        assert [got.payload for got in await take(source, 1)] == [b"good"]


class Behind(SystemClock):
    """A worker's clock that is behind that of its brokers."""

    def now_ms(self) -> int:
        return super().now_ms() - 20_000


@pytest.mark.parametrize("delays_ms", [(), (1_000, 1_000)])
async def test_a_retry_is_never_early_where_brokers_stamp_records_by_a_clock_that_is_ahead(
    kafka: Broker, unique_name: Name, delays_ms: tuple[int, ...]
) -> None:
    one, clock = spec(unique_name(), retry_delays_ms=delays_ms), Behind()
    await make_topic(kafka.address, one.retry_channels[0], message_timestamp_type="LogAppendTime")
    route = Route(action=one.action, retry_base=one.retry_base, policy=RetryPolicy(initial_interval_s=1.0))
    async with kept_open(KafkaDriver(options(kafka.address), clock)) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"x")
        (got,) = await take(source, 1)
        failed_at = clock.monotonic()
        assert await source.settle([settle(Raised(ValueError("no")), got, route, now_ms=clock.now_ms())]) == []
        (again,) = await take(source, 1)
        assert 1.0 <= clock.monotonic() - failed_at < 20.0
        assert again.attempt == 1
        assert "hexa-delay-ms" not in dict(again.headers)
