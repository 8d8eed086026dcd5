"""A process's part in events for later: what it has published it acknowledges, or it would be moved twice."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Revoked, Source, SubscriptionSpec, Unsettled
from hexa_worker.drivers.kit.later import AT_ONCE_MS
from hexa_worker.drivers.kit.mover import Movers
from hexa_worker.errors import DriverUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
SPEC = SubscriptionSpec(action="do", group="do", channels=("work",), retry_base="do", retry_count=0)
RECORD = Delivery(channel="hexa-later.work.retry.1", payload=b"x", source="later", offset=0, attempt=1)


class Ladder:
    """A ladder with one record that is due, and the broker that it is published to."""

    def __init__(self) -> None:
        self.records = [RECORD]
        self.stored: list[Message] = []
        self.settled: list[Settlement] = []
        self.storing, self.may_store = asyncio.Event(), asyncio.Event()
        self.unavailable = 0
        self.revoked: Revoked

    # -- as the mover's driver

    async def with_ladder(self, specs: Sequence[SubscriptionSpec]) -> Collection[str]:
        return [name for spec in specs for name in spec.channels]

    async def read_ladder(self, _spec: SubscriptionSpec, revoked: Revoked) -> Source:
        self.revoked = revoked
        return cast("Source", self)

    async def store(self, messages: Sequence[Message]) -> Sequence[str]:
        self.storing.set()
        await self.may_store.wait()
        self.stored += messages
        return ["id"] * len(messages)

    # -- as its source

    async def receive(self, _count: int, _size: int) -> list[Delivery]:
        while not self.records:
            await asyncio.sleep(3600)
        return [self.records.pop()]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        if self.unavailable:
            self.unavailable -= 1
            raise DriverUnavailable("no word from the coordinator")
        self.settled += settlements
        return ()

    async def close(self) -> None:
        """Nothing to end."""


def moving(ladder: Ladder) -> Movers:
    movers = Movers(cast("Any", ladder), SystemClock(), AT_ONCE_MS, lambda: 1_000_000)
    movers.watch(SPEC)
    return movers


async def test_what_is_being_published_when_the_driver_closes_is_acknowledged_first() -> None:
    ladder = Ladder()
    movers = moving(ladder)
    await asyncio.wait_for(ladder.storing.wait(), 5)
    closing = asyncio.ensure_future(movers.close())
    await asyncio.sleep(0)
    ladder.may_store.set()
    await asyncio.wait_for(closing, 5)
    assert (len(ladder.stored), len(ladder.settled)) == (1, 1)


async def test_who_takes_a_ladder_away_waits_until_what_is_published_is_acknowledged() -> None:
    ladder = Ladder()
    movers = moving(ladder)
    await asyncio.wait_for(ladder.storing.wait(), 5)
    revoking = asyncio.ensure_future(cast("Any", ladder.revoked(frozenset({"later"}))))
    await asyncio.sleep(0.01)
    assert not revoking.done()
    ladder.may_store.set()
    await asyncio.wait_for(revoking, 5)
    assert len(ladder.settled) == 1
    await movers.close()


async def test_what_cannot_be_acknowledged_for_a_moment_is_not_published_again() -> None:
    ladder = Ladder()
    ladder.unavailable = 2
    ladder.may_store.set()
    movers = moving(ladder)
    async with asyncio.timeout(10):
        while not ladder.settled:
            await asyncio.sleep(0.01)
    assert len(ladder.stored) == 1
    await movers.close()
