"""What an operator allows: JetStream that is away, accounts that ask for sizes, streams with limits of their own."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import nats as client_library
import psutil
import pytest

from hexa_worker.config.nats import Nats as Options
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.nats import NatsDriver
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.drivers.consuming import ack, patiently, publish, spec, subscribed, take
from tests.drivers.killed_worker import KilledWorker
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker
from tests.lab.nats import Nats

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]
SIZED = """
accounts {
  SIZED { jetstream: { max_bytes_required: true, max_file: 100MB, max_streams: 4 }, users: [{ user: "a" }] }
}
no_auth_user: "a"
"""
SIZES = {"max_bytes": 1_000_000, "retry_max_bytes": 1_000_000, "dead_letter_max_bytes": 1_000_000}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def own(nats: Broker, tmp_path: Path) -> Iterator[Callable[[str], Nats]]:
    """Function that starts a server of the test's own; `nats` has fetched it."""
    del nats
    started: list[Nats] = []

    def start(extra: str = "") -> Nats:
        broker = Nats(tmp_path / "server", extra=extra)
        started.append(broker)
        broker.start()
        return broker

    yield start
    for broker in started:
        broker.kill()


async def problems(driver: NatsDriver, one: SubscriptionSpec) -> list[str]:
    return [found.problem for found in await driver.preflight(one) if found.problem]


async def test_jetstream_that_is_away_for_a_while_is_waited_for(own: Callable[[], Nats], unique_name: Name) -> None:
    broker, one = own(), spec(unique_name())
    async with opened(broker.address, timeout_s=1.0) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1")
        await ack(source, await take(source, 1))
        broker.jetstream = False
        await anyio.to_thread.run_sync(broker.restart)
        with pytest.raises(DriverUnavailable):
            await driver.publish([Message(channel=one.channels[0], payload=b"x")])
        with anyio.fail_after(10), pytest.raises(DriverUnavailable):
            await source.receive(1, 1000)
        broker.jetstream = True
        await anyio.to_thread.run_sync(broker.restart)
        await patiently(lambda: publish(driver, one.channels[0], b"2"))
        assert {got.payload for got in await take(source, 1)} == {b"2"}


async def test_jetstream_that_was_never_there_is_said_at_the_start(own: Callable[[], Nats], unique_name: Name) -> None:
    broker = own()
    broker.jetstream = False
    await anyio.to_thread.run_sync(broker.restart)
    async with opened(broker.address) as driver:
        with pytest.raises(DriverRejected, match="JetStream is not enabled"):
            await driver.declare([spec(unique_name())])


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
async def test_numbers_that_a_stream_gives_again_after_a_backup_was_put_back_are_read(
    own: Callable[[], Nats], unique_name: Name, tmp_path: Path, order_by: OrderBy
) -> None:
    broker, one = own(), spec(unique_name(), order_by=order_by)
    channel = one.channels[0]

    async def handled(*payloads: bytes) -> None:
        async with opened(broker.address) as driver, subscribed(driver, one) as source:
            await publish(driver, channel, *payloads)
            got = await take(source, len(payloads))
            assert [each.payload for each in got] == list(payloads)
            await ack(source, got)

    def copy(source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)

    await handled(b"1", b"2")
    await anyio.to_thread.run_sync(broker.stop)
    (stream,) = (broker.root / "data").glob(f"jetstream/*/streams/{channel.replace('.', '~')}")
    copy(stream, tmp_path / "backup")
    await anyio.to_thread.run_sync(broker.start)
    await handled(b"3", b"4", b"5")
    await anyio.to_thread.run_sync(broker.stop)
    copy(tmp_path / "backup", stream)
    await anyio.to_thread.run_sync(broker.start)
    await handled(b"6", b"7")


async def test_an_account_that_asks_for_sizes_is_served_with_them(
    own: Callable[[str], Nats], unique_name: Name
) -> None:
    broker, one = own(SIZED), spec(unique_name(), order_by=OrderBy.KEY)
    async with opened(broker.address) as driver:
        assert any("the account asks for a size" in problem for problem in await problems(driver, one))
        with pytest.raises(DriverRejected, match=r"set broker\.retry_max_bytes"):
            await driver.declare([one])
    async with opened(broker.address, **SIZES, lease_max_bytes=1_000_000) as driver:
        assert await problems(driver, one) == []
        async with subscribed(driver, one) as source:
            await publish(driver, one.channels[0], b"1")
            await ack(source, await take(source, 1))
        told = (await driver.inspect())["jetstream"]
        assert "4 of 4 streams" in told
        assert "every stream needs a size" in told
        assert any("has all of the 4 streams" in problem for problem in await problems(driver, spec(unique_name())))


async def test_without_a_size_for_positions_what_needs_no_order_is_served(
    own: Callable[[str], Nats], unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    broker, one = own(SIZED), spec(unique_name())
    async with opened(broker.address, **SIZES) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1")
        await ack(source, await take(source, 1))
    assert "positions are not noted" in caplog.text
    assert "broker.lease_max_bytes" in caplog.text


async def test_messages_kept_for_less_than_the_window_of_their_ids_shorten_it(nats: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(nats.address, max_age_s=60.0) as driver:
        await publish(driver, one.channels[0], b"1")
        await driver.declare([one])


def test_an_age_that_no_server_takes_is_a_mistake_in_the_file() -> None:
    with pytest.raises(msgspec.ValidationError, match="max_age_s"):
        msgspec.convert({"driver": "nats", "max_age_s": 0.01}, Options)


@pytest.mark.parametrize("kind", ["retry", "dlq"])
async def test_limits_of_an_operator_are_accepted_and_said(nats: Broker, unique_name: Name, kind: str) -> None:
    one = spec(unique_name())
    async with opened(nats.address) as driver:
        await driver.declare([one])
        client = await client_library.connect(nats.address)
        name = f"{one.retry_base}~~{kind}"

        async def api(action: str, body: bytes = b"") -> dict[str, Any]:
            answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{action}.{name}", body)).data)
            assert "error" not in answer, answer
            return answer

        config = (await api("STREAM.INFO"))["config"]
        limited = {**config, "max_age": 3_600_000_000_000, "max_bytes": 1_000_000}
        await api("STREAM.UPDATE", json.dumps(limited).encode())
        await client.close()
    async with opened(nats.address) as driver:
        await driver.declare([one])
        (warning,) = [found.warning for found in await driver.preflight(one) if found.warning]
        assert await problems(driver, one) == []
    assert "older than 3600 s" in warning
    assert "max_bytes = 1000000" in warning


async def test_a_process_that_begins_while_jetstream_is_off_waits_where_another_has_run(
    own: Callable[[], Nats], unique_name: Name, tmp_path: Path, anyio_backend: str
) -> None:
    broker, project = own(), tmp_path / "project"
    project.mkdir()
    worker = KilledWorker(project, unique_name(), anyio_backend, f'driver = "nats"\nservers = ["{broker.address}"]\n')
    process = worker.start()

    async def wait_for(reached: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not reached():
                assert process.poll() is None, (project / "log").read_text()
                await anyio.sleep(0.05)

    def log_says(text: str, times: int = 1) -> bool:
        return (project / "log").read_text().count(text) >= times

    try:
        await wait_for(lambda: log_says("worker process is ready"))
        broker.jetstream = False
        await anyio.to_thread.run_sync(broker.restart)
        (child,) = psutil.Process(process.pid).children()
        child.kill()
        await wait_for(lambda: log_says("refuses what it took before"))
        broker.jetstream = True
        await anyio.to_thread.run_sync(broker.restart)
        await wait_for(lambda: log_says("worker process is ready", 2))
        async with opened(broker.address) as driver:
            await publish(driver, worker.channel, b"1")
        await wait_for(lambda: worker.seen() == {1})
    finally:
        process.terminate()
        assert process.wait(30) == 0
