"""Clusters: servers that were found later serve, too, and what passes by itself is no reason to worry."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.consumer import PullConsumer
from tests.drivers.nats_tools import options
from tests.lab.base import Broker
from tests.lab.nats import Nats
from tests.lab.ports import reserve_port

pytestmark = [pytest.mark.nats, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def cluster(nats: Broker, tmp_path: Path) -> Iterator[tuple[Nats, Nats]]:
    """Two servers without JetStream, which takes three; `nats` has fetched them."""
    del nats
    reserved = [reserve_port(), reserve_port()]
    ports = [one.number for one in reserved]
    members = [
        Nats(
            tmp_path / str(port),
            extra=f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: ["nats://127.0.0.1:{ports[0]}"] }}\n',
        )
        for port in ports
    ]
    for one in members:
        one.jetstream = False
        one.start()
    yield members[0], members[1]
    for one in members:
        one.kill()
    for port in reserved:
        port.release()


async def test_when_the_only_server_that_was_named_dies_another_of_its_cluster_serves(
    cluster: tuple[Nats, Nats],
) -> None:
    seed, other = cluster
    connection = NatsConnection(options(seed.address), Path())
    await connection.open()
    try:
        with anyio.fail_after(10):
            while not connection._members:  # the routes may not stand yet
                await anyio.sleep(0.02)
        await anyio.to_thread.run_sync(seed.kill)
        with anyio.fail_after(10):
            while connection.info["port"] != other.port("client"):
                await anyio.sleep(0.02)
        assert await connection.flush(2.0)
        await anyio.to_thread.run_sync(seed.start)
        await anyio.to_thread.run_sync(other.kill)
        with anyio.fail_after(10):
            while connection.info["port"] != seed.port("client"):
                await anyio.sleep(0.02)
    finally:
        await connection.close()


@pytest.mark.parametrize(("text", "lines"), [("Leadership Change", 0), ("Exceeded MaxWaiting", 1)])
async def test_what_servers_say_of_pulls_is_not_said_at_every_pull(
    caplog: pytest.LogCaptureFixture, text: str, lines: int
) -> None:
    connection = NatsConnection(options("nats://127.0.0.1:1"), Path())
    heard: Callable[[], None] = anyio.Event().set
    pull_consumer = PullConsumer(0, connection, "stream", "durable", "channel", "", 30.0, SystemClock(), heard)
    with caplog.at_level(logging.INFO):
        for number in range(1, 178):
            pull_consumer.pull(10)
            pull_consumer._deliver([(b"inbox.%d" % number, b"", b"NATS/1.0 409 %s\r\n\r\n" % text.encode(), b"")])
    assert len(caplog.records) == lines
    assert pull_consumer.window.outstanding == 0
