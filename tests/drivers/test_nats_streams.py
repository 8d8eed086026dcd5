"""Streams and durables: made, checked, and made again; what does not fit is told with both sides."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import nats as client_library
import pytest

from hexa_worker.config.nats import NatsStream, NatsSubscription
from hexa_worker.core.ids import IdSource
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DeadLetter
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, Route, settle
from hexa_worker.dead_letters.tracer import Tracer
from hexa_worker.drivers.nats.streams import REMOVAL_S
from hexa_worker.errors import DriverRejected
from hexa_worker.lineage.finding import CLOCK_SKEW_MS, written_since_ms
from tests.drivers.consuming import PLENTY, ack, patiently, publish, spec, subscribed, take
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["nats", "nats29"])
def server(request: pytest.FixtureRequest, get_broker: Callable[[str], Broker]) -> Broker:
    return get_broker(request.param)


@asynccontextmanager
async def raw(address: str) -> AsyncIterator[Any]:
    """nats-py's own client."""
    client = await client_library.connect(address)
    try:
        yield client
    finally:
        await client.close()


async def api(client: Any, action: str, **body: Any) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{action}", json.dumps(body).encode() if body else b"", timeout=5)
    found: dict[str, Any] = json.loads(answer.data)
    assert "error" not in found, found
    return found


async def test_a_stream_that_exists_with_another_configuration_is_refused_showing_both(
    server: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    async with raw(server.address) as client:
        await api(client, f"STREAM.CREATE.{one.retry_base}~~retry", name=f"{one.retry_base}~~retry", subjects=["other"])
    async with opened(server.address) as driver:
        with pytest.raises(DriverRejected, match=r"retention is 'limits', wanted 'workqueue'") as caught:
            await driver.declare([one])
    assert "'other'" in str(caught.value)
    assert f"{one.retry_base}.retry.>" in str(caught.value)


async def test_a_durable_that_exists_for_something_else_is_refused_showing_both(
    server: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    async with opened(server.address) as driver, raw(server.address) as client:
        await publish(driver, one.channels[0], b"x")
        stream = one.channels[0].replace(".", "~")
        config = {"durable_name": one.group, "ack_policy": "all", "filter_subject": one.channels[0]}
        await api(client, f"CONSUMER.DURABLE.CREATE.{stream}.{one.group}", stream_name=stream, config=config)
        with pytest.raises(DriverRejected, match="ack_policy is 'all', wanted 'explicit'"):
            await driver.subscribe(one)


async def test_a_changed_ack_wait_is_brought_up_to_date(server: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(server.address, ack_wait_s=3.0) as driver:
        await driver.declare([one])
    async with opened(server.address, ack_wait_s=7.0) as driver, raw(server.address) as client:
        await driver.declare([one])
        stream = one.channels[0].replace(".", "~")
        assert (await api(client, f"CONSUMER.INFO.{stream}.{one.group}"))["config"]["ack_wait"] == 7_000_000_000


async def test_a_missing_channel_is_an_error_where_none_may_be_made(server: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(server.address, create_channels=False) as driver:
        with pytest.raises(DriverRejected, match=r"no stream keeps the channel .*create_channels"):
            await driver.declare([one])
        (answer,) = await driver.publish([Message(channel=one.channels[0], payload=b"x")])
    assert isinstance(answer, DriverRejected)


async def test_channels_share_a_configured_stream(server: Broker, unique_name: Name) -> None:
    name = unique_name()
    streams = (NatsStream(name=name.upper(), subjects=(f"{name}.>",)),)
    one = spec(name, channels=(f"{name}.a", f"{name}.b"), retry_base=f"r{name}")
    async with opened(server.address, streams=streams) as driver, subscribed(driver, one) as source:
        await publish(driver, f"{name}.a", b"1")
        await publish(driver, f"{name}.b", b"2")
        await publish(driver, f"{name}.c", b"nobody reads it")
        taken = await take(source, 2)
        assert {(got.channel, got.payload, got.source) for got in taken} == {
            (f"{name}.a", b"1", name.upper()),
            (f"{name}.b", b"2", name.upper()),
        }
        await ack(source, taken)
        assert (await source.backlog()).idle


async def test_what_is_left_can_be_asked_while_an_ordered_channel_changes_hands(
    server: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), order_by=OrderBy.KEY)
    async with opened(server.address) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], b"1", b"2")
        for _ in range(3):
            async with subscribed(driver, one) as source:
                backlog = await source.backlog()  # the consumer of its term is not made yet
                assert backlog.ready + backlog.leased == 2


async def test_the_wrong_stream_for_a_subscription_is_refused(server: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), options=NatsSubscription(stream="ELSEWHERE"))
    async with opened(server.address) as driver:
        with pytest.raises(DriverRejected, match="wanted 'ELSEWHERE'"):
            await driver.declare([one])


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_what_is_deleted_while_it_is_read_is_made_again(
    server: Broker, unique_name: Name, order_by: OrderBy, what: str
) -> None:
    one = spec(unique_name(), order_by=order_by)
    stream = one.channels[0].replace(".", "~")
    async with opened(server.address) as driver, subscribed(driver, one) as source, raw(server.address) as client:
        await publish(driver, one.channels[0], b"before")
        await ack(source, await take(source, 1))
        deleted_at = datetime.now(UTC)
        if what == "stream":
            await api(client, f"STREAM.DELETE.{stream}")
        else:
            for name in (await api(client, f"CONSUMER.NAMES.{stream}"))["consumers"]:
                await api(client, f"CONSUMER.DELETE.{stream}.{name}")
        seen: set[bytes] = set()
        with anyio.fail_after(20):
            await patiently(lambda: publish(driver, one.channels[0], b"after"))
            while b"after" not in seen:
                got = await patiently(lambda: source.receive(10, PLENTY))
                seen |= {each.payload for each in got}
                await source.settle([Acked(each) for each in got])
        if what == "stream" or order_by is OrderBy.NONE:  # a new term's durable has another name
            info = f"STREAM.INFO.{stream}" if what == "stream" else f"CONSUMER.INFO.{stream}.{name}"
            created_at = datetime.fromisoformat((await api(client, info))["created"])
            assert (created_at - deleted_at).total_seconds() >= REMOVAL_S, (
                "the server may still be removing the old one"
            )


async def test_too_large_headers_are_refused_and_the_connection_stays(server: Broker, unique_name: Name) -> None:
    channel = f"{unique_name()}.in"
    async with opened(server.address) as driver:
        large = Message(channel=channel, payload=b"x" * 900_000, headers=(("h", b"y" * 200_000),))
        answers = await driver.publish([large, Message(channel=channel, payload=b"small")])
        assert isinstance(answers[0], DriverRejected)
        assert "max_payload" in str(answers[0])
        assert isinstance(answers[1], str)


async def test_a_full_foreign_payload_still_fits_into_the_dead_letter(server: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(server.address) as driver, subscribed(driver, one) as source, raw(server.address) as client:
        payload = b"x" * (1024 * 1024 - 2_000)
        await client.jetstream().publish(one.channels[0], payload)
        (got,) = await take(source, 1)
        route = Route(action=one.action, retry_base=one.retry_base, policy=RetryPolicy())
        assert await source.settle([settle(DeadLetter("no"), got, route, now_ms=1)]) == []
        (dead,) = await driver.browse(one.dead_letter_channel, -1, 10)
        assert dead.payload == payload


async def test_headers_that_command_the_server_are_only_data(server: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    headers = (("Nats-Rollup", b"all"), ("Nats-Expected-Stream", b"x"), ("hexa-key", b"k"), ("hexa-pct", b"%"))
    async with opened(server.address) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"first")
        answers = await driver.publish([Message(channel=one.channels[0], payload=b"second", headers=headers)])
        assert isinstance(answers[0], str)
        taken = await take(source, 2)
        assert taken[1].headers == headers
        assert taken[1].key is None


async def test_the_same_event_is_stored_once_and_a_redriven_one_again(server: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    event = Message(channel=one.channels[0], payload=b"x", headers=(("hexa-event-id", b"e1"),))
    async with opened(server.address) as driver:
        await driver.declare([one])
        first, second = await driver.publish([event]), await driver.publish([event])
        assert first == second
        redriven = [
            Message(
                channel=one.retry_channels[0],
                payload=b"x",
                headers=(("hexa-event-id", b"e1"), ("hexa-attempt", b"1")),
                timestamp_ms=at,
            )
            for at in (1, 2)
        ]
        again = await driver.publish(redriven)
        assert len(set(again)) == 2


async def test_subscriptions_begin_at_the_end_if_they_ask_to(server: Broker, unique_name: Name) -> None:
    for order_by in (OrderBy.NONE, OrderBy.KEY):
        one = spec(unique_name(), order_by=order_by, start="latest")
        async with opened(server.address) as driver:
            await publish(driver, one.channels[0], b"old")
            await driver.declare([one])
            await publish(driver, one.channels[0], b"new")
            async with subscribed(driver, one) as source:
                assert [got.payload for got in await take(source, 1)] == [b"new"]


async def test_order_can_be_asked_for_later_and_progress_is_kept(server: Broker, unique_name: Name) -> None:
    shared = spec(unique_name())
    async with opened(server.address) as driver:
        async with subscribed(driver, shared) as source:
            await publish(driver, shared.channels[0], b"1", b"2")
            await ack(source, await take(source, 2))
        await publish(driver, shared.channels[0], b"3")
        async with subscribed(driver, spec(shared.group, order_by=OrderBy.KEY)) as source:
            (got,) = await take(source, 1)
            assert got.payload == b"3"


async def test_streams_are_made_as_the_options_say(server: Broker, unique_name: Name) -> None:
    one, second = spec(unique_name()), 1_000_000_000
    said = {"storage": "memory", "max_age_s": 60.0, "max_bytes": 100_000, "dedup_window_s": 5.0}
    async with opened(server.address, **said) as driver, raw(server.address) as client:
        await driver.declare([one])
        stream = (await api(client, f"STREAM.INFO.{one.channels[0].replace('.', '~')}"))["config"]
        dead = (await api(client, f"STREAM.INFO.{one.retry_base}~~dlq"))["config"]
    assert (stream["storage"], stream["duplicate_window"]) == ("memory", 5 * second)
    assert (stream["max_age"], stream["max_bytes"]) == (60 * second, 100_000)
    assert (dead["storage"], dead["duplicate_window"]) == ("memory", 5 * second)
    assert (dead.get("max_age", 0), dead["max_bytes"]) == (0, -1), "a dead letter would go by itself"


async def test_retries_are_scheduled_by_the_server_unless_told_otherwise(nats: Broker, unique_name: Name) -> None:
    for scheduled in (True, False):
        one = spec(unique_name())
        async with opened(nats.address, scheduled_retries=scheduled) as driver, raw(nats.address) as client:
            await driver.declare([one])
            config = (await api(client, f"STREAM.INFO.{one.retry_base}~~retry"))["config"]
            assert bool(config.get("allow_msg_schedules")) is scheduled


@pytest.mark.parametrize("table", ["broker", "subscription"])
async def test_acknowledgements_that_nobody_waits_for_count_all_the_same(
    server: Broker, unique_name: Name, table: str
) -> None:
    said: dict[str, Any] = {"ack": "fast"}
    one = spec(unique_name(), options=NatsSubscription(**(said if table == "subscription" else {})))
    async with opened(server.address, **(said if table == "broker" else {})) as driver:
        async with subscribed(driver, one) as source:
            await publish(driver, one.channels[0], *[b"%d" % number for number in range(100)])
            taken = await take(source, 100)
            await ack(source, taken[:99])
        async with subscribed(driver, one) as source:
            assert [each.payload for each in await take(source, 1)] == [b"99"]
            backlog = await source.backlog()
            assert (backlog.ready, backlog.leased) == (0, 1)


async def test_a_long_channel_is_browsed_in_pages_that_leave_nothing_behind(server: Broker, unique_name: Name) -> None:
    name = unique_name()
    streams = (NatsStream(name=name.upper(), subjects=(f"{name}.>",)),)
    async with opened(server.address, streams=streams) as driver, raw(server.address) as client:
        await publish(driver, f"{name}.a", *[b"%d" % number for number in range(1_200)])
        await publish(driver, f"{name}.b", b"another's")
        found, requests, before = [-1], 0, (await api(client, "INFO"))["api"]["total"]
        payloads: list[bytes] = []
        while page := await driver.browse(f"{name}.a", found[-1], 500):
            found += [one.offset for one in page]
            payloads += [one.payload for one in page]
            requests += 1
        assert payloads == [b"%d" % number for number in range(1_200)]
        assert found == sorted(set(found))
        assert (await api(client, "INFO"))["api"]["total"] - before < 10 * requests, "a question for each record"
        with anyio.fail_after(5):
            while (await api(client, f"STREAM.INFO.{name.upper()}"))["state"]["consumer_count"]:
                await anyio.sleep(0.02)


async def test_a_trace_reads_nothing_that_was_stored_before_its_event(server: Broker, unique_name: Name) -> None:
    channel = f"{unique_name()}.in"
    async with opened(server.address) as driver:
        await publish(driver, channel, *[b"%d" % number for number in range(10)])
        root = IdSource(1).new(time.time_ns() // 1_000_000 + CLOCK_SKEW_MS + 1_000)
        await anyio.sleep(2.1)  # what is stored has whole seconds here
        event = Message(channel=channel, payload=b"x", headers=(("hexa-event-id", root.encode()),))
        await driver.publish([event])
        assert [one.payload for one in await driver.browse(channel, -1, 100, written_since_ms(root))] == [b"x"]
        traced = await Tracer(driver, [spec("a", channels=(channel,))], None, remembers=True).trace(root)
        assert traced.tree is not None
        assert traced.tree.channel == channel
        assert await driver.browse(channel, -1, 100, 2**48) == []
