"""A Kafka node that dies, freezes or is cut off, and workers that die, freeze and come: nothing is lost."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from aiokafka.admin import NewTopic

from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.kafka.connection import KafkaConnection
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.errors import DriverUnavailable, LeaseLost
from tests.drivers.consuming import ack, patiently, publish, subscribed, take
from tests.drivers.kafka_tools import opened, options, spec
from tests.drivers.killed_worker import KilledWorker
from tests.drivers.outages import Consumer, Outage, crawl, keyed, outlive
from tests.lab.base import Broker
from tests.lab.kafka import Kafka
from tests.lab.ports import reserve_port
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.anyio, pytest.mark.slow]
Name = Callable[..., str]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def _outlives(address: str, name: str, outage: Outage) -> Consumer:
    one = spec(name)
    async with opened(address, partitions=3) as driver, subscribed(driver, one) as source:
        consumer = Consumer(source)
        await outlive(consumer, driver, keyed(one.channels[0]), outage)
    return consumer


@pytest.mark.timeout(180)
@pytest.mark.parametrize("outage_s", [0.5, 6.0])
async def test_after_a_killed_node_is_back_consuming_goes_on(kafka: Broker, unique_name: Name, outage_s: float) -> None:
    await _outlives(kafka.address, unique_name(), Outage(kafka.kill, kafka.start, outage_s))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("frozen_s", [0.5, 8.0])
async def test_after_a_frozen_node_thaws_consuming_goes_on(kafka: Broker, unique_name: Name, frozen_s: float) -> None:
    consumer = await _outlives(kafka.address, unique_name(), Outage(kafka.freeze, kafka.thaw, frozen_s))
    assert frozen_s < 5 or consumer.told, "a node that was away for long was never reported"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # it looks at tasks
@pytest.mark.parametrize("away", ["dead", "frozen"])
async def test_a_publish_that_was_given_up_leaves_nobody_who_still_tries(
    kafka: Broker, unique_name: Name, away: str
) -> None:
    channel = unique_name()
    leave, come = (kafka.kill, kafka.start) if away == "dead" else (kafka.freeze, kafka.thaw)
    async with opened(kafka.address, timeout_s=2.0) as driver:
        await publish(driver, channel, b"1")
        await anyio.to_thread.run_sync(leave)
        with pytest.raises(DriverUnavailable):
            await publish(driver, channel, b"given up")
        with anyio.fail_after(20):
            while _producer_tasks():
                await anyio.sleep(0.1)
        await anyio.to_thread.run_sync(come)
        await patiently(lambda: publish(driver, channel, b"2"))
        stored = [got.payload for got in await patiently(lambda: driver.browse(channel, -1, 10))]
        # What a node was sent before it was given up it may have stored, so it is asked before anything follows.
        assert [one for one in stored if one != b"given up"] == [b"1", b"2"]
        assert stored.count(b"given up") <= 1


def _producer_tasks() -> list[str]:
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]  # coroutines
    return [name for name in names if name.startswith(("SendQueue.", "Producer."))]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # it is about the node, and the loop is ours
async def test_while_a_thawed_node_is_not_let_in_yet_topics_wait_for_it(kafka: Broker, unique_name: Name) -> None:
    """For a moment its controller counts it as gone: nothing can hold a topic, which time mends."""
    thawed = anyio.Event()

    async def make_topics() -> None:
        topics = TopicAdmin(KafkaConnection(options(kafka.address, timeout_s=20.0), Path()))
        while not thawed.is_set():
            await topics.create([NewTopic(unique_name(), 1, 1)])
        await topics.create([NewTopic(unique_name(), 1, 1)])
        await topics.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(make_topics)
        for _ in range(2):
            await anyio.sleep(0.5)
            kafka.freeze()
            await anyio.sleep(3.5)  # the session of a node is 2 s
            kafka.thaw()
        thawed.set()


@pytest.mark.timeout(180)
async def test_after_a_black_hole_consuming_goes_on(
    kafka: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy]
) -> None:
    proxy = open_proxy(kafka)
    consumer = await _outlives(kafka.proxied_address, unique_name(), Outage(proxy.black_hole, proxy.heal, 12))
    assert consumer.told


async def test_a_slow_line_takes_nothing_from_who_has_it_in_flight(
    kafka: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy]
) -> None:
    proxy, one = open_proxy(kafka), spec(unique_name())
    async with (
        opened(kafka.address) as sender,
        opened(kafka.proxied_address) as driver,
        subscribed(driver, one) as source,
    ):
        await crawl(Consumer(source), sender, one.channels[0], proxy)


async def test_a_member_that_was_frozen_past_its_session_cannot_move_progress_back(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    async with opened(kafka.address) as frozen, opened(kafka.address) as second, opened(kafka.address) as third:
        source = await frozen.subscribe(one)
        await publish(frozen, one.channels[0], *[b"%d" % number for number in range(10)])
        first = await take(source, 10)
        await frozen.stall(3.0)
        async with subscribed(second, one) as other:
            await ack(other, await take(other, 10))
        unsettled = await source.settle([Acked(got) for got in first[:3]])
        assert [type(each.error) for each in unsettled] == [LeaseLost] * 3
        await source.close()
        async with subscribed(third, one) as last:
            assert (await last.backlog()).idle


async def test_a_static_member_that_restarts_within_its_session_disturbs_nobody(
    kafka: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    more = {"partitions": 2, "session_timeout_s": 6.0}
    revoked: list[frozenset[str]] = []

    async def note(sources: frozenset[str]) -> None:
        revoked.append(sources)

    async with opened(kafka.address, instance_id="slot-0", **more) as first:
        source = await first.subscribe(one, note)
        async with opened(kafka.address, instance_id="slot-1", **more) as second:
            await second.subscribe(one)
            revoked.clear()
            await second.crash()
            async with opened(kafka.address, instance_id="slot-1", **more) as again:
                other = await again.subscribe(one)
                answers = await again.publish(
                    [
                        Message(channel=one.channels[0], payload=b"%d" % number, key=b"%d" % number)
                        for number in range(20)
                    ]
                )
                mine = sum(1 for answer in answers if str(answer).startswith(f"{one.channels[0]}-0-"))
                taken: set[bytes] = set()
                async with anyio.create_task_group() as tasks:
                    for part, count in ((source, mine), (other, 20 - mine)):
                        tasks.start_soon(_collect, part, count, taken)
                assert len(taken) == 20
    assert revoked == []


async def _collect(source: Source, count: int, into: set[bytes]) -> None:
    into.update(one.payload for one in await take(source, count))


BROKER = """driver = "kafka"
servers = ["{}"]
create_channels = true
session_timeout_s = 1.0
heartbeat_s = 0.2
"""


@pytest.mark.timeout(180)
async def test_killed_workers_lose_nothing(
    kafka: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str
) -> None:
    doomed = KilledWorker(tmp_path, unique_name(), anyio_backend, BROKER.format(kafka.address))
    async with opened(kafka.address) as driver:
        await doomed.lose_nothing(driver)


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("kafka")  # or it says why there is none
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # it is about the client, which has its own loop
async def test_brokers_that_come_back_under_another_address_are_found_by_the_configured_one(
    unique_name: Name, tmp_path: Path
) -> None:
    node, one = Kafka(tmp_path / "moving"), spec(unique_name())
    await anyio.to_thread.run_sync(node.start)
    proxy = Proxy(("127.0.0.1", node.port("client"))).start()
    try:
        async with opened(proxy.address) as driver, subscribed(driver, one) as source:
            await publish(driver, one.channels[0], b"before")
            await ack(source, await take(source, 1))
            await anyio.to_thread.run_sync(node.stop)
            node._ports["client"].release()
            node._ports["client"] = reserve_port()
            proxy.upstream = ("127.0.0.1", node.port("client"))
            await anyio.to_thread.run_sync(node.start)
            await patiently(lambda: publish(driver, one.channels[0], b"after"), within_s=20)
            assert (await take(source, 1))[0].payload == b"after"
    finally:
        proxy.close()
        await anyio.to_thread.run_sync(node.close)
