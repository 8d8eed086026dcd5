"""What brokers of Pulsar drop by their own rules: events before the first subscription, and what waits too long."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import anyio
import pytest
from anyio import to_thread

from hexa_worker.config.pulsar import PulsarSubscription
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.pulsar.names import DEAD_LETTER_SUBSCRIPTION, UNREAD_SUBSCRIPTION, TopicNames
from hexa_worker.drivers.pulsar.unread import MOST, Unread
from hexa_worker.errors import DriverRejected
from tests.drivers.consuming import PLENTY, ack, patiently, publish, spec, subscribed, take
from tests.drivers.pulsar_tools import ask, expect_quiet, opened, options, raw_client
from tests.lab.base import Broker

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def path(channel: str) -> str:
    return f"/admin/v2/persistent/public/default/{channel}"


async def let_go(node: Broker, channel: str) -> None:
    """Have a broker do at once what it does in time: drop everything that no subscription waits for."""
    await ask(node, "PUT", f"{path(channel)}/unload")
    await ask(node, "POST", f"{path(channel)}/trim")


async def subscriptions(node: Broker, channel: str) -> set[str]:
    return set((await ask(node, "GET", f"{path(channel)}/stats"))["subscriptions"])


class Nobody:
    """An admin API that knows of no subscription."""

    def parts(self, _topic: str) -> dict[str, Any]:
        return {}

    def unsubscribe(self, _topic: str, _subscription: str) -> None:
        return


class Everywhere:
    """A connection on which everything can be subscribed to."""

    topics = TopicNames("persistent://public/default/{}")

    @property
    def client(self) -> Any:
        return self

    def subscribe(self, *_args: Any, **_more: Any) -> Any:
        return self

    def close(self) -> None:
        return


async def test_what_was_published_before_anybody_subscribed_waits_for_the_first_worker(
    pulsar: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    one, payloads = spec(unique_name()), [b"%d" % number for number in range(10)]
    async with opened(options(pulsar)) as emitter:
        await publish(emitter, one.channels[0], *payloads)
    assert f"nobody has subscribed to {one.channels[0]} yet" in caplog.text
    await let_go(pulsar, one.channels[0])
    async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
        taken = await take(source, 10)
        assert [each.payload for each in taken] == payloads
        await ack(source, taken)
        assert await subscriptions(pulsar, one.channels[0]) == {one.group}


async def test_with_unread_refuse_nobody_publishes_into_the_void(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(options(pulsar, unread="refuse")) as driver:
        (answer,) = await driver.publish([Message(channel=one.channels[0], payload=b"x")])
        assert isinstance(answer, DriverRejected)
        assert "nobody has subscribed" in str(answer)
        await driver.declare([one])
        await publish(driver, one.channels[0], b"y")


async def test_what_is_kept_for_nobody_is_let_go_when_others_have_subscribed(pulsar: Broker, unique_name: Name) -> None:
    channel = unique_name()
    async with opened(options(pulsar)) as driver:
        await publish(driver, channel, b"x")
        assert await subscriptions(pulsar, channel) == {UNREAD_SUBSCRIPTION}
        with raw_client(pulsar) as client:
            await to_thread.run_sync(client.subscribe, driver._connection.topics.topic(channel), "others")
            await to_thread.run_sync(driver._unread.see_to, driver._connection.topics.topic(channel))
            assert await subscriptions(pulsar, channel) == {"others"}


async def test_dead_letters_are_kept_though_their_topic_was_made_anew(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    async with opened(options(pulsar)) as driver:
        await driver.declare([one])
        await ask(pulsar, "DELETE", f"{path(one.dead_letter_channel)}?force=true")
        await publish(driver, one.dead_letter_channel, b"dead")
        assert await subscriptions(pulsar, one.dead_letter_channel) == {DEAD_LETTER_SUBSCRIPTION}


async def test_a_process_keeps_so_many_unread_channels_and_no_more() -> None:
    unread = Unread(cast("Any", Everywhere()), cast("Any", Nobody()), "keep")
    for number in range(MOST):
        unread.see_to(f"persistent://public/default/results-{number}")
    with pytest.raises(
        DriverRejected, match=r"100 such channels are kept already .* broker\.unread|set broker\.unread"
    ):
        unread.see_to("persistent://public/default/results-more")
    unread.release("persistent://public/default/results-7")
    unread.see_to("persistent://public/default/results-more")


async def test_a_message_ttl_takes_no_retries_and_no_dead_letters(pulsar: Broker, unique_name: Name) -> None:
    one, namespace = spec(unique_name()), f"public/{unique_name('ttl')}"
    await ask(pulsar, "PUT", f"/admin/v2/namespaces/{namespace}", b"{}")
    await ask(pulsar, "POST", f"/admin/v2/namespaces/{namespace}/messageTTL", b"30")
    async with opened(options(pulsar, topic_format=f"persistent://{namespace}/{{}}")) as driver:
        await driver.declare([one])
        for channel, ttl_s in {
            one.channels[0]: 30,
            one.dead_letter_channel: 0,
            **dict.fromkeys(one.retry_channels, 0),
        }.items():
            topic = driver._connection.topics.topic(channel)
            with anyio.fail_after(10):
                while await to_thread.run_sync(driver._admin.message_ttl, topic) != ttl_s:
                    await anyio.sleep(0.05)
        found = {each.kind: each for each in await driver.preflight(one)}
    assert "more than 30 s are lost" in found["channel"].warning
    assert (found["dead letter"].warning, found["dead letter"].note) == ("", "")


async def test_check_says_what_the_brokers_will_drop(pulsar: Broker, unique_name: Name) -> None:
    one, namespace = spec(unique_name()), f"public/{unique_name('ttl')}"
    quota = b'{"limitSize": 1000000, "policy": "consumer_backlog_eviction"}'
    await ask(pulsar, "PUT", f"/admin/v2/namespaces/{namespace}", b"{}")
    async with opened(options(pulsar, topic_format=f"persistent://{namespace}/{{}}", unread="drop")) as driver:
        await publish(driver, one.channels[0], b"x")
        await publish(driver, one.dead_letter_channel, b"x")
        await ask(pulsar, "POST", f"/admin/v2/namespaces/{namespace}/backlogQuota", quota)
        found = {each.kind: each for each in await driver.preflight(one)}
        assert "backlog quota" in found["channel"].warning
        assert "events are kept for 0 min" in found["channel"].note
        await ask(pulsar, "POST", f"/admin/v2/namespaces/{namespace}/messageTTL", b"30")
        found = {each.kind: each for each in await driver.preflight(one)}
        assert "more than 30 s" in found["dead letter"].note
        assert "a worker that starts takes it away" in found["dead letter"].note


@pytest.mark.parametrize(("kind", "partitions"), [("shared", 0), ("key_shared", 2), ("exclusive", 0)])
async def test_what_was_in_flight_of_a_removed_topic_touches_nothing_of_the_one_made_anew(
    pulsar: Broker, unique_name: Name, kind: Any, partitions: int
) -> None:
    one = spec(unique_name(), start="latest", options=PulsarSubscription(type=kind))
    whole = f"{path(one.channels[0])}{'/partitions' if partitions else ''}"
    fresh = {b"new %d" % number for number in range(200)}
    async with opened(options(pulsar, partitions=partitions)) as driver:
        await driver.declare([one])
        async with subscribed(driver, one) as source:
            await publish(driver, one.channels[0], *[b"old %d" % number for number in range(50)], key=b"k")
            held = await take(source, 50)
            await ask(pulsar, "DELETE", f"{whole}?force=true")
            if partitions:
                await ask(pulsar, "PUT", whole, b"%d" % partitions)
            await patiently(partial(publish, driver, one.channels[0], *fresh, key=b"k"))
            await settle_all(source, held)
            taken = await take(source, 200)
            assert {each.payload for each in taken} == fresh
            await settle_all(source, taken)
            assert (await source.backlog()).idle


async def settle_all(source: Source, deliveries: Sequence[Delivery]) -> None:
    """Acknowledge, again while the connection is lost."""
    left: Sequence[Any] = [Acked(each) for each in deliveries]
    with anyio.fail_after(20):
        while left:
            left = [each.settlement for each in await patiently(partial(source.settle, left))]
            await anyio.sleep(0.05 if left else 0)


async def test_a_subscription_that_is_removed_under_a_worker_is_not_made_again_behind_what_waits(
    pulsar: Broker, unique_name: Name
) -> None:
    one, waiting = spec(unique_name(), start="latest"), {b"%d" % number for number in range(30)}
    async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], b"first")
        await ack(source, await take(source, 1))
        await publish(driver, one.channels[0], *waiting)
        held = await take(source, 30)
        await settle_all(source, held[:6])
        await ask(pulsar, "DELETE", f"{path(one.channels[0])}/subscription/{one.group}?force=true")
        later = {b"later %d" % number for number in range(50)}
        await publish(driver, one.channels[0], *later)
        await settle_all(source, held[6:])
        come: set[bytes] = set()
        with anyio.fail_after(20):
            while not later <= come:
                come |= {each.payload for each in await patiently(partial(source.receive, 100, PLENTY))}


@pytest.mark.parametrize("running", [True, False])
async def test_a_channel_that_appears_after_the_first_start_is_read_from_its_beginning(
    pulsar: Broker, unique_name: Name, running: bool
) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=rf"{name}\..*", start="latest")
    async with opened(options(pulsar)) as driver:
        await publish(driver, f"{name}.old", b"before")
        await driver.declare([one])
        async with subscribed(driver, one) as source:
            if running:
                await publish(driver, f"{name}.new", b"1", b"2")
                await ack(source, await take(source, 2))
        await publish(driver, f"{name}.newer", b"3", b"4")
        await publish(driver, f"{name}.old", b"5")
        await driver.declare([one])
        async with subscribed(driver, one) as source:
            assert {each.payload for each in await take(source, 3)} == {b"3", b"4", b"5"}
            await expect_quiet(source)


async def test_a_topic_that_is_made_anew_while_no_worker_runs_is_read_from_its_beginning(
    pulsar: Broker, unique_name: Name
) -> None:
    one = spec(unique_name(), start="latest")
    async with opened(options(pulsar)) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], b"1")
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 1))
        await ask(pulsar, "DELETE", f"{path(one.channels[0])}?force=true")
        async with opened(options(pulsar)) as emitter:
            await publish(emitter, one.channels[0], b"2", b"3")
        await driver.declare([one])
        async with subscribed(driver, one) as source:
            assert [each.payload for each in await take(source, 2)] == [b"2", b"3"]


async def test_check_says_where_brokers_store_twice_what_is_sent_again(pulsar: Broker, unique_name: Name) -> None:
    one, namespace = spec(unique_name()), f"public/{unique_name('dedup')}"
    await ask(pulsar, "PUT", f"/admin/v2/namespaces/{namespace}", b"{}")
    async with opened(options(pulsar, topic_format=f"persistent://{namespace}/{{}}")) as driver:
        await driver.declare([one])
        for policy in (b"true", b"false"):
            await ask(pulsar, "POST", f"/admin/v2/namespaces/{namespace}/deduplication", policy)
            with anyio.fail_after(20):
                while ("no deduplication" in (await driver.preflight(one))[0].note) is (policy == b"true"):
                    await anyio.sleep(0.1)
