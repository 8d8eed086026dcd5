"""Claims on real Redis servers that are lost, frozen, flushed, slow, read-only, secured or a cluster."""

import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis as redis_client

from hexa_worker.config.dedup import Dedup, DedupTls
from hexa_worker.config.secret import Secret
from hexa_worker.core.claims import SKIP, WAIT, Answer, Ask, Ending, Granted, GrantedClaim
from hexa_worker.dedup.redis import RedisClaims
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.lab.base import Broker
from tests.lab.logins import LIMITED, LIMITED_PASSWORD, PASSWORD
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
TIMEOUT_S = 0.5


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisClaims]:
    store = RedisClaims(Dedup(store="redis", url=Secret(url), timeout_s=TIMEOUT_S, **options))
    try:
        await store.open()
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


async def claim(store: RedisClaims, key: str, owner: str = "me:1", attempt: int = 0) -> Answer:
    (answer,) = await store.claim([Ask(key, owner, attempt)])
    return answer


async def finish(store: RedisClaims, key: str, answer: Answer, owner: str = "me:1") -> bool:
    assert isinstance(answer, Granted)
    (own,) = await store.end([Ending(GrantedClaim(key, owner, answer.fence, 0), None, 60_000)])
    return own


async def test_a_thousand_claims_of_one_batch_keep_their_order(redis: Broker, unique_name: Callable[..., str]) -> None:
    async with opened(redis.address) as store:
        name = unique_name()
        asks = [Ask(f"{name}-{number // 2}", f"me:{number}", 0) for number in range(2_000)]
        answers = await store.claim(asks)
        assert all(isinstance(one, Granted) for one in answers[::2])
        assert all(one is WAIT for one in answers[1::2])
        runs = [(ask, one) for ask, one in zip(asks, answers, strict=True) if isinstance(one, Granted)]
        held = [GrantedClaim(ask.key, ask.owner, one.fence, 0) for ask, one in runs]
        assert all(await store.end([Ending(one, None, 60_000) for one in held]))
        assert all(one is SKIP for one in await store.claim(asks))


async def test_a_server_that_evicts_claims_is_told_at_the_start(
    redis: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_client.Redis.from_url(redis.address)
    try:
        for limit, policy, told in (
            ("100mb", "allkeys-lru", True),
            ("100mb", "volatile-ttl", True),
            ("100mb", "noeviction", False),
            ("0", "allkeys-lru", False),
        ):
            server.config_set("maxmemory", limit)
            server.config_set("maxmemory-policy", policy)
            caplog.clear()
            async with opened(redis.address) as store:
                warnings = await store.preflight()
            assert [policy in one for one in warnings] == ([True] if told else [])
            assert [one.message for one in caplog.records if "evicts" in one.message] == warnings
    finally:
        server.config_set("maxmemory", "0")
        server.config_set("maxmemory-policy", "noeviction")
        server.close()


async def test_a_lost_server_is_told_at_once_and_found_again(redis: Broker, unique_name: Callable[..., str]) -> None:
    name = unique_name()
    async with opened(redis.address) as store:
        answer = await claim(store, name)
        redis.kill()
        began = time.monotonic()
        with pytest.raises(DriverUnavailable):
            await finish(store, name, answer)
        assert time.monotonic() - began < 1.5
        redis.start()
        assert await finish(store, name, answer)
        assert await claim(store, name, "other:1") is SKIP


async def test_connections_that_were_closed_while_they_were_idle_are_no_outage(
    redis: Broker, unique_name: Callable[..., str]
) -> None:
    name = unique_name()
    async with opened(redis.address) as store:
        await claim(store, name)
        async with anyio.create_task_group() as group:  # so that there are several connections
            for number in range(5):
                group.start_soon(claim, store, f"{name}-{number}")
        with redis_client.Redis.from_url(redis.address) as admin:
            for _ in range(3):
                admin.client_kill_filter(_type="normal", skipme=True)
                assert await claim(store, name, "other:1") is WAIT


async def test_a_frozen_server_costs_no_more_than_the_timeout(redis: Broker, unique_name: Callable[..., str]) -> None:
    name = unique_name()
    async with opened(redis.address) as store:
        redis.freeze()
        began = time.monotonic()
        with pytest.raises(DriverUnavailable):
            await claim(store, name)
        assert time.monotonic() - began < 3 * TIMEOUT_S
        redis.thaw()
        with anyio.fail_after(5):
            answer = await _until_back(lambda: claim(store, name))
        assert isinstance(answer, Granted), "asking again under the same name is harmless"


async def _until_back(call: Callable[[], Any]) -> Any:
    while True:
        try:
            return await call()
        except DriverUnavailable:
            await anyio.sleep(0.05)


async def test_a_flushed_server_has_forgotten_but_its_fences_still_rise(
    redis: Broker, unique_name: Callable[..., str]
) -> None:
    name = unique_name()
    async with opened(redis.address) as store:
        first = await claim(store, name)
        with redis_client.Redis.from_url(redis.address) as admin:
            admin.flushall()
            admin.script_flush()
        second = await claim(store, name, "other:1")
        assert isinstance(first, Granted)
        assert isinstance(second, Granted)
        assert second.fence > first.fence
        assert not await finish(store, name, first), "somebody else has it by now"
        assert await finish(store, name, second, "other:1")


async def test_a_slow_server_counts_as_away_and_its_late_answers_confuse_nobody(
    redis: Broker, open_proxy: Callable[[Broker], Proxy], unique_name: Callable[..., str]
) -> None:
    proxy = open_proxy(redis)
    async with opened(f"redis://{proxy.address}/0") as store:
        proxy.delay(2 * TIMEOUT_S)
        with pytest.raises(DriverUnavailable):
            await claim(store, unique_name())
        proxy.heal()
        for _ in range(20):
            name = unique_name()
            answer = await _until_back(lambda name=name: claim(store, name))  # type: ignore[misc]  # mypy and defaults
            assert isinstance(answer, Granted)
            assert await claim(store, name, "other:1") is WAIT


async def test_a_cancelled_call_leaves_the_connection_in_step(redis: Broker, unique_name: Callable[..., str]) -> None:
    async with opened(redis.address, connections=1) as store:
        for number in range(100):
            with anyio.move_on_after(number * 0.00002):
                await claim(store, unique_name())
        name = unique_name()
        assert isinstance(await claim(store, name), Granted)
        assert await claim(store, name, "other:1") is WAIT


async def test_a_master_that_becomes_a_replica_is_asked_again_until_it_may_write(
    redis: Broker, unique_name: Callable[..., str]
) -> None:
    name = unique_name()
    async with opened(redis.address) as store:
        with redis_client.Redis.from_url(redis.address) as admin:
            admin.replicaof("127.0.0.1", "1")
            try:
                with pytest.raises(DriverUnavailable):
                    await claim(store, name)
            finally:
                admin.replicaof("NO", "ONE")
        assert isinstance(await claim(store, name), Granted)


# -- security


@pytest.fixture
def secure(get_broker: Callable[[str], Broker]) -> Any:
    return get_broker("redis-secure")


async def test_tls_with_a_password_works(secure: Any, unique_name: Callable[..., str]) -> None:
    tls = DedupTls(ca_file=str(secure.certificates.ca))
    async with opened(secure.tls_address, password=Secret(PASSWORD), tls=tls) as store:
        assert isinstance(await claim(store, unique_name()), Granted)


@pytest.mark.parametrize("password", ["wrong-5e1f", None])
async def test_a_wrong_password_is_rejected_and_not_shown(secure: Any, password: str | None) -> None:
    tls = DedupTls(ca_file=str(secure.certificates.ca))
    secret = None if password is None else Secret(password)
    with pytest.raises(DriverRejected) as caught:
        async with opened(secure.tls_address, password=secret, tls=tls):
            pass
    assert "wrong-5e1f" not in repr(caught.value) + str(caught.value.__cause__)


async def test_a_login_that_may_not_write_is_rejected_at_the_start(secure: Any) -> None:
    with_login = secure.address.replace("redis://", f"redis://{LIMITED}:{LIMITED_PASSWORD}@")
    with pytest.raises(DriverRejected):
        async with opened(with_login):
            pass


@pytest.mark.parametrize("name", ["redis-secure", "redis-expired", "redis-wrong-host"])
async def test_a_certificate_that_cannot_be_trusted_is_rejected(get_broker: Callable[[str], Broker], name: str) -> None:
    server: Any = get_broker(name)
    tls = None if name == "redis-secure" else DedupTls(ca_file=str(server.certificates.ca))
    with pytest.raises(DriverRejected):
        async with opened(server.tls_address, password=Secret(PASSWORD), tls=tls):
            pass


# -- a cluster


@pytest.fixture(scope="module")
def cluster(redis: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """Two masters; the ports are asked for after the lab has found that there is a redis-server."""
    ports = [_free_port() for _ in range(2)]
    servers = [_start_node(tmp_path_factory.mktemp(f"node-{port}"), port) for port in ports]
    try:
        clients: list[Any] = [redis_client.Redis(port=port) for port in ports]
        for client in clients:
            _until(client.ping)
        clients[0].execute_command("CLUSTER ADDSLOTSRANGE 0 8191")
        clients[1].execute_command("CLUSTER ADDSLOTSRANGE 8192 16383")
        clients[0].execute_command(f"CLUSTER MEET 127.0.0.1 {ports[1]}")
        for client in clients:
            _until(partial(_is_whole, client))
        yield ports
    finally:
        for server in servers:
            server.kill()
            server.wait()


def _free_port() -> int:
    """A port that is free together with the one that nodes talk on, 10,000 above."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                bus.bind(("127.0.0.1", port - 10_000))
            except (OSError, OverflowError):
                continue
            return port - 10_000


def _start_node(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    options = f"--port {port} --bind 127.0.0.1 --cluster-enabled yes --save '' --dir {folder}".split()
    return subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)


def _is_whole(client: Any) -> bool:
    whole: bool = client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
    return whole and len(client.execute_command("CLUSTER SLOTS")) == 2


def _until(look: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if look():
                return
        except redis_client.RedisError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_cluster_keeps_the_claims_of_a_batch_on_all_its_nodes(
    cluster: list[int], unique_name: Callable[..., str]
) -> None:
    name = unique_name()
    async with opened(f"redis://127.0.0.1:{cluster[0]}", cluster=True) as store:
        asks = [Ask(f"{name}-{number}", f"me:{number}", 0) for number in range(300)]
        answers = await store.claim(asks)
        assert all(isinstance(one, Granted) for one in answers)
        held = [
            GrantedClaim(ask.key, ask.owner, one.fence, 0)
            for ask, one in zip(asks, answers, strict=True)
            if isinstance(one, Granted)
        ]
        assert all(await store.extend(held))
        assert all(await store.end([Ending(one, None, 60_000) for one in held[:150]]))
        again = await store.claim([Ask(ask.key, "other:1", 0) for ask in asks])
        assert list(again) == [SKIP] * 150 + [WAIT] * 150
    sizes = [redis_client.Redis(port=port).dbsize() for port in cluster]
    assert all(sizes), "one node keeps everything"
