"""Every claim store against one model: two workers, copies, crashes, leases that run out, a store that forgets."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from anyio.from_thread import BlockingPortal
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from hexa_worker.config.dedup import Dedup
from hexa_worker.config.secret import Secret
from hexa_worker.dedup.embedded import EmbeddedClaims
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.dedup.redis import RedisClaims
from tests.brokers.base import Broker
from tests.dedup.model import LEASE_S, FakeClock, machine_of

QUICK = settings(max_examples=25, stateful_step_count=20, deadline=None)


class MemoryWorld:
    def __init__(self, _portal: BlockingPortal) -> None:
        self.clock = FakeClock()
        self.store = MemoryClaims(lease_s=LEASE_S, clock=self.clock)

    def expire_leases(self, _portal: BlockingPortal) -> None:
        self.clock.ms += round(LEASE_S * 1000) + 1

    def flush(self, _portal: BlockingPortal) -> None:
        self.clock.ms += 1_000
        self.store.entries.clear()

    def close(self, _portal: BlockingPortal) -> None:
        pass


class EmbeddedWorld:
    def __init__(self, portal: BlockingPortal) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.store = EmbeddedClaims(Path(self.folder.name) / "claims.db", lease_s=LEASE_S, clock=self.clock)
        portal.call(self.store.open)

    def expire_leases(self, _portal: BlockingPortal) -> None:
        self.clock.ms += round(LEASE_S * 1000) + 1

    def flush(self, portal: BlockingPortal) -> None:
        self.clock.ms += 1_000
        portal.call(self.store.close)
        self.store.path.unlink(missing_ok=True)

    def close(self, portal: BlockingPortal) -> None:
        portal.call(self.store.close)
        self.folder.cleanup()


class RedisWorld:
    def __init__(self, portal: BlockingPortal, url: str) -> None:
        self.admin = redis_client.Redis.from_url(url)
        self.admin.flushall()
        self.store = RedisClaims(Dedup(store="redis", url=Secret(url), lease_s=LEASE_S))
        portal.call(self.store.open)

    def expire_leases(self, _portal: BlockingPortal) -> None:
        for key in self.admin.keys("hexa:dedup:*"):
            if self.admin.get(key).startswith(b"h:"):
                self.admin.pexpire(key, -1)

    def flush(self, _portal: BlockingPortal) -> None:
        self.admin.flushall()

    def close(self, portal: BlockingPortal) -> None:
        portal.call(self.store.close)
        self.admin.close()


@pytest.mark.parametrize("world", [MemoryWorld, EmbeddedWorld])
def test_a_store_gives_each_effect_to_one_owner_at_a_time(world: Callable[[BlockingPortal], Any]) -> None:
    run_state_machine_as_test(machine_of(world), settings=QUICK)


@pytest.mark.redis
def test_redis_gives_each_effect_to_one_owner_at_a_time(redis: Broker) -> None:
    run_state_machine_as_test(machine_of(lambda portal: RedisWorld(portal, redis.address)), settings=QUICK)
