"""A Pulsar broker that dies, freezes or is cut off, and workers that die and freeze: nothing is lost."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from hexa_worker.core.message import Message
from hexa_worker.core.ordering import stripe_of
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.pulsar import PulsarDriver
from tests.drivers.consuming import confirmed, patiently, publish, spec, subscribed
from tests.drivers.killed_worker import KilledWorker
from tests.drivers.outages import Consumer, Outage, crawl, keyed, outlive
from tests.drivers.pulsar_tools import opened, options
from tests.lab.base import Broker

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio, pytest.mark.slow]
Name = Callable[..., str]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class PatientConsumer(Consumer):
    """Settles again what did not take effect."""

    async def settle(self, settlements: list[Acked]) -> None:
        left: list[Any] = [*settlements]
        while left:
            left = [one.settlement for one in await patiently(partial(self.source.settle, left), 120)]
            if left:
                await anyio.sleep(0.2)


async def _outlives(driver: PulsarDriver, name: str, outage: Outage) -> Consumer:
    one = spec(name)
    async with subscribed(driver, one) as source:
        consumer = PatientConsumer(source)
        await outlive(consumer, driver, keyed(one.channels[0]), outage)
    return consumer


@pytest.mark.timeout(180)
@pytest.mark.parametrize("outage_s", [0.5, 20.0])
async def test_after_a_killed_broker_is_back_consuming_goes_on(
    pulsar: Broker, unique_name: Name, outage_s: float
) -> None:
    async with opened(options(pulsar)) as driver:
        consumer = await _outlives(driver, unique_name(), Outage(pulsar.kill, pulsar.start, outage_s))
    assert consumer.told, "a broker that was away was never reported"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("frozen_s", [0.5, 12.0])
async def test_after_a_frozen_broker_thaws_consuming_goes_on(
    pulsar: Broker, unique_name: Name, frozen_s: float
) -> None:
    async with opened(options(pulsar)) as driver:
        consumer = await _outlives(driver, unique_name(), Outage(pulsar.freeze, pulsar.thaw, frozen_s))
    assert frozen_s < 5 or consumer.told, "a broker that was away for long was never reported"


@pytest.mark.timeout(180)
async def test_after_a_black_hole_consuming_goes_on(
    pulsar: Broker, unique_name: Name, open_proxy: Callable[[Broker], Any]
) -> None:
    proxy = open_proxy(pulsar)
    proxied = options(pulsar, url=pulsar.proxied_address, listener_name="proxied")
    async with opened(proxied) as driver:
        consumer = await _outlives(driver, unique_name(), Outage(proxy.black_hole, proxy.heal, 12))
    assert consumer.told, "a broker that was away was never reported"


SLOW = """    import anyio
    await anyio.sleep(120 if payload == 0 else 0.005)
"""
BROKER = """driver = "pulsar"
url = "{}"
admin_url = "{}"
delay_tick_s = 0.1
[subscriptions.{}.retry]
initial_interval_s = 0.2
"""
TROUBLE = """    if payload % 100 == 7 and ctx.attempt == 0:
        raise ValueError("once")
"""


@pytest.fixture
def doomed(pulsar: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str) -> KilledWorker:
    action = unique_name()
    broker = BROKER.format(pulsar.address, pulsar.admin_address, action)
    return KilledWorker(tmp_path, action, anyio_backend, broker, TROUBLE)


@pytest.mark.timeout(180)
async def test_killed_and_frozen_workers_lose_nothing(pulsar: Broker, doomed: KilledWorker) -> None:
    async with opened(options(pulsar)) as driver:
        await doomed.lose_nothing(driver, also={1_700: signal.SIGSTOP, 1_900: signal.SIGCONT})


async def test_until_idle_ends_when_everything_is_done_retries_included(pulsar: Broker, doomed: KilledWorker) -> None:
    count = 500
    async with opened(options(pulsar)) as driver:
        await publish(driver, doomed.channel, *[b"%d" % number for number in range(count)])
        code = await anyio.to_thread.run_sync(lambda: doomed.start("--until-idle").wait())
    assert (code, doomed.seen()) == (0, set(range(count)))


async def test_a_slow_line_takes_nothing_from_who_has_it_in_flight(
    pulsar: Broker, unique_name: Name, open_proxy: Callable[[Broker], Any]
) -> None:
    proxy, one = open_proxy(pulsar), spec(unique_name())
    proxied = options(pulsar, url=pulsar.proxied_address, listener_name="proxied")
    async with opened(options(pulsar)) as sender, opened(proxied) as driver, subscribed(driver, one) as source:
        await crawl(PatientConsumer(source), sender, one.channels[0], proxy)


async def test_one_slow_key_keeps_the_other_lanes_from_nothing(
    pulsar: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str
) -> None:
    action, count, lanes = unique_name(), 5_000, 16
    settings = f"{BROKER.format(pulsar.address, pulsar.admin_address, action)}[subscriptions.{action}]\n"
    worker = KilledWorker(tmp_path, action, anyio_backend, f'{settings}order_by = "key"\nconcurrency = {lanes}\n', SLOW)
    keys = [b"slow", *[b"k%d" % (number % 500) for number in range(1, count)]]
    free = {number for number, key in enumerate(keys) if stripe_of(key, 0, lanes) != stripe_of(b"slow", 0, lanes)}
    async with opened(options(pulsar)) as driver:
        messages = [Message(channel=worker.channel, payload=b"%d" % number, key=key) for number, key in enumerate(keys)]
        await confirmed(driver, messages)
        process = worker.start()
        try:
            with anyio.fail_after(60):
                while not free <= worker.seen():
                    await anyio.sleep(0.1)
            assert 0 not in worker.seen()
        finally:
            process.kill()
            process.wait()
