"""A durable that somebody else made and read from is gone on with: nothing is lost, nothing acknowledged repeated."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import nats as client_library
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from hexa_worker.config.nats import NatsSubscription
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source, SubscriptionSpec
from hexa_worker.errors import ConfigError, DriverRejected
from tests.drivers.consuming import PLENTY, ack, patiently, publish, spec, subscribed, take
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]
DURABLE = "billing"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["nats", "nats29"])
def server(request: pytest.FixtureRequest, get_broker: Callable[[str], Broker]) -> Broker:
    return get_broker(request.param)


class Peer:
    """A program of somebody else, written with nats-py."""

    def __init__(self, client: Any, channel: str) -> None:
        self._client = client
        self._channel = channel
        self.stream = channel.replace(".", "~")

    async def make(self, payloads: int, **config: Any) -> None:
        """A stream of the channel with so many messages, and a durable of it."""
        stream = self._client.jetstream()
        await stream.add_stream(name=self.stream, subjects=[self._channel])
        for number in range(payloads):
            await stream.publish(self._channel, b"%d" % number)
        await self.add_durable(**config)

    async def add_durable(self, **config: Any) -> None:
        known = {"durable_name": DURABLE, "ack_policy": AckPolicy.EXPLICIT, "filter_subject": self._channel}
        await self._client.jetstream().add_consumer(self.stream, ConsumerConfig(**{**known, **config}))

    async def take(self, count: int) -> list[Any]:
        subscribed = await self._client.jetstream().pull_subscribe_bind(DURABLE, self.stream)
        taken: list[Any] = await subscribed.fetch(count, timeout=10)
        return taken

    async def api(self, action: str, **body: Any) -> dict[str, Any]:
        answer = await self._client.request(f"$JS.API.{action}", json.dumps(body).encode() if body else b"", timeout=5)
        found: dict[str, Any] = json.loads(answer.data)
        assert "error" not in found, found
        return found

    async def config(self) -> dict[str, Any]:
        config: dict[str, Any] = (await self.api(f"CONSUMER.INFO.{self.stream}.{DURABLE}"))["config"]
        return config


@asynccontextmanager
async def a_peer(server: Broker, one: SubscriptionSpec) -> AsyncIterator[Peer]:
    client = await client_library.connect(server.address)
    try:
        yield Peer(client, one.channels[0])
    finally:
        await client.close()


def taking_over(name: str, **more: Any) -> SubscriptionSpec:
    return spec(name, options=NatsSubscription(durable=DURABLE), **more)


async def handle(source: Source, wanted: set[bytes]) -> list[bytes]:
    """Handle whatever comes until everything wanted was; all that came, in order."""
    came: list[bytes] = []
    with anyio.fail_after(20):
        while not wanted <= set(came):
            got = await patiently(lambda: source.receive(10, PLENTY))
            came += [one.payload for one in got]
            assert not await source.settle([Acked(one) for one in got])
    return came


def numbered(*numbers: int) -> set[bytes]:
    return {b"%d" % number for number in numbers}


@pytest.mark.parametrize("dies", [True, False])
async def test_all_that_a_peer_has_not_acknowledged_is_handled_once_and_nothing_that_it_has(
    server: Broker, unique_name: Name, *, dies: bool
) -> None:
    one = taking_over(unique_name())
    async with a_peer(server, one) as peer:
        await peer.make(20, ack_wait=30, filter_subject=one.channels[0] if dies else None)
        first = await peer.take(10)
        for number in (0, 1, 2, 5, 7):
            await first[number].ack_sync()
        for number in () if dies else (3, 4, 6, 8, 9):
            await first[number].nak()
        async with opened(server.address, ack_wait_s=3.0) as driver, subscribed(driver, one) as source:
            await publish(driver, one.channels[0], b"20")
            left = numbered(3, 4, 6, 8, 9, *range(10, 21))
            assert sorted(await handle(source, left)) == sorted(left)
            backlog = await source.backlog()
            assert (backlog.ready, backlog.leased) == (0, 0)
        assert (await peer.api(f"CONSUMER.NAMES.{peer.stream}"))["consumers"] == [DURABLE]


async def test_an_ordered_subscription_goes_on_behind_what_a_peer_has_acknowledged(
    server: Broker, unique_name: Name
) -> None:
    name = unique_name()
    one = taking_over(name, order_by=OrderBy.CHANNEL)
    async with a_peer(server, one) as peer:
        await peer.make(10)
        for message in await peer.take(4):
            await message.ack_sync()
        async with opened(server.address) as driver, subscribed(driver, one) as source:
            assert await handle(source, {b"9"}) == [b"%d" % number for number in range(4, 10)]
            await publish(driver, one.channels[0], b"10")
        async with opened(server.address) as driver, subscribed(driver, taking_over(name)) as source:
            assert await handle(source, {b"10"}) == [b"10"], "the durable itself stands where the peer left it"


async def test_what_would_keep_messages_from_coming_is_changed(server: Broker, unique_name: Name) -> None:
    one = taking_over(unique_name())
    async with a_peer(server, one) as peer:
        await peer.make(3, max_deliver=3, backoff=[20, 30], inactive_threshold=3600, max_ack_pending=1)
        async with opened(server.address, ack_wait_s=2.0) as driver, subscribed(driver, one) as source:
            await ack(source, await take(source, 3))
        config = await peer.config()
    assert (config["max_deliver"], config["ack_wait"], config["max_ack_pending"]) == (-1, 2_000_000_000, 50_000)
    assert not {"backoff", "inactive_threshold"} & config.keys()


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.CHANNEL])
async def test_what_a_durable_has_given_up_is_not_passed_over_in_silence(
    nats: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture, order_by: OrderBy
) -> None:
    one = taking_over(unique_name(), order_by=order_by)  # 2.9 keeps it in flight until it is pulled for
    async with a_peer(nats, one) as peer:
        await peer.make(4, max_deliver=1, ack_wait=0.2)
        taken = await peer.take(3)
        await taken[0].ack_sync()
        with anyio.fail_after(10):
            while (await peer.api(f"CONSUMER.INFO.{peer.stream}.{DURABLE}"))["num_ack_pending"]:
                await anyio.sleep(0.05)
        async with opened(nats.address) as driver, subscribed(driver, one) as source:
            came = await handle(source, {b"3"})
    if order_by is OrderBy.NONE:  # the server delivers it no more
        assert "max_deliver = 1 times does not come again" in caplog.text
        assert "start_sequence = 2 instead" in caplog.text
    else:
        assert came == [b"1", b"2", b"3"]


async def test_a_durable_that_was_taken_over_and_deleted_is_made_again_where_it_stood(
    server: Broker, unique_name: Name
) -> None:
    one = taking_over(unique_name())
    async with a_peer(server, one) as peer, opened(server.address) as driver:
        await peer.make(2)
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 2))
        await peer.api(f"CONSUMER.DELETE.{peer.stream}.{DURABLE}")
        await publish(driver, one.channels[0], b"2")
        async with subscribed(driver, one) as source:
            assert await handle(source, {b"2"}) == [b"2"]


async def test_a_durable_that_cannot_be_read_through_is_refused_with_all_reasons(
    server: Broker, unique_name: Name
) -> None:
    one = taking_over(unique_name())
    async with a_peer(server, one) as peer, opened(server.address) as driver:
        await peer.make(2, ack_policy=AckPolicy.NONE, deliver_subject="elsewhere", headers_only=True)
        with pytest.raises(DriverRejected) as caught:
            await driver.declare([one])
        for part in ("ack_policy is 'none'", "it pushes", "headers only", "use start_sequence = 1 instead"):
            assert part in str(caught.value)
        (durable,) = [each for each in await driver.preflight(one) if each.kind == "durable"]
        assert "it pushes" in durable.problem


async def test_a_durable_that_delivers_other_channels_too_is_refused(server: Broker, unique_name: Name) -> None:
    one = taking_over(unique_name())
    async with a_peer(server, one) as peer, opened(server.address) as driver:
        channel, other = one.channels[0], f"{one.channels[0]}.other"
        await peer.api(f"STREAM.CREATE.{peer.stream}", name=peer.stream, subjects=[channel, other])
        await peer.add_durable(filter_subject=None)
        with pytest.raises(DriverRejected, match=f"it delivers {channel}, {other}, wanted {channel} alone"):
            await driver.declare([one])


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
async def test_a_durable_that_does_not_exist_is_an_error_and_none_is_made(
    server: Broker, unique_name: Name, order_by: OrderBy
) -> None:
    one = taking_over(unique_name(), order_by=order_by)
    async with a_peer(server, one) as peer, opened(server.address) as driver:
        await peer.make(0, durable_name="another")
        with pytest.raises(DriverRejected, match=r"durable 'billing' .* does not exist: is it spelled right"):
            await driver.declare([one])
        (durable,) = [each for each in await driver.preflight(one) if each.kind == "durable"]
        assert "does not exist" in durable.problem
        assert (await peer.api(f"CONSUMER.NAMES.{peer.stream}"))["consumers"] == ["another"]


@pytest.mark.parametrize("options", [NatsSubscription(durable=DURABLE), NatsSubscription(start_sequence=3)])
async def test_what_belongs_to_one_channel_is_refused_for_several(
    server: Broker, unique_name: Name, options: NatsSubscription
) -> None:
    name = unique_name()
    async with opened(server.address) as driver:
        for one in (
            spec(name, options=options, channels=(f"{name}.a", f"{name}.b")),
            spec(name, options=options, channels=(), pattern=rf"{name}\..*"),
        ):
            with pytest.raises(ConfigError, match=r"subscriptions\..*\.nats\.(durable|start_sequence): goes with"):
                await driver.declare([one])


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
@pytest.mark.parametrize("by", ["time", "sequence"])
async def test_a_subscription_may_begin_at_a_time_or_sequence(
    server: Broker, unique_name: Name, order_by: OrderBy, by: str
) -> None:
    name = unique_name()
    async with opened(server.address) as driver:
        await publish(driver, f"{name}.in", b"0", b"1")
        await anyio.sleep(0.05)  # the server's clock is this machine's
        at = datetime.now(UTC).isoformat()
        await anyio.sleep(0.05)
        await publish(driver, f"{name}.in", b"2", b"3")
        options = NatsSubscription(start_at=at) if by == "time" else NatsSubscription(start_sequence=3)
        one = spec(name, options=options, order_by=order_by)
        async with subscribed(driver, one) as source:
            assert await handle(source, {b"3"}) == [b"2", b"3"]
        async with subscribed(driver, one) as source:  # it has progress by now
            await publish(driver, f"{name}.in", b"4")
            assert await handle(source, {b"4"}) == [b"4"]


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00"])
async def test_a_time_that_is_none_is_a_configuration_error(server: Broker, unique_name: Name, text: str) -> None:
    async with opened(server.address) as driver:
        with pytest.raises(ConfigError, match="start_at"):
            await driver.declare([spec(unique_name(), options=NatsSubscription(start_at=text))])
