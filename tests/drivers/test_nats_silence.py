"""What fails half way on NATS neither loses events nor leaves a healthy process that reads nothing."""

import time
from collections.abc import Callable
from typing import Any

import anyio
import nats as client_library
import pytest
from nats.js.errors import NoStreamResponseError

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DeadLetter, Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, Released, Route, settle
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.source import NatsSource
from hexa_worker.errors import DriverUnavailable, LeaseLost
from tests.drivers.consuming import PLENTY, ack, patiently, publish, spec, subscribed, take
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.nats, pytest.mark.anyio, pytest.mark.timeout(90)]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def delete_stream(address: str, channel: str) -> None:
    client = await client_library.connect(address)
    await client.jetstream().delete_stream(channel.replace(".", "~"))
    await client.close()


async def test_an_ordered_channel_that_vanished_while_nobody_looked_is_made_again(
    nats: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    one, proxy = spec(unique_name(), order_by=OrderBy.KEY), open_proxy(nats)
    async with opened(nats.proxied_address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"before")
        await ack(source, await take(source, 1))
        proxy.refuse()
        await delete_stream(nats.address, one.channels[0])
        proxy.heal()
        with anyio.fail_after(10):
            while "the lease of" not in caplog.text:  # whoever has its hands full receives nothing meanwhile
                await anyio.sleep(0.05)
        client = await client_library.connect(nats.address)  # a stranger, who makes no streams

        async def sent() -> None:
            with anyio.fail_after(15):
                while True:
                    try:
                        await client.jetstream().publish(one.channels[0], b"after")
                    except NoStreamResponseError:
                        await anyio.sleep(0.1)
                    else:
                        return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sent)
            assert [got.payload for got in await take(source, 1)] == [b"after"]
        await client.close()


async def test_what_a_stream_held_before_it_was_made_anew_settles_nothing_of_the_new_one(
    nats: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    channel = one.channels[0]
    async with opened(nats.address) as driver, subscribed(driver, one) as source:
        await publish(driver, channel, b"old")
        (old,) = await take(source, 1)
        await delete_stream(nats.address, channel)
        made_again: list[Delivery] = []

        async def take_new() -> None:
            made_again.extend(await take(source, 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_new)
            await patiently(lambda: publish(driver, channel, b"new"))
        (new,) = made_again
        assert (new.payload, new.offset) == (b"new", old.offset)
        (unsettled,) = await source.settle([Acked(old)])
        assert isinstance(unsettled.error, LeaseLost)
        route = Route(action=one.action, retry_base=one.retry_base, policy=RetryPolicy())
        assert await source.settle([settle(DeadLetter("no"), new, route, now_ms=1)]) == []
        (dead,) = await driver.browse(one.dead_letter_channel, -1, 10)
        assert dead.payload == b"new"


async def test_whoever_stood_still_past_its_lease_alone_goes_on_with_what_it_had_in_flight(
    nats: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), order_by=OrderBy.KEY)
    async with opened(nats.address, ack_wait_s=1.0) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1", b"2")
        taken = await take(source, 2)
        time.sleep(1.2)  # noqa: ASYNC251 - as a handler does that blocks the loop
        unsettled = await source.settle([Released(one) for one in taken])
        assert len(unsettled) == 2
        assert [one.payload for one in await take(source, 2, within_s=10)] == [b"1", b"2"]


async def test_a_stop_while_something_is_made_again_is_not_overlooked(
    nats: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(unique_name())
    async with opened(nats.address) as driver, subscribed(driver, one) as source:
        assert isinstance(source, NatsSource)
        asked = NatsConnection.api

        async def api(connection: NatsConnection, action: str, **body: Any) -> dict[str, Any]:
            source.stop()
            return await asked(connection, action, **body)

        monkeypatch.setattr(NatsConnection, "api", api)
        source.pull_consumers[0].missing = True
        with anyio.fail_after(3):
            assert await source.receive(1, PLENTY) == []


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
async def test_a_channel_of_a_pattern_that_vanished_is_not_asked_for_without_pause(
    nats: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture, order_by: OrderBy
) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=rf"{name}\.in\..*", order_by=order_by)
    async with opened(nats.address) as driver:
        await publish(driver, f"{name}.in.a", b"a")
        await publish(driver, f"{name}.in.b", b"b")
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 2))
            await delete_stream(nats.address, f"{name}.in.a")
            with anyio.move_on_after(2):
                await source.receive(1, PLENTY)
            assert caplog.text.count("gone from the server") < 5
            await publish(driver, f"{name}.in.b", b"b2")
            assert [got.payload for got in await take(source, 1)] == [b"b2"]
            await publish(driver, f"{name}.in.a", b"a2")
            assert [got.payload for got in await take(source, 1)] == [b"a2"]


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
async def test_what_keeps_claims_alive_does_not_die_unnoticed(
    nats: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch, order_by: OrderBy
) -> None:
    one = spec(unique_name(), order_by=order_by)
    async with opened(nats.address, ack_wait_s=1.0) as driver:
        source = await driver.subscribe(one)
        await publish(driver, one.channels[0], b"1")
        await take(source, 1)

        def broken(*_: Any) -> Any:
            raise KeyError("a mistake of ours")

        monkeypatch.setattr(NatsConnection, "expect", broken)
        with pytest.raises(KeyError, match="mistake"), anyio.fail_after(5):
            await source.receive(1, PLENTY)
        monkeypatch.undo()
        await source.close()


async def test_a_full_stream_is_not_asked_again_without_pause(nats: Broker, unique_name: Name) -> None:
    channel = unique_name()
    client = await client_library.connect(nats.address)
    await client.jetstream().add_stream(name=channel, subjects=[channel], max_msgs=1, discard="new")
    tried = 0
    try:
        async with opened(nats.address, timeout_s=1.5) as driver:

            async def count(_: Any) -> None:
                nonlocal tried
                tried += 1

            await client.subscribe(channel, cb=count)
            await client.flush()
            await publish(driver, channel, b"1")
            with pytest.raises(DriverUnavailable):
                await driver.publish([Message(channel=channel, payload=b"2")])
            await client.flush()
        assert tried < 30
    finally:
        await client.close()


async def test_failures_are_stored_though_their_streams_vanished_while_nothing_is_received(
    nats: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    route = Route(action=one.action, retry_base=one.retry_base, policy=RetryPolicy())
    async with opened(nats.address, max_age_s=3600.0) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"1", b"2")
        first, second = await take(source, 2)
        await delete_stream(nats.address, names.retry_stream(one.retry_base))
        await delete_stream(nats.address, names.dead_letter_stream(one.retry_base))
        assert await source.settle([settle(Raised(ValueError("no")), first, route, now_ms=1)]) == []
        assert await source.settle([settle(DeadLetter("no"), second, route, now_ms=1)]) == []
        (dead,) = await driver.browse(one.dead_letter_channel, -1, 10)
        assert dead.payload == b"2"
    async with opened(nats.address, max_age_s=3600.0) as driver, subscribed(driver, one) as source:
        (again,) = await take(source, 1)  # and the streams are what the driver would make
        assert (again.payload, again.attempt) == (b"1", 1)


async def test_a_channel_that_cannot_be_used_hides_no_other_of_its_pattern(
    nats: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=rf"{name}\.in\..*")
    client = await client_library.connect(nats.address)
    async with opened(nats.address) as driver, subscribed(driver, one) as source:
        sealed = await client.jetstream().add_stream(name=f"{name}-bad", subjects=[f"{name}.in.bad"])
        sealed.config.sealed = True
        await client.jetstream().update_stream(sealed.config)
        await publish(driver, f"{name}.in.good", b"x")
        assert [got.payload for got in await take(source, 1)] == [b"x"]
    assert caplog.text.count("sealed") == 1
    await client.close()


@pytest.mark.parametrize("delay_s", [0.2, 60.0], ids=["soon", "scheduled"])
async def test_what_is_stored_but_answered_too_late_is_stored_once(
    nats: Broker, unique_name: Name, open_proxy: Callable[[Broker], Proxy], delay_s: float
) -> None:
    """A slow line: requests arrive after their deadline, and are sent again."""
    one, proxy = spec(unique_name()), open_proxy(nats)
    policy = RetryPolicy(maximum_retries=2, initial_interval_s=delay_s, jitter=0.0)
    route = Route(action=one.action, retry_base=one.retry_base, policy=policy)
    async with opened(nats.proxied_address, timeout_s=0.5, ack_wait_s=30.0) as driver, opened(nats.address) as looking:
        async with subscribed(driver, one) as source:
            await publish(looking, one.channels[0], *[b"%d" % number for number in range(10)])
            got = await take(source, 10)
            now_ms = time.time_ns() // 1_000_000
            failed = [settle(Raised(ValueError("no")), each, route, now_ms=now_ms) for each in got]
            event = Message(channel=one.channels[0], payload=b"x", headers=(("hexa-event-id", b"once"),))
            proxy.delay(0.6)
            for _ in range(2):
                with pytest.raises(DriverUnavailable):
                    await source.settle(failed)
            with pytest.raises(DriverUnavailable):
                await driver.publish([event])
            proxy.heal()
            await patiently(lambda: source.settle(failed))
            await patiently(lambda: driver.publish([event]))
        retries = await looking.browse(one.retry_channels[0], -1, 100)
        assert sorted(each.payload for each in retries) == [b"%d" % number for number in range(10)]
        assert [each.payload for each in await looking.browse(one.channels[0], -1, 100)].count(b"x") == 1
