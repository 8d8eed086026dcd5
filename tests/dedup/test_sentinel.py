"""Claims on a Redis that fails over: real servers, real Sentinels; the master is killed or frozen."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import pytest

from hexa_worker import Context
from hexa_worker.config.dedup import Dedup, DedupTls
from hexa_worker.config.secret import Secret
from hexa_worker.core import lineage
from hexa_worker.core.claims import SKIP, Granted
from hexa_worker.core.idempotency import by_event
from hexa_worker.core.message import Message
from hexa_worker.dedup.redis import RedisClaims
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture
from tests.dedup.sentinels import MASTER, WATCH_PASSWORD, Watched
from tests.dedup.test_redis import claim, finish
from tests.lab.base import Broker
from tests.lab.certs import Certificates
from tests.lab.logins import PASSWORD

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
TIMEOUT_S = 0.6


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def watched(redis: Broker, tmp_path: Path) -> Iterator[Watched]:
    """Started anew for each test; the lab has found by then that there is a redis-server."""
    watched = Watched(tmp_path)
    watched.start()
    yield watched
    watched.close()


def options(watched: Watched, **more: Any) -> Dedup:
    known: dict[str, Any] = {
        "sentinels": watched.addresses,
        "master": MASTER,
        "password": Secret(PASSWORD),
        "sentinel_password": Secret(WATCH_PASSWORD),
        "timeout_s": TIMEOUT_S,
    }
    return Dedup(store="redis", **(known | more))


@asynccontextmanager
async def opened(dedup: Dedup) -> AsyncIterator[RedisClaims]:
    store = RedisClaims(dedup)
    try:
        await store.open()
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


async def first_answer(store: RedisClaims, key: str, owner: str) -> Any:
    """Ask until there is a master; every call that finds none ends in time."""
    with anyio.fail_after(40):
        while True:
            began = time.monotonic()
            try:
                return await claim(store, key, owner)
            except DriverUnavailable:
                assert time.monotonic() - began < 4 * TIMEOUT_S
                await anyio.sleep(0.05)


async def test_after_a_failover_the_replica_knows_what_was_done(watched: Watched) -> None:
    async with opened(options(watched, connections=2)) as store:
        done = await claim(store, "done")
        assert await finish(store, "done", done)
        held = await claim(store, "held")
        old = watched.master
        watched.admin(old).wait(1, 5_000)  # the replica has it
        watched.kill(old)
        with pytest.raises(DriverUnavailable):
            await claim(store, "other")
        assert await first_answer(store, "done", "other:1") is SKIP
        await anyio.to_thread.run_sync(watched.wait_for_another, old)  # the Sentinel that is asked may hear it last
        assert await finish(store, "held", held)
        again = await claim(store, "new", "other:1")
        assert isinstance(again, Granted)
        assert isinstance(held, Granted)
        assert again.fence > held.fence


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_frozen_master_is_left_for_its_successor_and_asked_no_more_when_it_wakes(watched: Watched) -> None:
    async with opened(options(watched)) as store:
        old = watched.master
        watched.freeze(watched.sentinels[0])  # the first that is asked: the others are asked within the same call
        assert isinstance(await first_answer(store, "before", "me:1"), Granted)
        watched.freeze(old)
        answer = await first_answer(store, "event", "me:1")
        assert isinstance(answer, Granted)
        new = await anyio.to_thread.run_sync(watched.wait_for_another, old)
        watched.thaw(old)
        assert await finish(store, "event", answer)
        assert await claim(store, "event", "other:1") is SKIP
        assert watched.admin(new).exists("hexa:dedup:event")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("failure", ["hold", "process"])
async def test_during_a_failover_events_are_held_or_handled_as_configured(
    watched: Watched, failure: Literal["hold", "process"], unique_name: Callable[..., str]
) -> None:
    name, seen = unique_name(), list[tuple[int, bool]]()
    stage = WorkerFixture(dedup=options(watched, on_store_failure=failure))

    async def handle(number: int, ctx: Context) -> None:
        seen.append((number, ctx.fence is not None))

    def emit_twice(number: int) -> None:
        headers = ((lineage.EVENT_ID, b"event-%d" % number),)
        for _ in range(2):
            stage.store.append(Message(channel="events", payload=msgspec.json.encode(number), headers=headers))
        stage.store.wake()

    async def settled(count: int) -> None:
        with anyio.fail_after(40):
            while len(stage.settled) < count:
                await anyio.sleep(0.01)

    async with stage.running(plan_of(handle, effect_key=lambda delivery: f"{name}:{by_event(delivery)}")):
        emit_twice(1)
        await settled(2)
        old = watched.master
        watched.admin(old).wait(1, 5_000)
        watched.kill(old)
        emit_twice(2)
        await settled(4)
        watched.wait_for_another(old)
        number = 2
        while not (seen[-1][0] > 2 and seen[-1][1]):  # the store is looked for now and then
            number += 1
            emit_twice(number)
            await settled(len(stage.settled) + 2)
        emit_twice(1)
        await settled(len(stage.settled) + 2)
    assert [one for one in seen if one[0] == 1] == [(1, True)]
    assert [one for one in seen if one[0] == 2] == ([(2, True)] if failure == "hold" else [(2, False)] * 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_servers_and_sentinels_are_reached_over_tls(redis: Broker, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certs")
    watched = Watched(tmp_path, certificates)
    watched.start()
    try:
        tls = DedupTls(ca_file=str(certificates.ca))
        async with opened(options(watched, url=Secret("rediss://nobody"), tls=tls)) as store:
            assert isinstance(await claim(store, "event"), Granted)
        with pytest.raises(DriverRejected, match="certificate"):
            async with opened(options(watched, url=Secret("rediss://nobody"))):
                pass
    finally:
        watched.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("key", ["password", "sentinel_password"])
async def test_a_wrong_password_of_server_or_sentinel_is_rejected_and_not_shown(watched: Watched, key: str) -> None:
    wrong = "wrong-5e1f"
    with pytest.raises(DriverRejected) as caught:
        async with opened(options(watched, **{key: Secret(wrong)})):
            pass
    shown = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    assert not [one for one in (wrong, PASSWORD, WATCH_PASSWORD) if one in shown]
