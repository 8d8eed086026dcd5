"""A NATS server that dies, freezes or is cut off, workers that die and freeze: nothing is lost, nothing is early."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy, stripe_of
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.nats import NatsDriver
from hexa_worker.errors import DriverUnavailable, LeaseLost
from tests.drivers.consuming import PLENTY, ack, confirmed, patiently, publish, spec, subscribed, take
from tests.drivers.killed_worker import KilledWorker
from tests.drivers.nats_tools import opened
from tests.drivers.outages import Consumer, Outage, crawl, outlive
from tests.lab.base import Broker
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.nats, pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]
Name = Callable[..., str]
RESTARTS = 4


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def identified(channel: str) -> Callable[[int], Message]:
    """Messages that the server knows again."""
    return lambda number: Message(channel=channel, payload=b"%d" % number, headers=(("hexa-event-id", b"%d" % number),))


async def _outlives(address: str, name: str, outage: Outage, order_by: OrderBy = OrderBy.NONE) -> Consumer:
    one = spec(name, order_by=order_by)
    async with opened(address) as driver, subscribed(driver, one) as source:
        consumer = Consumer(source)
        await outlive(consumer, driver, identified(one.channels[0]), outage, within_s=40)
    return consumer


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
@pytest.mark.parametrize("away_s", [0.5, 6.0])
async def test_after_a_killed_server_is_back_consuming_goes_on(
    nats: Broker, unique_name: Name, order_by: OrderBy, away_s: float
) -> None:
    consumer = await _outlives(nats.address, unique_name(), Outage(nats.kill, nats.start, away_s), order_by)
    assert away_s < 1 or consumer.told, "a server that was away for long was never reported"


@pytest.mark.parametrize("away_s", [0.5, 10.0])
async def test_after_a_frozen_server_thaws_consuming_goes_on(nats: Broker, unique_name: Name, away_s: float) -> None:
    consumer = await _outlives(nats.address, unique_name(), Outage(nats.freeze, nats.thaw, away_s))
    assert away_s < 5 or consumer.told, "a server that was frozen for long was never reported"


async def test_after_a_black_hole_consuming_goes_on(
    nats: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy]
) -> None:
    proxy = open_proxy(nats)
    consumer = await _outlives(nats.proxied_address, unique_name(), Outage(proxy.black_hole, proxy.heal, 12.0))
    assert consumer.told


async def test_a_slow_line_takes_nothing_from_who_has_it_in_flight(
    nats: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy]
) -> None:
    proxy, one = open_proxy(nats), spec(unique_name())
    async with (
        opened(nats.address) as sender,
        opened(nats.proxied_address) as driver,
        subscribed(driver, one) as source,
    ):
        await crawl(Consumer(source), sender, one.channels[0], proxy)


async def test_cut_connections_do_not_break_the_order(
    nats: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy]
) -> None:
    proxy, one, count = open_proxy(nats), spec(unique_name(), order_by=OrderBy.CHANNEL), 20_000
    async with opened(nats.address) as sender, opened(nats.proxied_address) as driver:
        async with subscribed(driver, one) as source:
            await publish(sender, one.channels[0], *[b"%d" % number for number in range(count)])
            consumer = Consumer(source)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer.run)
                for _ in range(10):
                    await anyio.sleep(0.2)
                    proxy.cut(after_bytes=50_000)
                proxy.heal()
                await consumer.wait({b"%d" % number for number in range(count)}, 60)
                source.stop()
        numbers = [int(payload) for payload in consumer.order]
        first_seen = list(dict.fromkeys(numbers))
        assert first_seen == sorted(first_seen)


async def test_what_was_in_flight_when_the_server_died_is_not_run_twice(nats: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(nats.address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], *[b"%d" % number for number in range(20)])
        held = await take(source, 20)
        await anyio.to_thread.run_sync(nats.kill)
        await anyio.to_thread.run_sync(nats.start)
        again: list[bytes] = []

        async def receive() -> None:
            while True:
                try:
                    batch = await source.receive(100, PLENTY)
                except DriverUnavailable:
                    await anyio.sleep(0.05)
                    continue
                if not batch:
                    return
                again.extend(got.payload for got in batch)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.sleep(5)  # longer than ack_wait: the server has sent its copies
            unsettled = await patiently(lambda: source.settle([Acked(got) for got in held]))
            await anyio.sleep(4)
            source.stop()
        assert again == []
        assert unsettled == []
        assert (await source.backlog()).idle


async def test_what_a_dying_server_forgot_to_have_delivered_is_settled_though_nothing_is_received(
    nats: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    async with opened(nats.address) as driver, subscribed(driver, one) as source:
        held: list[Delivery] = []
        for number in range(10):  # the first one it writes down at once, what follows after 100 ms
            await publish(driver, one.channels[0], b"%d" % number)
            held += await take(source, 1)
        await anyio.to_thread.run_sync(nats.kill)
        await anyio.to_thread.run_sync(nats.start)
        unsettled = await patiently(lambda: source.settle([Acked(got) for got in held]), 4.0)  # its timeout_s is 5
        assert all(isinstance(lost.error, LeaseLost) for lost in unsettled)
        await publish(driver, one.channels[0], b"10")
        assert [got.payload for got in await take(source, 1)] == [b"10"]


async def test_acknowledgements_that_a_dying_server_forgot_are_given_again(nats: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(nats.address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], *[b"%d" % number for number in range(50)])
        held = await take(source, 50)
        await ack(source, held)
        await anyio.to_thread.run_sync(nats.kill)  # within the 100 ms in which it has not written them down
        await anyio.to_thread.run_sync(nats.start)
        with anyio.move_on_after(6):
            while True:
                try:
                    assert await source.receive(100, PLENTY) == []
                except DriverUnavailable:
                    await anyio.sleep(0.05)
        assert (await patiently(source.backlog)).idle


async def test_retries_survive_restarts_of_server_and_worker_and_are_never_early(
    nats: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    now_ms = time.time_ns() // 1_000_000
    due = {b"%d" % number: now_ms + 1_500 + 100 * number for number in range(60)}
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await publish_due(driver, one.retry_channels[0], due)
    early: list[tuple[bytes, int]] = []
    seen: set[bytes] = set()
    for restart in itertools.count():
        async with opened(nats.address) as driver, subscribed(driver, one) as source:
            with anyio.move_on_after(1.7 if restart < RESTARTS else 20):
                while seen != due.keys():
                    for got in await take(source, 1):
                        late_ms = time.time_ns() // 1_000_000 - due[got.payload]
                        if late_ms < 0:
                            early.append((got.payload, late_ms))
                        seen.add(got.payload)
                        await ack(source, [got])
        if restart == RESTARTS:
            break
        await anyio.to_thread.run_sync(nats.kill)
        await anyio.to_thread.run_sync(nats.start)
    assert seen == due.keys()
    assert early == []


async def test_retries_are_never_early_where_the_server_cannot_keep_them(nats29: Broker, unique_name: Name) -> None:
    await test_retries_survive_restarts_of_server_and_worker_and_are_never_early(nats29, unique_name)


async def publish_due(driver: NatsDriver, channel: str, due: dict[bytes, int]) -> None:
    answers = await driver.publish(
        [Message(channel=channel, payload=payload, due_ms=due_ms) for payload, due_ms in due.items()]
    )
    assert all(isinstance(answer, str) for answer in answers), answers


async def test_a_process_that_was_frozen_past_its_lease_cannot_settle_what_is_another_ones(
    nats: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), order_by=OrderBy.KEY)
    async with opened(nats.address) as frozen, opened(nats.address) as second:
        source = await frozen.subscribe(one)
        await publish(frozen, one.channels[0], *[b"%d" % number for number in range(10)])
        first = await take(source, 10)
        async with subscribed(second, one) as other, anyio.create_task_group() as tasks:
            tasks.start_soon(frozen.stall)
            taken = await take(other, 10)
            unsettled = await source.settle([Acked(got) for got in first[:3]])
            assert [type(each.error) for each in unsettled] == [LeaseLost] * 3
            await ack(other, taken)
        await source.close()


BROKER = """driver = "nats"
servers = ["{}"]
ack_wait_s = 2.0
[subscriptions."{}"]
order_by = "{}"
"""


SLOW = """    import anyio
    await anyio.sleep(120 if payload == 0 else 0.005)
"""


async def test_one_slow_key_keeps_the_other_lanes_from_nothing(
    nats: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str
) -> None:
    action, count, lanes = unique_name(), 5_000, 16
    settings = f"{BROKER.format(nats.address, action, 'key')}concurrency = {lanes}\n"
    worker = KilledWorker(tmp_path, action, anyio_backend, settings, SLOW)
    keys = [b"slow", *[b"k%d" % (number % 500) for number in range(1, count)]]
    free = {number for number, key in enumerate(keys) if stripe_of(key, 0, lanes) != stripe_of(b"slow", 0, lanes)}
    async with opened(nats.address) as driver:
        await confirmed(
            driver,
            [Message(channel=worker.channel, payload=b"%d" % number, key=key) for number, key in enumerate(keys)],
        )
        process = worker.start()
        try:
            with anyio.fail_after(60):
                while not free <= worker.seen():
                    await anyio.sleep(0.1)
            assert 0 not in worker.seen()
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("order_by", ["none", "key"])
async def test_killed_workers_lose_nothing(
    nats: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str, order_by: str
) -> None:
    action = unique_name()
    doomed = KilledWorker(tmp_path, action, anyio_backend, BROKER.format(nats.address, action, order_by))
    async with opened(nats.address) as driver:
        await doomed.lose_nothing(driver)
