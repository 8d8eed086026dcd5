"""Topics, positions, options and dead letters of the kafka driver, on a real node."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from msgspec import structs

from hexa_worker.config.kafka import KafkaSubscription
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked, Released, Settlement
from hexa_worker.drivers.kafka.consumer import GroupConsumer
from hexa_worker.drivers.kafka.partitioner import fnv1a_partition
from hexa_worker.errors import ConfigError, DriverRejected, DriverUnavailable
from tests.drivers.consuming import ack, publish, subscribed, take
from tests.drivers.kafka_tools import committed, make_topic, opened, spec, topic_settings
from tests.lab.base import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# -- topics


async def test_missing_topics_are_all_named_where_they_may_not_be_made(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), channels=("nope-1", "nope-2"))
    async with opened(kafka.address, create_channels=False) as driver:
        with pytest.raises(DriverRejected, match=r"nope-1, nope-2 .*create_channels"):
            await driver.declare([one])
        (answer,) = await driver.publish([Message(channel="nope-3", payload=b"x")])
        assert isinstance(answer, DriverRejected)
        assert not {"nope-1", "nope-3", one.dead_letter_channel} & set(await driver.channels())


async def test_retry_topics_are_made_even_where_channels_are_not(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    await make_topic(kafka.address, one.channels[0], partitions=3)
    async with opened(kafka.address, create_channels=False) as driver:
        await driver.declare([one])
        assert {*one.retry_channels, one.dead_letter_channel} <= set(await driver.channels())


async def test_a_browsed_record_has_the_id_of_its_partition_whichever_it_is(kafka: Broker, unique_name: Name) -> None:
    channel = unique_name()
    await make_topic(kafka.address, channel, partitions=3)
    async with opened(kafka.address) as driver:
        messages = [Message(channel=channel, payload=b"x", key=b"%d" % number) for number in range(12)]
        ids = await driver.publish(messages)
        found = await driver.browse(channel, -1, 100)
    assert len({one.source for one in found}) == 3
    assert sorted(one.message_id for one in found) == sorted(map(str, ids))


async def test_nothing_is_made_where_retry_topics_are_forbidden_too(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address, create_retry_channels=False) as driver:
        with pytest.raises(DriverRejected, match="retry"):
            await driver.declare([one])


async def test_an_ordered_channel_has_one_partition_or_is_refused(kafka: Broker, unique_name: Name) -> None:
    name = unique_name()
    async with opened(kafka.address, partitions=4) as driver:
        await driver.declare([spec(name, order_by=OrderBy.CHANNEL)])
        ids = await driver.publish([Message(channel=f"{name}.in", payload=b"%d" % n) for n in range(20)])
        assert {str(one).rsplit("-", 2)[1] for one in ids} == {"0"}
        wide = unique_name()
        await publish(driver, f"{wide}.in", b"x")
        with pytest.raises(DriverRejected, match="one partition"):
            await driver.declare([spec(wide, order_by=OrderBy.CHANNEL)])


async def test_a_name_that_kafka_does_not_allow_is_refused(kafka: Broker) -> None:
    async with opened(kafka.address) as driver:
        (answer,) = await driver.publish([Message(channel="no spaces!", payload=b"x")])
    assert isinstance(answer, DriverRejected)


async def test_keys_lie_where_a_go_service_would_look_for_them(kafka: Broker, unique_name: Name) -> None:
    channel = unique_name()
    keys = [b"key-%d" % number for number in range(40)]
    async with opened(kafka.address, partitions=7, partitioner="fnv1a") as driver:
        ids = await driver.publish([Message(channel=channel, payload=b"x", key=key) for key in keys])
    assert [int(str(one).rsplit("-", 2)[1]) for one in ids] == [fnv1a_partition(key, 7) for key in keys]


async def test_topics_are_made_as_the_options_say(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    said = {"retention_s": 100.0, "retry_partitions": 2, "retry_retention_s": 200.0, "dead_letter_retention_s": 300.0}
    async with opened(kafka.address, partitions=3, **said) as driver:
        await driver.declare([one])
    topics = [one.channels[0], *one.retry_channels, one.dead_letter_channel]
    made = await topic_settings(kafka.address, topics)
    assert [made[topic]["retention.ms"] for topic in topics] == ["100000", "200000", "200000", "300000"]
    assert [made[topic]["partitions"] for topic in topics] == ["3", "2", "2", "1"]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_is_published_is_compressed(kafka: Broker, unique_name: Name, compression: str) -> None:
    one, payload = spec(unique_name()), b"0" * 100_000
    await make_topic(kafka.address, one.channels[0], max_message_bytes="20000")
    async with opened(kafka.address, compression=compression) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], payload)
        assert [each.payload for each in await take(source, 1)] == [payload]
    async with opened(kafka.address) as driver:
        (answer,) = await driver.publish([Message(channel=one.channels[0], payload=payload)])
        assert isinstance(answer, DriverRejected), "it fits without compression too"


# -- where a subscription begins


async def test_a_subscription_may_begin_at_a_time(kafka: Broker, unique_name: Name) -> None:
    name = unique_name()
    async with opened(kafka.address, partitions=2) as driver:
        await publish(driver, f"{name}.in", b"old", b"older", key=b"k")
        await anyio.sleep(0.05)
        at = datetime.now(UTC).isoformat()
        await anyio.sleep(0.05)
        await publish(driver, f"{name}.in", b"new", key=b"k")
        one = spec(name, options=KafkaSubscription(start_at=at))
        async with subscribed(driver, one) as source:
            assert [got.payload for got in await take(source, 1)] == [b"new"]
            assert (await source.backlog()).ready == 0


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00"])
async def test_a_time_that_is_none_is_a_configuration_error(kafka: Broker, unique_name: Name, text: str) -> None:
    async with opened(kafka.address) as driver:
        with pytest.raises(ConfigError, match="start_at"):
            await driver.declare([spec(unique_name(), options=KafkaSubscription(start_at=text))])


async def test_latest_is_fixed_when_it_is_declared_and_not_when_it_is_first_read(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), start="latest")
    async with opened(kafka.address, partitions=3) as driver:
        await publish(driver, one.channels[0], b"before")
        await driver.declare([one])
        await publish(driver, one.channels[0], b"after")
    async with opened(kafka.address) as later, subscribed(later, one) as source:
        assert [got.payload for got in await take(source, 1)] == [b"after"]
        assert (await source.backlog()).ready == 0


# -- dead letters


async def test_what_is_removed_at_the_front_is_really_deleted(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    dlq = one.dead_letter_channel
    async with opened(kafka.address) as driver:
        await driver.declare([one])
        await publish(driver, dlq, *[b"%d" % number for number in range(6)])
        assert await driver.remove(dlq, [0, 1, 4]) == 3
        places = await driver.inner._opened().browser._places(dlq)
        assert list((await driver.inner._opened().reader.starts(places)).values()) == [2]
        assert await driver.remove(dlq, [2, 3]) == 2
        assert list((await driver.inner._opened().reader.starts(places)).values()) == [5]
        assert [got.offset for got in await driver.browse(dlq, -1, 10)] == [5]


async def test_a_removal_that_was_cut_short_is_completed_by_the_next(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(unique_name())
    dlq = one.dead_letter_channel
    async with opened(kafka.address) as driver:
        await driver.declare([one])
        await publish(driver, dlq, *[b"%d" % number for number in range(4)])

        async def dies(*_: object) -> None:
            raise DriverUnavailable("the process dies here")

        with monkeypatch.context() as patch:
            patch.setattr(driver.inner._opened().topics, "delete_records", dies)
            with pytest.raises(DriverUnavailable):
                await driver.remove(dlq, [0, 1])
    async with opened(kafka.address) as again:
        assert [got.offset for got in await again.browse(dlq, -1, 10)] == [2, 3]
        assert await again.remove(dlq, [0, 1]) == 0
        places = await again.inner._opened().browser._places(dlq)
        assert list((await again.inner._opened().reader.starts(places)).values()) == [2]


async def test_dead_letters_in_many_partitions_are_browsed_and_removed_one_by_one(
    kafka: Broker, unique_name: Name
) -> None:
    channel = f"{unique_name()}.dlq"
    await make_topic(kafka.address, channel, partitions=3)
    async with opened(kafka.address) as driver:
        await driver.publish([Message(channel=channel, payload=b"%d" % n, key=b"%d" % n) for n in range(30)])
        found = await driver.browse(channel, -1, 100)
        assert sorted(int(got.payload) for got in found) == list(range(30))
        paged = await driver.browse(channel, found[9].offset, 5)
        assert [got.offset for got in paged] == [got.offset for got in found[10:15]]
        assert await driver.remove(channel, [found[3].offset, found[29].offset]) == 2
        left = await driver.browse(channel, -1, 100)
        assert [got.payload for got in left] == [got.payload for got in found if got not in (found[3], found[29])]


# -- progress


async def test_work_done_out_of_order_is_not_done_again_after_a_take_over(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as first:
        source = await first.subscribe(one)
        await publish(first, one.channels[0], *[b"%d" % number for number in range(1_000)])
        taken = await take(source, 1_000)
        await ack(source, [got for got in taken if got.offset % 3])
        await source.close()
        async with subscribed(first, one) as again:
            left = await take(again, 334)
            assert [got.offset for got in left] == list(range(0, 1_000, 3))
            assert (await again.backlog()).ready == 0


async def test_a_suspect_that_is_settled_stays_so_however_soon_its_process_dies(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    async with opened(kafka.address, commit_interval_s=3600.0) as first, opened(kafka.address) as second:
        source = await first.subscribe(one)
        await publish(first, one.channels[0], b"innocent", b"suspect")
        innocent, suspect = await take(source, 2)
        await ack(source, [structs.replace(suspect, crashes=2)])
        await first.crash()
        async with subscribed(second, one) as again:
            assert [got.payload for got in await take(again, 1)] == [innocent.payload]
            assert (await again.backlog()).ready == 0


async def test_a_suspect_whose_commit_fails_is_not_settled_until_it_is_known_to_be_committed(
    kafka: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(unique_name())
    commit, away = GroupConsumer.commit, True

    async def commit_maybe(group: GroupConsumer, *more: float) -> None:
        if away:
            raise DriverUnavailable("no answer")
        await commit(group, *more)

    async with opened(kafka.address, commit_interval_s=3600.0) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"innocent", b"suspect", b"released")
        innocent, *others = await take(source, 3)
        suspect, released = (structs.replace(got, crashes=2) for got in others)
        monkeypatch.setattr(GroupConsumer, "commit", commit_maybe)
        settled: list[Settlement] = [Acked(innocent), Acked(suspect), Released(released)]
        unsettled = await source.settle(settled)
        assert [(failed.settlement, type(failed.error)) for failed in unsettled] == [(settled[1], DriverUnavailable)]
        away = False
        assert await source.settle([failed.settlement for failed in unsettled]) == []
        assert [got.payload for got in await take(source, 1)] == [b"released"]
        assert (await source.backlog()).ready == 0


async def test_until_idle_waits_for_retries_that_are_not_due(kafka: Broker, unique_name: Name, tmp_path: Path) -> None:
    action = unique_name()
    (tmp_path / "h.py").write_text(
        "from hexa_worker import Context, subscribe\n"
        f"@subscribe('{action}.in', action='{action}')\n"
        "async def handle(payload: int, ctx: Context) -> None:\n"
        "    open('seen', 'a').write(f'{payload} {ctx.attempt}\\n')\n"
        "    if ctx.attempt < 2:\n"
        "        raise ValueError('again')\n"
    )
    (tmp_path / "worker.toml").write_text(
        '[worker]\nname = "idle"\nhandlers = ["h"]\nprocesses = 2\n'
        f'[broker]\ndriver = "kafka"\nservers = ["{kafka.address}"]\ncreate_channels = true\n'
        f"[subscriptions.{action}.retry]\ninitial_interval_s = 0.7\nbackoff_coefficient = 1\n"
    )
    async with opened(kafka.address) as driver:
        await publish(driver, f"{action}.in", *[json.dumps(number).encode() for number in range(20)])
    begin = time.monotonic()
    command = [sys.executable, "-m", "hexa_worker", "run", "--until-idle"]
    done = await anyio.run_process(command, cwd=tmp_path, check=False, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    assert time.monotonic() - begin > 1.4
    lines = (tmp_path / "seen").read_text().split("\n")[:-1]
    assert sorted(lines) == sorted(f"{number} {attempt}" for number in range(20) for attempt in range(3))


async def test_one_stuck_delivery_stops_nothing_that_comes_behind_it(kafka: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), options=KafkaSubscription(max_ahead=50))
    async with opened(kafka.address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"stuck")
        (stuck,) = await take(source, 1)
        await publish(driver, one.channels[0], *[b"x"] * 400)
        for _ in range(40):
            await ack(source, await take(source, 10))
        await ack(source, [stuck])
    assert (await committed(kafka.address, one.group, one.channels[0]))[0] == 401
