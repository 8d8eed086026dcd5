"""Every claim store against one model: two workers, copies, crashes, leases that run out, a store that forgets."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis as redis_client
from anyio.from_thread import BlockingPortal
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from hexa_worker.config.dedup import Dedup
from hexa_worker.config.secret import Secret
from hexa_worker.core.claims import GrantedClaim
from hexa_worker.dedup.embedded import EmbeddedClaims
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.dedup.redis import RedisClaims
from tests.dedup.model import LEASE_S, FakeClock, machine_of
from tests.lab.base import Broker

QUICK = settings(max_examples=25, stateful_step_count=20, deadline=None)


class Clocked:
    """A world whose stores look at a clock that tests move."""

    stores: list[Any]
    clock: FakeClock

    def expire_leases(self, portal: BlockingPortal, _dead: str, alive: Sequence[GrantedClaim]) -> None:
        self.clock.ms += round(LEASE_S * 600)
        if alive:
            assert all(portal.call(self.stores[0].extend, alive))
        self.clock.ms += round(LEASE_S * 600)


class MemoryWorld(Clocked):
    """Two workers of one process: they share one store."""

    def __init__(self, _portal: BlockingPortal) -> None:
        self.clock = FakeClock()
        self.stores = [MemoryClaims(lease_s=LEASE_S, clock=self.clock)] * 2

    def crash(self, portal: BlockingPortal, worker: int) -> None:
        """Only the worker is gone."""

    def flush(self, _portal: BlockingPortal) -> None:
        self.clock.ms += 1_000
        self.stores[0].entries.clear()

    def close(self, _portal: BlockingPortal) -> None:
        pass


class EmbeddedWorld(Clocked):
    def __init__(self, portal: BlockingPortal) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.stores = [self._opened(portal), self._opened(portal)]

    def _opened(self, portal: BlockingPortal) -> EmbeddedClaims:
        store = EmbeddedClaims(Path(self.folder.name) / "claims.db", lease_s=LEASE_S, clock=self.clock)
        portal.call(store.open)
        return store

    def crash(self, portal: BlockingPortal, worker: int) -> None:
        portal.call(self.stores[worker].close)
        self.stores[worker] = self._opened(portal)

    def flush(self, portal: BlockingPortal) -> None:
        self.clock.ms += 1_000
        for store in self.stores:
            portal.call(store.close)
        self.stores[0].path.unlink(missing_ok=True)

    def close(self, portal: BlockingPortal) -> None:
        for store in self.stores:
            portal.call(store.close)
        self.folder.cleanup()


class RedisWorld:
    def __init__(self, portal: BlockingPortal, url: str) -> None:
        self.url = url
        self.admin = redis_client.Redis.from_url(url)
        self.admin.flushall()
        self.stores = [self._opened(portal), self._opened(portal)]

    def _opened(self, portal: BlockingPortal) -> RedisClaims:
        store = RedisClaims(Dedup(store="redis", url=Secret(self.url), lease_s=LEASE_S, timeout_s=10.0))
        portal.call(store.open)
        return store

    def crash(self, portal: BlockingPortal, worker: int) -> None:
        """A process that is killed ends its connections, and nothing else."""
        portal.call(self.stores[worker].close)
        self.stores[worker] = self._opened(portal)

    def expire_leases(self, portal: BlockingPortal, dead: str, alive: Sequence[GrantedClaim]) -> None:
        if alive:
            assert all(portal.call(self.stores[0].extend, alive))
        for key in self.admin.keys("hexa:dedup:*"):
            state: Any = self.admin.get(key) or b""
            phase, _, owner = state.decode().partition(":")  # the probe of `open` has just ended
            if phase == "h" and owner.split(":", 2)[2].startswith(dead):
                self.admin.pexpire(key, -1)

    def flush(self, _portal: BlockingPortal) -> None:
        self.admin.flushall()

    def close(self, portal: BlockingPortal) -> None:
        for store in self.stores:
            portal.call(store.close)
        self.admin.close()


@pytest.mark.parametrize("world", [MemoryWorld, EmbeddedWorld])
def test_a_store_gives_each_effect_to_one_owner_at_a_time(world: Callable[[BlockingPortal], Any]) -> None:
    run_state_machine_as_test(machine_of(world), settings=QUICK)


@pytest.mark.anyio
async def test_a_file_that_many_open_at_once_is_there_for_all_of_them(tmp_path: Path) -> None:
    """Switching to the write-ahead log fails at once while another process does the same."""
    for number in range(20):
        stores = [EmbeddedClaims(tmp_path / f"{number}.db", lease_s=LEASE_S, timeout_s=20.0) for _ in range(6)]
        async with anyio.create_task_group() as group:
            for store in stores:
                group.start_soon(store.open)
        for store in stores:
            await store.close()


@pytest.mark.redis
def test_redis_gives_each_effect_to_one_owner_at_a_time(redis: Broker) -> None:
    run_state_machine_as_test(machine_of(lambda portal: RedisWorld(portal, redis.address)), settings=QUICK)
