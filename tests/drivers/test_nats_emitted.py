"""Emits to channels that no stream keeps: streams are made for subscriptions, and for emits only when asked."""

from collections.abc import Callable
from pathlib import Path

import anyio
import nats as client_library
import pytest

from hexa_worker.config.load import load_config
from hexa_worker.config.nats import NatsStream
from hexa_worker.core.message import Message
from hexa_worker.drivers.nats import NatsDriver
from hexa_worker.drivers.opening import channels_of
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable
from tests.drivers.consuming import ack, kept_open, patiently, publish, spec, subscribed, take
from tests.drivers.nats_tools import opened, options
from tests.lab.base import Broker

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def emit(driver: NatsDriver, *channels: str) -> list[str | DriverError]:
    return [answer for one in channels for answer in await driver.publish([Message(channel=one, payload=b"x")])]


async def test_an_emit_to_a_channel_that_nobody_reads_is_refused_and_makes_nothing(
    nats: Broker, unique_name: Name
) -> None:
    name = unique_name()
    async with opened(nats.address, create_emitted_channels=False) as driver:
        await driver.declare([spec(name)])
        typo, right = await emit(driver, f"{name}.inn", f"{name}.in")
        assert isinstance(typo, DriverRejected)
        assert "is it spelled right?" in str(typo)
        assert "create_emitted_channels" in str(typo)
        assert isinstance(right, str)
        assert f"{name}.inn" not in await driver.channels()


async def test_an_emit_to_what_another_service_or_a_named_stream_keeps_is_stored(
    nats: Broker, unique_name: Name
) -> None:
    name = unique_name()
    streams = (NatsStream(name=name.upper(), subjects=(f"{name}.results.>",)),)
    async with opened(nats.address, create_emitted_channels=False, streams=streams) as driver:
        async with opened(nats.address) as other:
            await other.declare([spec(f"{name}-other")])
        channels = [f"{name}-other.in", *[f"{name}.results.{number}" for number in range(20)]]
        answers = await emit(driver, *channels)
        assert all(isinstance(answer, str) for answer in answers), answers
        assert {str(answer).rpartition("-")[0] for answer in answers[1:]} == {name.upper()}


async def test_an_emit_to_a_channel_that_a_pattern_of_ours_matches_makes_its_stream(
    nats: Broker, unique_name: Name
) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=f"{name}\\.in\\..*", start="latest")
    async with opened(nats.address, create_emitted_channels=False) as driver, subscribed(driver, one) as source:
        await publish(driver, f"{name}.in.new", b"1")
        assert [got.payload for got in await take(source, 1)] == [b"1"]


async def test_what_a_foreign_stream_kept_is_waited_for_while_it_is_deleted(nats: Broker, unique_name: Name) -> None:
    name = unique_name()
    one = spec(name, channels=(f"{name}.in", f"{name}.other"))
    stream = one.channels[0].replace(".", "~")
    client = await client_library.connect(nats.address)
    foreign = client.jetstream()
    await foreign.add_stream(name=stream, subjects=[one.channels[0]])
    await foreign.add_stream(name=f"{stream}-other", subjects=[one.channels[1]])
    async with opened(nats.address, create_channels=False, timeout_s=1.0) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1")
        await ack(source, await take(source, 1))
        await foreign.delete_stream(stream)
        with anyio.fail_after(10), pytest.raises(DriverUnavailable, match="was deleted; waiting"):
            await source.receive(1, 1000)
        await publish(driver, one.channels[1], b"another channel's")
        assert [got.payload for got in await take(source, 1)] == [b"another channel's"]
        for _ in range(2):
            with pytest.raises(DriverUnavailable, match="was deleted; waiting"):
                await emit(driver, one.channels[0])
        await foreign.add_stream(name=stream, subjects=[one.channels[0]])
        await patiently(lambda: publish(driver, one.channels[0], b"2"))
        assert [got.payload for got in await take(source, 1)] == [b"2"]
    await client.close()


async def test_emits_make_only_so_many_streams(nats: Broker, unique_name: Name) -> None:
    name = unique_name()
    async with opened(nats.address, max_emitted_channels=1) as driver:
        answers = await emit(driver, *[f"{name}.{number}" for number in range(3)])
        assert isinstance(answers[-1], DriverRejected)
        assert "max_emitted_channels = 1" in str(answers[-1])
        assert "broker.streams" in str(answers[-1])


async def test_an_emitter_keeps_what_it_emits_to_a_subscription_of_its_worker_toml(
    nats: Broker, unique_name: Name, tmp_path: Path
) -> None:
    channel = f"{unique_name()}.in"
    file = tmp_path / "worker.toml"
    file.write_text(
        f'[worker]\nname = "w"\nhandlers = ["x"]\n[broker]\ndriver = "nats"\nservers = ["{nats.address}"]\n'
        f'[subscriptions.a]\nchannel = "{channel}"\n'
    )
    driver = NatsDriver(
        options(nats.address, create_emitted_channels=False), None, None, channels_of(load_config(file))
    )
    async with kept_open(driver):
        (answer,) = await emit(driver, channel)
        assert isinstance(answer, str)


async def test_markers_that_a_server_leaves_for_expired_messages_are_no_events(nats: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    stream = one.channels[0].replace(".", "~")
    async with opened(nats.address) as driver:
        await driver.inner._connection.api(
            f"STREAM.CREATE.{stream}",
            name=stream,
            subjects=[one.channels[0]],
            allow_msg_ttl=True,
            max_age=1_000_000_000,
            subject_delete_marker_ttl=60_000_000_000,
        )
        await publish(driver, one.channels[0], b"expires")
        with anyio.fail_after(10):
            while not [each for each in await driver.browse(one.channels[0], 1, 10) if not each.payload]:
                await anyio.sleep(0.1)
        async with subscribed(driver, one) as source:
            await publish(driver, one.channels[0], b"event")
            assert [got.payload for got in await take(source, 1)] == [b"event"]
            with anyio.fail_after(10):
                while (await source.backlog()).leased > 1:
                    await anyio.sleep(0.05)
