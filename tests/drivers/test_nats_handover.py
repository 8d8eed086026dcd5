"""A channel whose order holds goes from one holder to the next: what is handed on is skipped, and nothing else."""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import nats as client_library
import pytest
from msgspec import structs

from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Failure, Postponed, Released
from hexa_worker.drivers.base import Source, SubscriptionSpec
from hexa_worker.drivers.nats import NatsDriver
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.errors import DriverUnavailable
from tests.drivers.consuming import ack, publish, spec, subscribed, take
from tests.drivers.nats_tools import opened, options
from tests.lab.base import Broker
from tests.lab.proxy import Proxy

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]
LEASES = "hexa~~leases"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ordered(name: str) -> SubscriptionSpec:
    return spec(name, order_by=OrderBy.KEY)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(one.payload) for one in deliveries]


async def take_and_do(source: Source, count: int, done: set[int]) -> None:
    """Take deliveries and acknowledge those whose numbers are in `done`."""
    await ack(source, [one for one in await take(source, count) if int(one.payload) in done])


async def fill(driver: NatsDriver, one: SubscriptionSpec, count: int, first: int = 0) -> None:
    await publish(driver, one.channels[0], *[b"%d" % (first + number) for number in range(count)])


class Leases:
    """The lease of a subscription's channel, as it stands on the server."""

    def __init__(self, client: Any, one: SubscriptionSpec) -> None:
        self._stream = one.channels[0].replace(".", "~")
        self._subject = f"hexa.~~leases.{self._stream}.{one.group}"
        self._client = client

    async def read(self) -> dict[str, Any]:
        found = await self._client.jetstream().get_last_msg(LEASES, self._subject)
        lease: dict[str, Any] = json.loads(found.data)
        return lease

    async def write(self, lease: dict[str, Any]) -> None:
        await self._client.jetstream().publish(self._subject, json.dumps(lease).encode())

    async def delete_stream(self) -> None:
        await self._client.jetstream().delete_stream(self._stream)

    async def born(self) -> str:
        """When the stream was made, as the server says it."""
        answer = await self._client.request(f"$JS.API.STREAM.INFO.{self._stream}", b"", timeout=5)
        return str(json.loads(answer.data)["created"])


@pytest.fixture
def one(unique_name: Name) -> SubscriptionSpec:
    return ordered(unique_name())


@pytest.fixture
async def leases(nats: Broker, one: SubscriptionSpec) -> AsyncIterator[Leases]:
    """The lease of `one`."""
    client = await client_library.connect(nats.address)
    yield Leases(client, one)
    await client.close()


async def test_a_note_is_handed_on_until_its_messages_are_passed(
    nats: Broker, one: SubscriptionSpec, leases: Leases
) -> None:
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 10)
        async with subscribed(driver, one) as source:
            await take_and_do(source, 10, {1, 2, 5, 9})
        async with subscribed(driver, one) as source:
            again = await take(source, 6)
            assert numbers(again) == [0, 3, 4, 6, 7, 8]
            await ack(source, again[1:])
        assert (await leases.read())["done"]["runs"] == "2.8"
        async with subscribed(driver, one) as source:
            await fill(driver, one, 1, first=10)
            rest = await take(source, 2)
            assert numbers(rest) == [0, 10]
            await ack(source, rest)
            assert (await source.backlog()).idle
        last = await leases.read()
        assert (last["owner"], last["floor"], last["done"]["runs"]) == ("", 11, "")


async def test_a_holder_that_dies_leaves_the_note_of_the_one_before(nats: Broker, one: SubscriptionSpec) -> None:
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 6)
        async with subscribed(driver, one) as source:
            await take_and_do(source, 6, {2, 3})
        async with opened(nats.address) as dying:
            assert numbers(await take(await dying.subscribe(one), 4)) == [0, 1, 4, 5]
            await dying.crash()
        async with subscribed(driver, one) as source:
            assert numbers(await take(source, 4)) == [0, 1, 4, 5]


async def test_a_stop_while_a_new_term_begins_hands_on_all_the_same(
    nats: Broker, one: SubscriptionSpec, leases: Leases
) -> None:
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 30)
        for step in range(15):
            async with subscribed(driver, one) as source:
                first, second, *_ = await take(source, 30 - step)
                assert numbers([first, second]) == [0, step + 1]
                await ack(source, [second])
                await source.settle([Released(first)])  # it must come again before the others: in a new term
                await anyio.sleep(step / 5_000)  # stopped at each of its steps
            assert (await leases.read())["owner"] == ""


@pytest.mark.parametrize("step", ["STREAM.INFO", "CONSUMER.NAMES", "CONSUMER.DELETE", "CONSUMER.DURABLE.CREATE"])
async def test_a_term_that_could_not_begin_begins_again(
    nats: Broker,
    one: SubscriptionSpec,
    open_proxy: Callable[[Broker], Proxy],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    proxy = open_proxy(nats)
    async with opened(nats.proxied_address) as driver:
        await driver.declare([one])
        await fill(driver, one, 3)
        async with subscribed(driver, one) as source:
            await ack(source, await take(source, 3))
            asked, failed = NatsConnection.api, anyio.Event()

            async def api(connection: NatsConnection, action: str, **body: Any) -> dict[str, Any]:
                if action.startswith(step) and not failed.is_set():
                    failed.set()
                    raise DriverUnavailable("no answer")
                return await asked(connection, action, **body)

            monkeypatch.setattr(NatsConnection, "api", api)  # one answer is lost, and the connection stays
            proxy.cut()  # a new connection needs a new term
            proxy.heal()
            with anyio.fail_after(10):
                await failed.wait()
            await fill(driver, one, 3, first=3)
            rest = await take(source, 3, within_s=10)
            assert numbers(rest) == [3, 4, 5]
            await ack(source, rest)


async def postpone(source: Source, delivery: Delivery) -> Delivery:
    """Let a delivery wait for a minute in its place; what it is to come as."""
    again = structs.replace(delivery, attempt=delivery.attempt + 1, due_ms=time.time_ns() // 1_000_000 + 60_000)
    failure = Failure(error="Retry", message="", reason="asked")
    assert await source.settle([Postponed(delivery, again, 60.0, failure)]) == []
    return again


async def test_what_waits_for_a_retry_goes_on_where_a_killed_holder_was(
    nats: Broker, one: SubscriptionSpec, leases: Leases
) -> None:
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 3)
        async with opened(nats.address) as dying:
            source = await dying.subscribe(one)
            first, second, third = await take(source, 3)
            await ack(source, [second])
            waiting = [await postpone(source, first), await postpone(source, third)]
            with anyio.fail_after(10):
                while len((await leases.read())["waiting"]) < len(waiting):
                    await anyio.sleep(0.05)
            await dying.crash()
        async with subscribed(driver, one) as source:
            again = {int(got.payload): (got.attempt, got.due_ms) for got in await take(source, 3)}
            assert again == {0: (1, waiting[0].due_ms), 1: (0, 0), 2: (1, waiting[1].due_ms)}


async def test_what_is_postponed_while_a_new_term_begins_is_kept_in_flight(nats: Broker, one: SubscriptionSpec) -> None:
    """Were it given up, what follows in its key would overtake it."""
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 2)
        async with subscribed(driver, one) as source:
            first, second = await take(source, 2)
            await source.settle([Released(second)])  # it needs a new term; nothing in hand is certain until then
            again = await postpone(source, first)
            assert numbers(await take(source, 1)) == [1]
            await ack(source, [again])


async def test_what_has_ended_is_not_said_to_wait(nats: Broker, one: SubscriptionSpec, leases: Leases) -> None:
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 2)
        async with subscribed(driver, one) as source:
            first, second = await take(source, 2)
            await ack(source, [await postpone(source, second)])
            await postpone(source, first)
        assert list((await leases.read())["waiting"]) == [str(first.offset)]


async def test_whoever_lost_the_lease_hands_nothing_on(nats: Broker, one: SubscriptionSpec, leases: Leases) -> None:
    async with opened(nats.address) as frozen, opened(nats.address) as driver:
        await frozen.declare([one])
        await fill(frozen, one, 4)
        source = await frozen.subscribe(one)
        await take_and_do(source, 4, {1, 2})
        held = await leases.read()
        await leases.write({**held, "owner": "another", "term": held["term"] + 1})
        await source.close()
        assert (await leases.read()) == {**held, "owner": "another", "term": held["term"] + 1}
        async with subscribed(driver, one) as other:
            assert numbers(await take(other, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("forged", [False, True], ids=["made anew", "with its numbers given again"])
async def test_other_messages_with_the_same_sequences_are_not_skipped(
    nats: Broker, one: SubscriptionSpec, leases: Leases, *, forged: bool
) -> None:
    """A stream that loses its end, as without power, gives numbers again: here by a new one that claims to be old."""
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 6)
        async with subscribed(driver, one) as source:
            first, *others = await take(source, 6)
            await postpone(source, first)
            await ack(source, others[:3])
        left = await leases.read()
        assert (left["done"]["runs"], len(left["waiting"])) == ("2.2", 1)
        await leases.delete_stream()
        await driver.close()
    async with opened(nats.address) as driver:
        await driver.declare([one])
        await fill(driver, one, 6, first=10)
        if forged:
            await leases.write({**await leases.read(), "born": await leases.born()})
        async with subscribed(driver, one) as source:
            other = await take(source, 6)
            assert numbers(other) == [10, 11, 12, 13, 14, 15]
            assert {got.attempt for got in other} == {0}


async def test_who_starts_when_the_holder_is_long_dead_takes_over_at_once(nats: Broker, one: SubscriptionSpec) -> None:
    """Processes that are restarted again and again would never have seen the lease unchanged for its whole length."""
    lease_s = 6.0
    async with opened(nats.address, ack_wait_s=lease_s) as watcher:
        holder = NatsDriver(options(nats.address, ack_wait_s=lease_s))
        await holder.open()
        await fill(holder, one, 1)
        await take(await holder.subscribe(one), 1)
        await holder.crash()
        await anyio.sleep(lease_s + 0.5)  # the server's clock has to move
        async with subscribed(watcher, one) as source:
            assert numbers(await take(source, 1, within_s=lease_s * 0.75)) == [0]
