"""A consumer that lives through an outage of its broker, and the claim that it goes on soon."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import anyio

from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Driver, Source
from hexa_worker.errors import DriverUnavailable
from tests.drivers.consuming import PLENTY, ack, confirmed, patiently, publish, take
from tests.lab.proxy import Proxy

BACK_S = 10.0
"""Consuming again this soon after the broker is back."""


class Consumer:
    """Receives and acknowledges in the background, and notes when what came."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen: dict[bytes, float] = {}
        self.order: list[bytes] = []
        self.unavailable = 0
        self.unsettled = 0

    @property
    def told(self) -> bool:
        """Whether the source said that its broker is away: an outage may meet it while it settles, and only there."""
        return bool(self.unavailable or self.unsettled)

    async def run(self) -> None:
        """Until the source is stopped."""
        while True:
            try:
                batch = await self.source.receive(500, PLENTY)
                if not batch:
                    return
                for one in batch:
                    self.seen.setdefault(one.payload, time.monotonic())
                    self.order.append(one.payload)
                await self.settle([Acked(one) for one in batch])
            except DriverUnavailable:
                self.unavailable += 1
                await anyio.sleep(0.1)

    async def settle(self, settlements: list[Acked]) -> None:
        """Once the broker is there; what did not take effect comes again."""

        async def settle() -> None:
            try:
                left = await self.source.settle(settlements)
            except DriverUnavailable:
                self.unsettled += 1
                raise
            self.unsettled += sum(isinstance(one.error, DriverUnavailable) for one in left)

        await patiently(settle, 120)

    async def wait(self, payloads: set[bytes], within_s: float) -> None:
        """Until they all came."""
        with anyio.fail_after(within_s):
            while not payloads <= self.seen.keys():
                await anyio.sleep(0.02)


class Outage(NamedTuple):
    """What is done to a broker, how it is undone, and how long that is later."""

    spoil: Callable[[], object]
    mend: Callable[[], object]
    away_s: float


async def emit(driver: Driver, message: Callable[[int], Message], numbers: range) -> set[bytes]:
    """Publish the message of each number, one by one, each until it is confirmed; returns their payloads."""
    messages = [message(number) for number in numbers]
    for one in messages:
        await patiently(partial(confirmed, driver, [one]), 120)
    return {one.payload for one in messages}


def keyed(channel: str) -> Callable[[int], Message]:
    """Messages of seven keys."""
    return lambda number: Message(channel=channel, payload=b"%d" % number, key=b"%d" % (number % 7))


async def outlive(
    consumer: Consumer, driver: Driver, message: Callable[[int], Message], outage: Outage, within_s: float = 30
) -> None:
    """Consume before and after an outage."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        await consumer.wait(await emit(driver, message, range(50)), 20)
        await anyio.to_thread.run_sync(outage.spoil)
        await anyio.sleep(outage.away_s)
        await anyio.to_thread.run_sync(outage.mend)
        back = time.monotonic()
        expected = await emit(driver, message, range(50, 100))
        await consumer.wait(expected, within_s)
        consumer.source.stop()
    late_s = min(consumer.seen[payload] for payload in expected) - back
    assert late_s < BACK_S, f"consuming went on {late_s:.1f} s after the broker was back"


async def crawl(consumer: Consumer, sender: Driver, channel: str, proxy: Proxy) -> None:
    """Consume over a line that is slow for longer than the broker's patience with a silent consumer.

    Args:
        consumer: behind `proxy`.
        sender: not behind it.
        channel: what the consumer reads.
        proxy: made slow.
    """
    await publish(sender, channel, b"in hand")
    held = await take(consumer.source, 1)
    proxy.delay(0.05)
    proxy.throttle(60_000)
    proxy.slice(1_000)
    payloads = [b"%04d" % number + b"x" * 1_000 for number in range(300)]  # 5 s on that line
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        for start in range(0, len(payloads), 50):  # what lies ahead of an answer on the line delays it
            await publish(sender, channel, *payloads[start : start + 50])
            await consumer.wait(set(payloads[: start + 50]), 60)
        await ack(consumer.source, held)
        consumer.source.stop()
    assert sorted(consumer.order) == payloads, "something came twice: the broker gave this consumer up"
    assert not consumer.unavailable
