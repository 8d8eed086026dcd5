"""A Pulsar broker that dies, freezes or is cut off, and workers that die and freeze: nothing is lost."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.pulsar import PulsarDriver
from hexa_worker.errors import DriverUnavailable
from tests.brokers.base import Broker
from tests.drivers.pulsar_tools import PLENTY, opened, options, patiently, publish, spec, subscribed

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio, pytest.mark.slow]
Name = Callable[..., str]
BACK_S = 10.0
"""Consuming again this soon after the broker is back."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Consumer:
    """Receives and acknowledges in the background, and notes when what came."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen: dict[bytes, float] = {}
        self.unavailable = 0

    async def run(self) -> None:
        while True:
            try:
                batch = await self.source.receive(500, PLENTY)
                if not batch:
                    return
                for one in batch:
                    self.seen.setdefault(one.payload, time.monotonic())
                await self._settle([Acked(one) for one in batch])
            except DriverUnavailable:
                self.unavailable += 1
                await anyio.sleep(0.2)

    async def _settle(self, left: list[Any]) -> None:
        while left:
            left = [one.settlement for one in await patiently(partial(self.source.settle, left), 120)]
            if left:
                await anyio.sleep(0.2)

    async def wait(self, payloads: set[bytes], within_s: float) -> None:
        with anyio.fail_after(within_s):
            while not payloads <= self.seen.keys():
                await anyio.sleep(0.02)


async def _emit(driver: PulsarDriver, channel: str, numbers: range) -> set[bytes]:
    """Publish numbers one by one, each until it is confirmed."""
    for number in numbers:
        await patiently(lambda number=number: publish(driver, channel, b"%d" % number, key=b"%d" % (number % 7)), 120)  # type: ignore[misc]
    return {b"%d" % number for number in numbers}


async def _outlives(
    driver: PulsarDriver, name: str, breaks: Callable[[], Any], mends: Callable[[], Any], outage_s: float
) -> Consumer:
    """Consume before and after an outage."""
    one = spec(name)
    async with subscribed(driver, one) as source:
        consumer = Consumer(source)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.run)
            await consumer.wait(await _emit(driver, one.channels[0], range(50)), 20)
            await anyio.to_thread.run_sync(breaks)
            await anyio.sleep(outage_s)
            await anyio.to_thread.run_sync(mends)
            back = time.monotonic()
            expected = await _emit(driver, one.channels[0], range(50, 100))
            await consumer.wait(expected, 30)
            source.stop()
        assert min(consumer.seen[payload] for payload in expected) - back < BACK_S
    return consumer


@pytest.mark.timeout(180)
@pytest.mark.parametrize("outage_s", [0.5, 20.0])
async def test_after_a_killed_broker_is_back_consuming_goes_on(
    pulsar: Broker, unique_name: Name, outage_s: float
) -> None:
    async with opened(options(pulsar)) as driver:
        consumer = await _outlives(driver, unique_name(), pulsar.kill, pulsar.start, outage_s)
    assert consumer.unavailable, "a broker that was away was never reported"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("frozen_s", [0.5, 12.0])
async def test_after_a_frozen_broker_thaws_consuming_goes_on(
    pulsar: Broker, unique_name: Name, frozen_s: float
) -> None:
    async with opened(options(pulsar)) as driver:
        consumer = await _outlives(driver, unique_name(), pulsar.freeze, pulsar.thaw, frozen_s)
    assert frozen_s < 5 or consumer.unavailable, "a broker that was away for long was never reported"


@pytest.mark.timeout(180)
async def test_after_a_black_hole_consuming_goes_on(
    pulsar: Broker, unique_name: Name, open_proxy: Callable[[Broker], Any]
) -> None:
    proxy = open_proxy(pulsar)
    proxied = options(pulsar, url=pulsar.proxied_address, listener_name="proxied")
    async with opened(proxied) as driver:
        consumer = await _outlives(driver, unique_name(), proxy.black_hole, proxy.heal, 12)
    assert consumer.unavailable, "a broker that was away was never reported"


HANDLER = """
from hexa_worker import Context, subscribe

@subscribe("{channel}", action="{action}")
async def handle(payload: int, ctx: Context) -> None:
    if payload % 100 == 7 and ctx.attempt == 0:
        raise ValueError("once")
    with open("seen", "a") as file:
        file.write(f"{{payload}}\\n")
"""


def _project(folder: Path, node: Broker, action: str, backend: str) -> None:
    (folder / "h.py").write_text(HANDLER.format(channel=f"{action}.in", action=action))
    (folder / "worker.toml").write_text(
        f'[worker]\nname = "kill"\nhandlers = ["h"]\nbackend = "{backend}"\n'
        f'[broker]\ndriver = "pulsar"\nurl = "{node.address}"\nadmin_url = "{node.admin_address}"\n'
        f"delay_tick_s = 0.1\n[subscriptions.{action}.retry]\ninitial_interval_s = 0.2\n"
    )


@pytest.mark.timeout(180)
async def test_killed_and_frozen_workers_lose_nothing(
    pulsar: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str
) -> None:
    action, count = unique_name(), 3_000
    _project(tmp_path, pulsar, action, anyio_backend)
    async with opened(options(pulsar)) as driver:
        worker = _start(tmp_path)
        try:
            for number in range(count):
                if number % 1_000 == 500:
                    worker.send_signal(signal.SIGKILL)
                    worker.wait()
                    worker = _start(tmp_path)
                if number == 1_700:
                    worker.send_signal(signal.SIGSTOP)
                if number == 1_900:
                    worker.send_signal(signal.SIGCONT)
                await publish(driver, f"{action}.in", b"%d" % number, key=b"%d" % (number % 50))
            with anyio.fail_after(60):
                while len(_seen(tmp_path)) < count:
                    await anyio.sleep(0.2)
        finally:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
            assert worker.wait(30) == 0
    assert _seen(tmp_path) == set(range(count))


async def test_until_idle_ends_when_everything_is_done_retries_included(
    pulsar: Broker, unique_name: Name, tmp_path: Path, anyio_backend: str
) -> None:
    action, count = unique_name(), 500
    _project(tmp_path, pulsar, action, anyio_backend)
    async with opened(options(pulsar)) as driver:
        await publish(driver, f"{action}.in", *[b"%d" % number for number in range(count)])
        with (tmp_path / "log").open("ab") as log:
            code = await anyio.to_thread.run_sync(
                lambda: subprocess.call(
                    [sys.executable, "-m", "hexa_worker", "run", "--until-idle"], cwd=tmp_path, stdout=log, stderr=log
                )
            )
    assert (code, _seen(tmp_path)) == (0, set(range(count)))


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "hexa_worker", "run"], cwd=folder, stdout=log, stderr=log)


def _seen(folder: Path) -> set[int]:
    try:
        return {int(line) for line in (folder / "seen").read_text().splitlines()}
    except FileNotFoundError:
        return set()
