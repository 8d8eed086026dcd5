"""Topics that somebody deletes while a worker runs."""

import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Failure, RetryAt
from hexa_worker.drivers.base import Source
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.drivers.consuming import PLENTY, patiently, publish, subscribed, take
from tests.drivers.kafka_tools import delete_topics, make_topic, opened, spec, topic_settings
from tests.lab.base import Broker
from tests.lab.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_retry_topic_that_is_deleted_is_made_again_as_it_was(
    kafka: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name())
    retry = one.retry_channels[0]
    async with opened(kafka.address, retry_retention_s=700.0) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1", b"2")
        first, second = await take(source, 2)
        failure = Failure(error="ValueError", message="no", reason="failed", traceback="")
        settlements = [
            RetryAt(got, Message(channel=retry, payload=got.payload), 0.0, failure) for got in (first, second)
        ]
        assert await source.settle(settlements[:1]) == []
        await delete_topics(kafka.address, retry)
        with caplog.at_level(logging.WARNING), anyio.fail_after(10):
            while any(isinstance(each.error, DriverUnavailable) for each in await source.settle(settlements[1:])):
                await anyio.sleep(0.1)
        assert [one.payload for one in await driver.browse(retry, -1, 10)] == [b"2"]
    assert (await topic_settings(kafka.address, [retry]))[retry]["retention.ms"] == "700000"
    assert sum(f"{retry} was gone" in record.getMessage() for record in caplog.records) == 1


async def test_a_retry_topic_that_may_not_be_made_again_names_the_option_that_allows_it(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as maker:
        await maker.declare([one])
    async with opened(kafka.address, create_retry_channels=False) as driver:
        await driver.declare([one])
        await delete_topics(kafka.address, one.dead_letter_channel)
        (answer,) = await driver.publish([Message(channel=one.dead_letter_channel, payload=b"x")])
        assert isinstance(answer, DriverRejected)
        assert "create_retry_channels = true" in str(answer)
        assert "create_channels" not in str(answer)


async def _refusal(source: Source) -> str:
    """Why nothing can be received."""
    with anyio.fail_after(15):
        while True:
            try:
                await source.receive(1, PLENTY)
            except DriverUnavailable as error:
                if "no such topic" in str(error):
                    return str(error)
                await anyio.sleep(0.1)


async def test_a_channel_that_is_deleted_is_told_and_waited_for(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    await make_topic(kafka.address, one.channels[0])
    async with (
        opened(kafka.address, create_channels=False, timeout_s=2.0) as driver,
        subscribed(driver, one) as source,
    ):
        await publish(driver, one.channels[0], b"old")
        await take(source, 1)
        await delete_topics(kafka.address, one.channels[0])
        assert one.channels[0] in await _refusal(source)
        with pytest.raises(DriverUnavailable):  # it does not look well in between
            await source.receive(1, PLENTY)
        with pytest.raises(DriverUnavailable, match="no such topic"):  # what is emitted waits for it, too
            await publish(driver, one.channels[0], b"lost")
        await make_topic(kafka.address, one.channels[0])
        await patiently(lambda: publish(driver, one.channels[0], b"new"))
        assert [got.payload for got in await take(source, 1)] == [b"new"]


async def test_a_channel_that_is_deleted_is_made_again_as_the_options_say(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    channel = one.channels[0]
    async with opened(kafka.address, retention_s=900.0, partitions=2) as driver, subscribed(driver, one) as source:
        await publish(driver, channel, b"old")
        await take(source, 1)
        await delete_topics(kafka.address, channel)
        come: list[bytes] = []

        async def receive() -> None:
            come.extend(got.payload for got in await take(source, 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            with anyio.fail_after(15):
                while channel not in await driver.channels():
                    await anyio.sleep(0.1)
            await patiently(lambda: publish(driver, channel, b"new"))
        assert come == [b"new"]
    made = (await topic_settings(kafka.address, [channel]))[channel]
    assert (made["retention.ms"], made["partitions"]) == ("900000", "2")


class _Creating(Kafka):
    """A node that makes whatever topic it is asked about, as Kafka does by default."""

    def _properties(self) -> list[str]:
        return [*super()._properties(), "auto.create.topics.enable=true"]


async def test_no_topic_is_made_by_asking_about_it(tmp_path: Path, unique_name: Name) -> None:
    one = spec(unique_name())
    node = _Creating(tmp_path)
    await anyio.to_thread.run_sync(node.start)
    try:
        await make_topic(node.address, one.channels[0])
        async with opened(node.address, create_channels=False) as driver, subscribed(driver, one) as source:
            await publish(driver, one.channels[0], b"x")
            await take(source, 1)
            await delete_topics(node.address, one.channels[0])
            assert one.channels[0] in await _refusal(source)
            assert isinstance((await driver.publish([Message(channel="other", payload=b"x")]))[0], DriverRejected)
            assert not {"other", one.channels[0]} & set(await driver.channels())
    finally:
        await anyio.to_thread.run_sync(node.close)
