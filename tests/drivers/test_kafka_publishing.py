"""What a Kafka node slows down, refuses or does not answer: every message is stored once, or refused alone."""

import logging
from collections.abc import Callable

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Failure, RetryAt
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.kafka import KafkaDriver
from hexa_worker.errors import DriverRejected, DriverUnavailable, RecordTooLarge
from tests.drivers.consuming import confirmed, kept_open, patiently, publish, subscribed, take
from tests.drivers.kafka_tools import make_topic, opened, options, spec
from tests.lab.base import Broker
from tests.lab.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _stored(driver: Driver, channel: str) -> list[bytes]:
    return [one.payload for one in await driver.browse(channel, -1, 10_000)]


# -- once


async def test_a_quota_makes_publishing_slow_and_stores_everything_once(
    kafka: Kafka, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    channel, client_id = unique_name(), unique_name()
    kafka.throttle_producers(20_000, client_id)  # 200 KB at once are free
    sent = [b"%06d" % number * 1_000 for number in range(48)]
    with caplog.at_level(logging.WARNING):
        async with opened(kafka.address, timeout_s=1.0, client_id=client_id, batch_bytes=50_000) as driver:
            begin = anyio.current_time()
            await publish(driver, channel, *sent)
            assert anyio.current_time() - begin > 2, "it was not slowed down, so this shows nothing"
    async with opened(kafka.address) as other:
        assert sorted(await _stored(other, channel)) == sent
    assert sum("quota" in record.message for record in caplog.records) == 1


async def test_what_a_frozen_node_was_sent_is_not_stored_again_with_the_next_attempt(
    kafka: Broker, unique_name: Name
) -> None:
    channel = unique_name()
    async with opened(kafka.address, timeout_s=1.0, partitions=2) as driver:
        await publish(driver, channel, b"before")
        messages = [Message(channel=channel, payload=b"%d" % number, key=b"%d" % number) for number in range(50)]
        kafka.freeze()
        try:
            for _ in range(2):
                with pytest.raises(DriverUnavailable):
                    await driver.publish(messages)
        finally:
            kafka.thaw()
        ids = await patiently(lambda: confirmed(driver, messages))
        await patiently(lambda: publish(driver, channel, b"after"))
        found = await patiently(lambda: driver.browse(channel, -1, 1_000))
    assert sorted(one.payload for one in found) == sorted([one.payload for one in messages] + [b"after", b"before"])
    assert set(ids) <= {one.message_id for one in found}


# -- alone


@pytest.mark.parametrize("together", [True, False])
async def test_a_record_that_the_broker_refuses_is_refused_alone(
    kafka: Broker, unique_name: Name, *, together: bool
) -> None:
    channel = unique_name()
    await make_topic(kafka.address, channel, cleanup_policy="compact")
    messages = [Message(channel=channel, payload=b"%d" % n, key=b"k%d" % n if n % 3 else None) for n in range(9)]
    async with opened(kafka.address) as driver:
        if together:
            answers: list[object] = list(await driver.publish(messages))
        else:
            answers = await _at_once(driver, messages)
        assert [isinstance(answer, str) for answer in answers] == [bool(n % 3) for n in range(9)], answers
        refused = answers[0]
        assert isinstance(refused, DriverRejected)
        assert "without key" in str(refused)
        await publish(driver, channel, b"after", key=b"k")
        assert await _stored(driver, channel) == [b"1", b"2", b"4", b"5", b"7", b"8", b"after"]


async def _at_once(driver: KafkaDriver, messages: list[Message]) -> list[object]:
    answers: list[object] = [None] * len(messages)

    async def emit(place: int) -> None:
        (answers[place],) = await driver.publish([messages[place]])

    async with anyio.create_task_group() as tasks:
        for place in range(len(messages)):
            tasks.start_soon(emit, place)
    return answers


async def test_a_record_that_is_too_large_for_its_topic_is_refused_alone(kafka: Broker, unique_name: Name) -> None:
    channel = unique_name()
    await make_topic(kafka.address, channel, max_message_bytes="30000")
    messages = [Message(channel=channel, payload=b"x" * (31_000 if n % 50 == 30 else 100)) for n in range(200)]
    async with opened(kafka.address) as driver:
        answers = await driver.publish(messages)
        refused = [place for place, answer in enumerate(answers) if isinstance(answer, RecordTooLarge)]
        assert refused == [30, 80, 130, 180]
        assert len(await _stored(driver, channel)) == 196
        await publish(driver, channel, b"after")


async def test_a_retry_that_the_broker_refuses_is_refused_alone(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    await make_topic(kafka.address, one.retry_channels[0], cleanup_policy="compact")
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        await confirmed(
            driver,
            [Message(channel=one.channels[0], payload=b"%d" % n, key=b"k" if n % 2 else None) for n in range(6)],
        )
        taken = await take(source, 6)
        failure = Failure(error="ValueError", message="no", reason="failed", traceback="")
        retries = [
            RetryAt(got, Message(channel=one.retry_channels[0], payload=got.payload, key=got.key), 1.0, failure)
            for got in taken
        ]
        unsettled = await source.settle(retries)
        assert {each.settlement.delivery.payload for each in unsettled} == {b"0", b"2", b"4"}
        assert {type(each.error) for each in unsettled} == {DriverRejected}


async def test_a_channel_without_a_leader_fails_alone(kafka: Broker, unique_name: Name) -> None:
    """As seen from here: a topic that is gone and may not be made."""
    good, gone = unique_name(), unique_name()
    await make_topic(kafka.address, good)
    async with opened(kafka.address, create_channels=False) as driver:
        answers = await driver.publish([Message(channel=name, payload=b"x") for name in (good, gone, good)])
        assert [type(answer) for answer in answers] == [str, DriverRejected, str]


# -- clocks


class _Ahead(SystemClock):
    """A machine whose clock is wrong until somebody puts it right."""

    by_ms = 2 * 3_600_000

    def now_ms(self) -> int:
        return super().now_ms() + self.by_ms


async def test_while_the_clock_is_far_ahead_publishing_waits_and_says_what_to_look_at(
    kafka: Broker, unique_name: Name
) -> None:
    channel, clock = unique_name(), _Ahead()
    async with kept_open(KafkaDriver(options(kafka.address), clock)) as driver:
        message = Message(channel=channel, payload=b"x", timestamp_ms=clock.now_ms())
        with pytest.raises(DriverUnavailable, match="is the clock of this machine right"):
            await driver.publish([message])
        clock.by_ms = 0
        await confirmed(driver, [message])
        (stored,) = await driver.browse(channel, -1, 10)
        assert abs(stored.timestamp_ms - clock.now_ms()) < 60_000


async def test_a_record_that_is_too_old_for_its_topic_is_refused_alone(kafka: Broker, unique_name: Name) -> None:
    channel, clock = unique_name(), SystemClock()
    await make_topic(kafka.address, channel, message_timestamp_before_max_ms="3600000")
    old_ms = clock.now_ms() - 2 * 3_600_000
    async with opened(kafka.address) as driver:
        messages = [Message(channel=channel, payload=b"%d" % n, timestamp_ms=old_ms if n == 1 else 0) for n in range(3)]
        answers = await driver.publish(messages)
        assert [type(answer) for answer in answers] == [str, DriverRejected, str]
        assert await _stored(driver, channel) == [b"0", b"2"]
