"""What is special about pulsar, on a real broker: types, standby, partitions, delays, entries, dead letters."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import anyio
import pulsar as client_library
import pytest

from hexa_worker.config.pulsar import PulsarSubscription
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.pulsar import PulsarDriver
from hexa_worker.drivers.pulsar.batch_acks import MANY
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.drivers.consuming import PLENTY, ack, kept_open, publish, spec, subscribed, take
from tests.drivers.pulsar_tools import expect_quiet, opened, options, raw_client
from tests.lab.base import Broker

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(url: str) -> Any:
    """What the admin API answers."""
    with urlopen(url) as answer:
        return json.load(answer)


async def test_a_second_exclusive_consumer_is_told_why_and_gets_it_later(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), options=PulsarSubscription(type="exclusive"))
    async with opened(options(pulsar)) as first, opened(options(pulsar)) as second:
        source = await first.subscribe(one)
        with pytest.raises(DriverUnavailable, match="another consumer has the subscription"):
            await second.subscribe(one)
        await source.close()
        async with subscribed(second, one) as taken_over:
            await publish(first, f"{one.action}.in", b"x")
            assert [each.payload for each in await take(taken_over, 1)] == [b"x"]


async def test_another_type_on_a_live_subscription_is_told_why(pulsar: Broker, unique_name: Name) -> None:
    name = unique_name()
    async with opened(options(pulsar)) as driver, subscribed(driver, spec(name)):
        with pytest.raises(DriverUnavailable, match="another type"):
            await driver.subscribe(spec(name, order_by=OrderBy.KEY))


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_subscription_that_exists_gets_no_reader_but_those_that_stay(
    pulsar: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """The broker may keep one that comes and goes, and hand it messages."""
    one = spec(unique_name(), start=start)
    async with opened(options(pulsar)) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], b"1")
        readers: list[str] = []
        subscribe = client_library.Client.subscribe

        def noting(client: Any, topic: Any, name: str, **more: Any) -> Any:
            readers.append(name)
            return subscribe(client, topic, name, **more)

        monkeypatch.setattr(client_library.Client, "subscribe", noting)
        async with opened(options(pulsar)) as again:
            await again.declare([one])
            assert readers == []
            async with subscribed(again, one) as source:
                assert [got.payload for got in await take(source, 1)] == [b"1"]
            assert readers == [one.group] * 2


async def test_with_order_by_channel_the_second_process_stands_by_and_takes_over(
    pulsar: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), order_by=OrderBy.CHANNEL)
    channel = f"{one.action}.in"
    async with opened(options(pulsar)) as first, opened(options(pulsar)) as second:
        source = await first.subscribe(one)
        async with subscribed(second, one) as standing_by:
            await publish(first, channel, b"1", b"2", b"3")
            held = await take(source, 3)
            await ack(source, held[:1])
            await expect_quiet(standing_by)
            await source.close()
            assert [each.payload for each in await take(standing_by, 2)] == [b"2", b"3"]


@pytest.mark.parametrize("kind", ["shared", "key_shared", "exclusive", "failover"])
async def test_every_type_delivers_retries_and_acknowledges(pulsar: Broker, unique_name: Name, kind: Any) -> None:
    one = spec(unique_name(), options=PulsarSubscription(type=kind))
    channel = f"{one.action}.in"
    async with opened(options(pulsar)) as driver:
        async with subscribed(driver, one) as source:
            await publish(driver, channel, b"1", b"2", key=b"k")
            first, _second = await take(source, 2)
            await ack(source, [first])
            await publish(driver, one.retry_channels[0], b"again")
            (again,) = await take(source, 1)
            assert again.attempt == 1
            await ack(source, [again])
        async with subscribed(driver, one) as source:
            assert [each.payload for each in await take(source, 1)] == [b"2"]
            assert (await source.backlog()).ready + (await source.backlog()).leased == 1


async def test_partitioned_topics_are_made_read_and_browsed(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), order_by=OrderBy.KEY)
    channel = f"{one.action}.in"
    async with opened(options(pulsar, partitions=3)) as driver:
        await driver.declare([one])
        messages = [Message(channel=channel, payload=b"%d" % n, key=b"k%d" % (n % 7)) for n in range(70)]
        ids = await driver.publish(messages)
        async with subscribed(driver, one) as source:
            taken = await take(source, 70)
            assert len({each.source for each in taken}) == 3
            assert {each.message_id for each in taken} == set(ids)
            assert {each.channel for each in taken} == {channel}
            for key in {each.key for each in taken}:
                numbers = [int(each.payload) for each in taken if each.key == key]
                assert numbers == sorted(numbers)
            await ack(source, taken)
            assert (await source.backlog()).idle
        found: list[bytes] = []
        after = -1
        while page := await driver.browse(channel, after, 20):
            found += [each.payload for each in page]
            after = page[-1].offset
        assert sorted(map(int, found)) == list(range(70))
        assert channel in await driver.channels()


async def test_other_namespaces_are_reached_by_whole_names_and_by_the_format(pulsar: Broker, unique_name: Name) -> None:
    name = unique_name()
    whole = f"persistent://public/functions-{name}/orders"
    async with opened(options(pulsar)) as driver:
        answers = await driver.publish([Message(channel=whole, payload=b"x"), Message(channel=name, payload=b"y")])
    assert isinstance(answers[0], DriverRejected)
    assert "namespace" in str(answers[0])
    assert isinstance(answers[1], str)
    async with opened(options(pulsar, topic_format="persistent://public/default/app.{}")) as driver:
        await publish(driver, name, b"z")
        assert name in await driver.channels()
        assert [one.payload for one in await driver.browse(name, -1, 10)] == [b"z"]
        assert [one.payload for one in await driver.browse(f"persistent://public/default/{name}", -1, 10)] == [b"y"]


async def test_whole_entries_are_acknowledged_so_that_nothing_comes_again(pulsar: Broker, unique_name: Name) -> None:
    one, count = spec(unique_name()), 10 * MANY
    async with opened(options(pulsar)) as driver:
        async with subscribed(driver, one) as source:
            await publish(driver, f"{one.action}.in", *[b"%d" % number for number in range(count)])
            taken = await take(source, count)
            await ack(source, taken[1:])
            backlog = await source.backlog()
            assert (backlog.ready, backlog.leased) == (0, 1)
        async with subscribed(driver, one) as source:
            assert [each.payload for each in await take(source, 1)] == [taken[0].payload]
            await expect_quiet(source)


async def test_what_is_in_flight_is_not_run_twice_when_the_connection_is_lost(
    pulsar: Broker, unique_name: Name, open_proxy: Callable[[Broker], Any]
) -> None:
    proxy = open_proxy(pulsar)
    one = spec(unique_name())
    proxied = options(pulsar, url=pulsar.proxied_address, listener_name="proxied")
    async with opened(proxied) as driver, subscribed(driver, one) as source:
        await publish(driver, f"{one.action}.in", *[b"%d" % number for number in range(200)])
        taken = await take(source, 200)
        proxy.cut()
        await publish(driver, f"{one.action}.in", b"later")
        assert [each.payload for each in await take(source, 1)] == [b"later"]
        await expect_quiet(source, 1.0)
        unsettled = await source.settle([Acked(each) for each in taken])
        assert unsettled == []


async def test_a_retry_is_exact_though_the_broker_counts_in_ticks(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(options(pulsar, delay_tick_s=1.0)) as driver, subscribed(driver, one) as source:
        for delay_ms in (50, 700, 1600):
            due_ms = driver._clock.now_ms() + delay_ms
            await driver.publish([Message(channel=one.retry_channels[0], payload=b"x", due_ms=due_ms)])
            (again,) = await take(source, 1)
            late_ms = driver._clock.now_ms() - due_ms
            assert 0 <= late_ms < 500
            await ack(source, [again])


async def test_a_pattern_leaves_out_its_own_retries_and_dead_letters(pulsar: Broker, unique_name: Name) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=rf"{name}.*")
    async with opened(options(pulsar)) as driver:
        await publish(driver, f"{name}.in", b"x")
        await driver.declare([one])
        async with subscribed(driver, one) as source:
            assert [each.channel for each in await take(source, 1)] == [f"{name}.in"]
            await publish(driver, one.dead_letter_channel, b"dead")
            await publish(driver, one.retry_channels[0], b"again")
            (again,) = await take(source, 1)
            assert (again.payload, again.attempt) == (b"again", 1)
            await expect_quiet(source, 2.5)


async def test_messages_of_others_are_read_whatever_they_are(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    with raw_client(pulsar) as client:
        async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
            producer = client.create_producer(f"{one.action}.in")
            producer.send(None, partition_key="tombstone")
            producer.send(b"ordered", ordering_key="o")
            producer.send(b"timed", event_timestamp=1234, properties={"hexa-more": "%&=%zz&", "hexa-due-ms": "soon"})
            by = {each.payload: each for each in await take(source, 3)}
            assert by[b""].key == b"tombstone"
            assert by[b"ordered"].key == b"o"
            assert (by[b"timed"].timestamp_ms, by[b"timed"].due_ms) == (1234, 0)
            await ack(source, list(by.values()))


async def test_foreign_batches_of_dead_letters_are_removed_one_by_one(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(options(pulsar)) as driver:
        await driver.declare([one])
        with raw_client(pulsar) as client:
            producer = client.create_producer(one.dead_letter_channel, batching_enabled=True)
            for number in range(5):
                producer.send_async(b"%d" % number, lambda _result, _id: None)
            producer.flush()
        found = await driver.browse(one.dead_letter_channel, -1, 10)
        assert await driver.remove(one.dead_letter_channel, [found[1].offset, found[3].offset]) == 2
    async with opened(options(pulsar)) as driver:
        left = await driver.browse(one.dead_letter_channel, -1, 10)
        assert [each.payload for each in left] == [b"0", b"2", b"4"]


async def test_two_who_read_dead_letters_wait_for_each_other(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(options(pulsar)) as first, opened(options(pulsar)) as second:
        await first.declare([one])
        await publish(first, one.dead_letter_channel, *[b"%d" % number for number in range(20)])
        counts: list[int] = []

        async def look(driver: Any) -> None:
            counts.append(len(await driver.browse(one.dead_letter_channel, -1, 100)))

        async with anyio.create_task_group() as tasks:
            for driver in (first, second, first, second):
                tasks.start_soon(look, driver)
        assert counts == [20] * 4


async def test_without_the_admin_api_everything_but_looking_works(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    nowhere = options(pulsar, admin_url=None, url=pulsar.address)
    async with opened(nowhere) as driver, subscribed(driver, one) as source:
        await publish(driver, f"{one.action}.in", b"x")
        await ack(source, await take(source, 1))
        with pytest.raises(DriverRejected, match=r"broker\.admin_url"):
            await source.backlog()
        with pytest.raises(DriverRejected, match=r"broker\.admin_url"):
            await driver.channels()
        assert "admin_url" in (await driver.inspect())["admin"]


async def test_more_topics_than_producers_are_kept_are_published_to(pulsar: Broker, unique_name: Name) -> None:
    name = unique_name()
    async with opened(options(pulsar, producers=3)) as driver:
        for _ in range(2):
            for number in range(6):
                await publish(driver, f"{name}-{number}", b"x")
        assert len(driver._publisher._lines) == 3


async def test_a_closed_driver_leaves_no_threads(pulsar: Broker, unique_name: Name) -> None:
    def ours() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name.startswith("hexa-pulsar")]

    async with opened(options(pulsar)) as driver, subscribed(driver, spec(unique_name())):
        assert ours()
    with anyio.fail_after(5):
        while ours():
            await anyio.sleep(0.05)


async def test_receiving_pauses_when_nobody_takes(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), options=PulsarSubscription(batch_receive=10, receiver_queue=10))
    async with opened(options(pulsar, batching="none")) as driver, subscribed(driver, one) as source:
        await publish(driver, f"{one.action}.in", *[b"%d" % number for number in range(500)])
        await take(source, 1)
        await anyio.sleep(0.5)
        assert len(source.known) <= 60
        rest = await take(source, 499)
        assert len({each.payload for each in rest}) == 499
        assert len(await _receive_bytes(source)) == 0


async def _receive_bytes(source: Any) -> list[Any]:
    with anyio.move_on_after(0.2):
        return list(await source.receive(1, PLENTY))
    return []


@pytest.mark.parametrize("compression", ["lz4", "zlib", "zstd", "snappy"])
async def test_what_is_published_is_compressed(pulsar: Broker, unique_name: Name, compression: str) -> None:
    one, payload = spec(unique_name()), b"0" * 100_000
    async with opened(options(pulsar, compression=compression)) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], payload)
        assert [each.payload for each in await take(source, 1)] == [payload]
    stats = ask(f"{pulsar.admin_address}/admin/v2/persistent/public/default/{one.channels[0]}/stats")
    assert stats["storageSize"] < len(payload) / 10


async def test_the_compacted_form_of_a_channel_can_be_read(pulsar: Broker, unique_name: Name) -> None:
    said = PulsarSubscription(type="exclusive", read_compacted=True)
    one = spec(unique_name(), options=said)
    async with opened(options(pulsar, batching="none")) as driver:
        for payload in (b"old", b"new"):
            await publish(driver, one.channels[0], payload, key=b"k")
        compaction = f"{pulsar.admin_address}/admin/v2/persistent/public/default/{one.channels[0]}/compaction"
        await anyio.to_thread.run_sync(urlopen, Request(compaction, method="PUT"))
        with anyio.fail_after(30):
            while (await anyio.to_thread.run_sync(ask, compaction))["status"] != "SUCCESS":
                await anyio.sleep(0.1)
        async with subscribed(driver, one) as source:
            assert [each.payload for each in await take(source, 1)] == [b"new"]


async def test_the_clients_own_log_goes_to_the_file_that_is_named(pulsar: Broker, tmp_path: Path) -> None:
    async with kept_open(PulsarDriver(options(pulsar, client_log="client.log"), folder=tmp_path)):
        assert (tmp_path / "client.log").exists()
