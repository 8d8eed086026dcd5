"""Durables and streams that are deleted: reading goes on where it was, and nothing old touches what is new."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import nats as client_library
import pytest
from msgspec import structs

from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.nats.positions import Position, first_message, told
from hexa_worker.drivers.nats.streams import Life
from hexa_worker.errors import LeaseLost
from tests.drivers.consuming import PLENTY, ack, patiently, publish, spec, subscribed, take
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]
each_order = pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["nats", "nats29"])
def server(request: pytest.FixtureRequest, get_broker: Callable[[str], Broker]) -> Broker:
    return get_broker(request.param)


class Operator:
    """Deletes and makes what a subscription needs, behind its back."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def api(self, action: str, **body: Any) -> dict[str, Any]:
        answer = await self._client.request(f"$JS.API.{action}", json.dumps(body).encode() if body else b"", timeout=5)
        found: dict[str, Any] = json.loads(answer.data)
        assert "error" not in found, found
        return found

    async def durables(self, channel: str) -> list[str]:
        found: list[str] = (await self.api(f"CONSUMER.NAMES.{_stream(channel)}"))["consumers"] or []
        return found

    async def delete_durables(self, channel: str) -> None:
        for name in await self.durables(channel):
            await self.api(f"CONSUMER.DELETE.{_stream(channel)}.{name}")

    async def replace_stream(self, channel: str, *payloads: bytes) -> None:
        await self.api(f"STREAM.DELETE.{_stream(channel)}")
        await self.api(f"STREAM.CREATE.{_stream(channel)}", name=_stream(channel), subjects=[channel])
        for payload in payloads:
            await self._client.jetstream().publish(channel, payload)


def _stream(channel: str) -> str:
    return channel.replace(".", "~")


@pytest.fixture
async def operator(server: Broker) -> AsyncIterator[Operator]:
    client = await client_library.connect(server.address)
    yield Operator(client)
    await client.close()


def numbered(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


async def handle(source: Source, wanted: set[bytes], within_s: float = 20.0) -> list[bytes]:
    """Handle whatever comes until everything wanted was; all that came, in order."""
    came: list[bytes] = []
    with anyio.fail_after(within_s):
        while not wanted <= set(came):
            got = await patiently(lambda: source.receive(10, PLENTY))
            came += [one.payload for one in got]
            await patiently(lambda: source.settle([Acked(one) for one in got]))  # noqa: B023 - called at once
    return came


@each_order
@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_deleted_durable_goes_on_behind_what_is_settled(
    server: Broker, operator: Operator, unique_name: Name, order_by: OrderBy, start: str
) -> None:
    one = spec(unique_name(), order_by=order_by, start=start)
    async with opened(server.address) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], *numbered(0, 20))
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 10))
            in_flight = await take(source, 3)
            await operator.delete_durables(one.channels[0])
            await publish(driver, one.channels[0], *numbered(20, 22))
            came = await handle(source, {*numbered(13, 22)})
            assert not set(came) & set(numbered(0, 10)), "what was settled came again"
            await source.settle([Acked(each) for each in in_flight])


@each_order
async def test_a_durable_that_is_deleted_while_nobody_reads_goes_on_where_it_was(
    server: Broker, operator: Operator, unique_name: Name, order_by: OrderBy, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name(), order_by=order_by, start="latest")
    async with opened(server.address) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], *numbered(0, 8))
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 5))
    await operator.delete_durables(one.channels[0])
    async with opened(server.address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"8")
        assert await handle(source, {*numbered(5, 9)}) == numbered(5, 9)
    assert order_by is OrderBy.KEY or "goes on behind message 5" in caplog.text


async def test_a_durable_that_never_moved_is_not_made_at_the_end(
    server: Broker, operator: Operator, unique_name: Name
) -> None:
    one = spec(unique_name(), start="latest")
    async with opened(server.address) as driver:
        await publish(driver, one.channels[0], b"old")
        await driver.declare([one])
        await publish(driver, one.channels[0], *numbered(0, 3))
        await operator.delete_durables(one.channels[0])
        async with subscribed(driver, one) as source:
            assert await handle(source, {*numbered(0, 3)}) == numbered(0, 3)


async def test_a_subscription_that_is_not_read_in_order_any_more_goes_on_where_it_was(
    server: Broker, unique_name: Name
) -> None:
    name = unique_name()
    ordered, shared = (spec(name, order_by=order_by, start="latest") for order_by in (OrderBy.KEY, OrderBy.NONE))
    async with opened(server.address) as driver:
        await driver.declare([ordered])
        await publish(driver, ordered.channels[0], *numbered(0, 6))
        async with subscribed(driver, ordered) as source:
            await ack(source, await take(source, 2))
        async with subscribed(driver, shared) as source:
            assert await handle(source, {*numbered(2, 6)}) == numbered(2, 6)


@pytest.mark.parametrize("first", [OrderBy.NONE, OrderBy.KEY])
async def test_a_subscription_whose_order_changes_to_and_fro_goes_on_where_it_was(
    server: Broker, unique_name: Name, first: OrderBy
) -> None:
    name = unique_name()
    ordered, shared = (spec(name, order_by=order_by) for order_by in (OrderBy.KEY, OrderBy.NONE))
    turns = [ordered, shared, ordered, shared] if first is OrderBy.KEY else [shared, ordered, shared]
    for turn, one in enumerate(turns):
        wanted = numbered(turn * 4, turn * 4 + 4)
        async with opened(server.address) as driver, subscribed(driver, one) as source:
            await publish(driver, one.channels[0], *wanted)
            assert await handle(source, {*wanted}) == wanted


async def test_a_group_that_was_renamed_goes_on_with_the_retries_of_the_old_one(
    server: Broker, unique_name: Name
) -> None:
    before = spec(unique_name())
    after = structs.replace(before, group=unique_name(), start="latest")
    async with opened(server.address) as driver:
        async with subscribed(driver, before) as source:
            await publish(driver, before.retry_channels[0], *numbered(0, 5))
            got = await take(source, 5)
            await ack(source, [each for each in got if each.payload != b"3"])
        async with subscribed(driver, after) as source:
            assert [each.payload for each in await take(source, 1)] == [b"3"]
            assert (await source.backlog()).ready == 0


@each_order
async def test_all_messages_of_a_stream_that_was_made_anew_are_handled(
    server: Broker, operator: Operator, unique_name: Name, order_by: OrderBy
) -> None:
    one = spec(unique_name(), order_by=order_by, start="latest")
    async with opened(server.address) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], *numbered(0, 10))
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 5))
            in_flight = await take(source, 5)
            await operator.replace_stream(one.channels[0], *numbered(100, 120))
            unsettled = await patiently(lambda: source.settle([Acked(each) for each in in_flight]))
            assert {type(each.error) for each in unsettled} <= {LeaseLost}
            await handle(source, {*numbered(100, 120)})


@each_order
async def test_a_stream_that_was_made_anew_while_nobody_read_is_read_from_its_beginning(
    server: Broker, operator: Operator, unique_name: Name, order_by: OrderBy, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name(), order_by=order_by, start="latest")
    async with opened(server.address) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], *numbered(0, 5))
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 5))
    await operator.replace_stream(one.channels[0], *numbered(100, 108))
    async with opened(server.address) as driver, subscribed(driver, one) as source:
        assert await handle(source, {*numbered(100, 108)}) == numbered(100, 108)
    assert order_by is OrderBy.KEY or "made again; all of its messages are new" in caplog.text


@each_order
async def test_what_is_in_flight_of_an_old_stream_settles_nothing_of_a_new_one(
    server: Broker, operator: Operator, unique_name: Name, open_proxy: Callable[[Broker], Proxy], order_by: OrderBy
) -> None:
    """Another process reads the new one while this one is cut off: the same names, the same sequences."""
    proxy, one = open_proxy(server), spec(unique_name(), order_by=order_by)
    async with opened(server.address) as other, opened(server.proxied_address) as driver:
        await driver.declare([one])
        await publish(other, one.channels[0], *numbered(0, 3))
        async with subscribed(driver, one) as source:
            in_flight = await take(source, 3)
            proxy.refuse()
            await operator.replace_stream(one.channels[0], *numbered(100, 103))
            async with subscribed(other, one) as reading:
                taken = await take(reading, 3)
                proxy.heal()
                unsettled = await patiently(lambda: source.settle([Acked(each) for each in in_flight]))
                assert {type(each.error) for each in unsettled} == {LeaseLost}
                assert (await reading.backlog()).leased == len(taken)


@each_order
@pytest.mark.parametrize("there_at_first", [True, False])
async def test_a_channel_that_appears_later_is_read_from_its_beginning_also_by_latest(
    server: Broker, unique_name: Name, order_by: OrderBy, *, there_at_first: bool
) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=f"{name}\\.in\\..*", order_by=order_by, start="latest")
    async with opened(server.address) as driver:
        if there_at_first:
            await publish(driver, f"{name}.in.old", b"old")
        async with subscribed(driver, one) as source:
            await publish(driver, f"{name}.in.running", *numbered(0, 5))
            assert await handle(source, {*numbered(0, 5)}) == numbered(0, 5)
        await publish(driver, f"{name}.in.stopped", *numbered(0, 5))
        await publish(driver, f"{name}.in.old", b"5")
        async with subscribed(driver, one) as source:
            assert sorted(await handle(source, {*numbered(0, 6)})) == numbered(0, 6)


def test_a_position_holds_for_one_life_of_a_stream() -> None:
    noted = Position(born="monday", floor=7)
    assert first_message(noted, Life("monday", 20), "latest", None) == {
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 8,
    }
    assert first_message(noted, Life("monday", 5), "latest", None)["opt_start_seq"] == 6
    assert first_message(noted, Life("tuesday", 20), "latest", "noon") == {"deliver_policy": "all"}
    assert "goes on behind message 7" in told("it", noted, Life("monday", 20))
    assert "all of its messages are new" in told("it", noted, Life("tuesday", 20))


def test_without_a_position_the_subscription_says_where_it_begins() -> None:
    life = Life("monday", 20)
    assert first_message(None, life, "earliest", None) == {"deliver_policy": "all"}
    assert first_message(None, life, "latest", None) == {"deliver_policy": "new"}
    assert first_message(None, life, "latest", "noon") == {"deliver_policy": "by_start_time", "opt_start_time": "noon"}
    assert told("it", None, life) == ""
