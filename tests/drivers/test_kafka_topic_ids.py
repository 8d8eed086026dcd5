"""Topics that are made again, logs that go back, notes that belong to other commits: nothing new is skipped."""

import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from msgspec import structs

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked, Failure, RetryAt
from hexa_worker.drivers.base import Source
from tests.drivers.consuming import ack, patiently, publish, subscribed, take
from tests.drivers.kafka_tools import commit_as_anybody, committed, make_topic_again, opened, spec
from tests.lab.base import Broker
from tests.lab.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.anyio, pytest.mark.timeout(120)]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def numbers(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


async def wait_committed(address: str, group: str, topic: str, offset: int) -> None:
    with anyio.fail_after(20):
        while (await committed(address, group, topic))[0] != offset:
            await anyio.sleep(0.05)


def retry(delivery: Delivery, channel: str) -> RetryAt:
    failure = Failure(error="ValueError", message="no", reason="failed")
    return RetryAt(delivery, Message(channel=channel, payload=delivery.payload), 0.0, failure)


async def take_new(source: Source, wanted: set[bytes]) -> None:
    """Receive and acknowledge until all of `wanted` came, or the source is stopped."""
    with anyio.fail_after(40):
        while wanted:
            batch = await patiently(lambda: source.receive(500, 10**9))
            if not batch:
                return
            await patiently(lambda batch=batch: ack(source, batch))  # type: ignore[misc]  # bound
            wanted -= {one.payload for one in batch}


@pytest.mark.parametrize("in_flight", ["nothing", "some"])
async def test_all_records_of_a_topic_that_was_made_again_are_handled(
    kafka: Broker, unique_name: Name, in_flight: str
) -> None:
    one = spec(unique_name())
    topic = one.channels[0]
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        await publish(driver, topic, *numbers(0, 50))
        old = await take(source, 50)
        await ack(source, old[:25] if in_flight == "some" else old)
        await wait_committed(kafka.address, one.group, topic, 25 if in_flight == "some" else 50)
        await make_topic_again(kafka.address, topic)
        wanted = numbers(1000, 1200)
        await publish(driver, topic, *wanted)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_new, source, set(wanted))
            if in_flight == "some":
                failed = [retry(got, one.retry_channels[0]) for got in old[25:]]
                assert await patiently(lambda: source.settle(failed)) == []
        await wait_committed(kafka.address, one.group, topic, 200)
        retried = await driver.browse(one.retry_channels[0], -1, 100)
        assert len(retried) == (25 if in_flight == "some" else 0), "a retry of an old record was dropped or doubled"


async def test_what_is_fetched_ahead_does_not_hide_that_a_topic_was_made_again(
    kafka: Broker, unique_name: Name
) -> None:
    """A busy worker asks its broker for nothing while the topic is away."""
    one = spec(unique_name())
    topic = one.channels[0]
    async with opened(kafka.address, metadata_max_age_s=300.0) as driver, subscribed(driver, one) as source:
        await publish(driver, topic, *numbers(0, 500))
        busy = await take(source, 50)
        await make_topic_again(kafka.address, topic)
        wanted = numbers(1000, 2000)
        await publish(driver, topic, *wanted)
        await ack(source, busy)
        await take_new(source, set(wanted))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_new, source, {b"never"})  # what came before that was known comes once more
            await wait_committed(kafka.address, one.group, topic, 1000)
            source.stop()


@pytest.mark.parametrize("left", ["nothing", "an old commit"])
async def test_a_topic_that_was_made_again_while_no_worker_ran_is_read_from_its_first_record(
    kafka: Broker, unique_name: Name, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name())
    topic = one.channels[0]
    async with opened(kafka.address) as driver:
        async with subscribed(driver, one) as source:
            await publish(driver, topic, *numbers(0, 20))
            got = await take(source, 20)
            await ack(source, [each for each in got if each.offset not in {3, 11}])
        offset, note = await committed(kafka.address, one.group, topic)
        assert offset == 3
        await make_topic_again(kafka.address, topic)
        wanted = numbers(1000, 1030)
        await publish(driver, topic, *wanted)
        if left == "an old commit":  # as of a worker that committed while the topic was made again
            await commit_as_anybody(kafka.address, one.group, topic, offset, note)
        assert (await driver.backlog(one)).ready == 30
        async with subscribed(driver, one) as source:
            assert [each.payload for each in await take(source, 30)] == wanted
            assert (await source.backlog()).leased == 30
    assert caplog.text.count("made again") == (1 if left == "an old commit" else 0)


async def test_a_note_is_ignored_where_somebody_committed_another_offset(
    kafka: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name())
    topic = one.channels[0]
    async with opened(kafka.address) as driver:
        async with subscribed(driver, one) as source:
            await publish(driver, topic, *numbers(0, 50))
            got = await take(source, 50)
            await ack(source, [each for each in got if each.offset not in {5, 30}])
        offset, note = await committed(kafka.address, one.group, topic)
        assert offset == 5
        await commit_as_anybody(kafka.address, one.group, topic, 20, note)
        async with subscribed(driver, one) as source:
            again = await take(source, 30)
            assert [each.offset for each in again] == list(range(20, 50))
    assert caplog.text.count("the note on finished work is ignored") == 1


class Stingy(Kafka):
    """A node that takes short notes only."""

    def _properties(self) -> list[str]:
        return [*super()._properties(), "offset.metadata.max.bytes=128"]


@pytest.mark.usefixtures("kafka")  # or it says why there is none
async def test_where_notes_must_be_short_progress_is_committed_and_it_is_said_once(
    unique_name: Name, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Stingy(tmp_path / "stingy")
    await anyio.to_thread.run_sync(node.start)
    try:
        one = spec(unique_name())
        async with opened(node.address) as driver:
            async with subscribed(driver, one) as source:
                await publish(driver, one.channels[0], *numbers(0, 300))
                got = await take(source, 300)
                await ack(source, [each for each in got if each.offset == 0 or each.offset % 2])
                await wait_committed(node.address, one.group, one.channels[0], 2)
            async with subscribed(driver, one) as source:
                noted = 300 - (await source.backlog()).ready
                assert 4 < noted < 152, "what fits into a short note is noted"
        assert caplog.text.count("take no long notes") == 1
    finally:
        await anyio.to_thread.run_sync(node.close)


@pytest.mark.parametrize("worker", ["runs", "is stopped"])
async def test_where_a_log_was_put_back_what_is_there_is_read_again(
    kafka: Broker, unique_name: Name, worker: str, tmp_path: Path
) -> None:
    """An operator restores a backup of a partition: its id stays, its end is behind where the group was."""
    one = spec(unique_name())
    topic = one.channels[0]
    data = kafka.root / "data" / f"{topic}-0"
    async with opened(kafka.address, session_timeout_s=20.0) as driver:
        source = await driver.subscribe(one)
        await publish(driver, topic, *numbers(0, 10))
        await ack(source, await take(source, 10))
        await anyio.to_thread.run_sync(kafka.stop)
        shutil.copytree(data, tmp_path / "backup")
        await anyio.to_thread.run_sync(kafka.start)
        await patiently(lambda: publish(driver, topic, *numbers(100, 140)))
        held = await take(source, 40)
        if worker == "is stopped":
            await ack(source, held)
            await source.close()
        await anyio.to_thread.run_sync(kafka.stop)
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)
        await anyio.to_thread.run_sync(kafka.start)
        await patiently(lambda: publish(driver, topic, *numbers(200, 205)))
        if worker == "is stopped":
            assert (await patiently(lambda: driver.backlog(one))).ready == 15
            source = await patiently(lambda: driver.subscribe(one))
        again = await take(source, 15, within_s=60)
        assert [each.payload for each in again] == numbers(0, 10) + numbers(200, 205)
        if worker == "runs":
            failed = [retry(got, one.retry_channels[0]) for got in held]
            assert await patiently(lambda: source.settle(failed)) == []
        failed = [retry(got, one.retry_channels[0]) for got in again[:5]]
        assert await patiently(lambda: source.settle(failed)) == []
        retried = await driver.browse(one.retry_channels[0], -1, 100)
        assert len(retried) == (45 if worker == "runs" else 5), "a retry was dropped"
        await patiently(lambda: source.settle([Acked(got) for got in again[5:]]))
        await wait_committed(kafka.address, one.group, topic, 15)
        await source.close()


async def test_a_group_that_was_renamed_does_not_run_finished_retries_again(kafka: Broker, unique_name: Name) -> None:
    before = spec(unique_name())
    channel = before.retry_channels[0]
    after = structs.replace(before, group=unique_name(), start="latest")
    async with opened(kafka.address) as driver:
        async with subscribed(driver, before) as source:
            await publish(driver, channel, *numbers(0, 10))
            got = await take(source, 10)
            await ack(source, [each for each in got if each.offset not in {6, 8}])
        (group,) = [one for one in await driver.preflight(after) if one.kind == "group"]
        assert before.group in group.note
        async with subscribed(driver, after) as source:
            assert [each.payload for each in await take(source, 2)] == [b"6", b"8"]
            assert (await source.backlog()).ready == 0
        (group,) = [one for one in await driver.preflight(after) if one.kind == "group"]
        assert before.group not in group.note
