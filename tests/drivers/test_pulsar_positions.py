"""Subscriptions on pulsar that an operator removes, or renames: they go on where they stood."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import anyio
import pytest

from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Failure, RetryAt
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.pulsar import source_builder
from hexa_worker.drivers.pulsar.names import TopicNames
from hexa_worker.drivers.pulsar.positions import MARK, Positions
from hexa_worker.errors import DriverRejected, DriverUnavailable
from tests.drivers.consuming import ack, publish, spec, subscribed, take
from tests.drivers.pulsar_tools import ask, expect_quiet, opened, options
from tests.lab.base import Broker

pytestmark = [pytest.mark.anyio]
Name = Callable[..., str]
TOPIC = "persistent://public/default/in"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def path(channel: str) -> str:
    return f"/admin/v2/persistent/public/default/{channel}"


async def all_noted(node: Broker, part: str, one: SubscriptionSpec) -> None:
    """Wait until all there is counts as settled, and is noted as that."""
    with anyio.fail_after(20):
        while True:
            stats = await ask(node, "GET", f"{path(part)}/internalStats")
            stands = stats["cursors"][one.group]["markDeletePosition"]
            properties = await ask(node, "GET", f"{path(part)}/properties")
            if stats["lastConfirmedEntry"] == stands == properties.get(f"hexa-worker.position.{one.group}"):
                return
            await anyio.sleep(0.05)


def note_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_builder, "NOTE_EVERY_S", 0.05)
    monkeypatch.setattr(source_builder, "NOTE_REST", 0)


def payloads(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]


@pytest.mark.pulsar
async def test_a_subscription_that_is_removed_under_its_worker_goes_on_where_it_stood(
    pulsar: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    note_often(monkeypatch)
    one = spec(unique_name())
    (channel,) = one.channels
    async with opened(options(pulsar, batching="none")) as driver, subscribed(driver, one) as source:
        await publish(driver, channel, *payloads(0, 10))
        await ack(source, await take(source, 10))
        await all_noted(pulsar, channel, one)
        await publish(driver, channel, *payloads(10, 15))
        held = await take(source, 5)
        await ask(pulsar, "DELETE", f"{path(channel)}/subscription/{one.group}?force=true")
        await publish(driver, channel, *payloads(15, 20))
        rest = await take(source, 5)
        assert [each.payload for each in [*held, *rest]] == payloads(10, 20)
        await expect_quiet(source, 0.2)
    assert caplog.text.count("was removed and made again: it starts behind message") == 1


@pytest.mark.pulsar
@pytest.mark.parametrize("partitions", [0, 2])
async def test_a_subscription_that_is_removed_while_no_worker_runs_goes_on_where_it_stood(
    pulsar: Broker, unique_name: Name, partitions: int, caplog: pytest.LogCaptureFixture
) -> None:
    one = spec(unique_name(), start="latest")
    (channel,) = one.channels
    async with opened(options(pulsar, batching="none", partitions=partitions)) as driver:
        async with subscribed(driver, one) as source:
            await publish(driver, channel, *payloads(0, 10))
            await ack(source, await take(source, 10))
        await ask(pulsar, "PUT", f"{path(channel)}/unload")  # what stands at the end of a closed ledger is there, too
        await ask(pulsar, "DELETE", f"{path(channel)}/subscription/{one.group}?force=true")
        await publish(driver, channel, *payloads(10, 15))
        async with subscribed(driver, one) as source:
            taken = await take(source, 5)
            assert sorted(each.payload for each in taken) == payloads(10, 15)
            await ack(source, taken)
            await expect_quiet(source, 0.2)
    assert caplog.text.count("because it was removed, and that is noted as settled") == max(partitions, 1)


@pytest.mark.pulsar
async def test_a_subscription_that_an_operator_puts_back_is_left_there(
    pulsar: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_often(monkeypatch)
    one = spec(unique_name())
    (channel,) = one.channels
    async with opened(options(pulsar, batching="none")) as driver, subscribed(driver, one) as source:
        await publish(driver, channel, *payloads(0, 5))
        await ack(source, await take(source, 5))
        await all_noted(pulsar, channel, one)
        oldest = b'{"ledgerId": -1, "entryId": -1, "partitionIndex": -1}'
        await ask(pulsar, "POST", f"{path(channel)}/subscription/{one.group}/resetcursor", oldest)
        assert [each.payload for each in await take(source, 5)] == payloads(0, 5)


@pytest.mark.pulsar
async def test_a_renamed_group_goes_on_with_the_retries_of_the_old_one(
    pulsar: Broker, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    old, group = spec(unique_name()), unique_name("renamed")
    new = spec(old.action, group=group)
    async with opened(options(pulsar)) as driver:
        async with subscribed(driver, old) as source:
            await publish(driver, old.channels[0], b"done", b"waits")
            for delivery in await take(source, 2):
                record = Message(channel=old.retry_channels[0], payload=delivery.payload)
                why = Failure(error="Oops", message="no", reason="failed")
                assert await source.settle([RetryAt(delivery, record, 0.0, why)]) == []
            retried = await take(source, 2)
            await ack(source, [each for each in retried if each.payload == b"done"])
        (finding,) = [each for each in await driver.preflight(new) if each.kind == "subscription"]
        assert finding.note == f"goes on with the retries of {old.group}"
        await driver.declare([new])
        async with subscribed(driver, new) as source:
            taken = await take(source, 3)
            assert sorted((each.attempt, each.payload) for each in taken) == [
                (0, b"done"),
                (0, b"waits"),
                (1, b"waits"),
            ]
    assert f"the retries up to there were settled by {old.group}" in caplog.text


class Store:
    """An admin API with one topic, of which it knows what it is told."""

    def __init__(self, last: str, noted: str = "", partitions: Sequence[str] = (TOPIC,)) -> None:
        self.last = last
        self.cursors: dict[str, str] = {}
        self.given: dict[str, Mapping[str, str]] = {}
        self.noted = {"hexa-worker.position.work": noted} if noted else {}
        self.partitions = partitions
        self.refusal: Exception | None = None
        self.made: list[tuple[str, tuple[int, int]]] = []
        self.reset: list[tuple[int, int]] = []

    def part_names(self, _topic: str) -> Sequence[str]:
        return self.partitions

    def subscriptions(self, part: str) -> Sequence[str]:
        if self.refusal is not None:
            raise self.refusal
        return list(self.cursors) if part == self.partitions[0] else []

    def properties(self, _part: str) -> Mapping[str, str]:
        return self.noted

    def set_properties(self, _part: str, properties: Mapping[str, str]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.noted = {**self.noted, **properties}

    def internal_stats(self, _part: str) -> Mapping[str, Any]:
        cursors = {name: {"markDeletePosition": stands} for name, stands in self.cursors.items()}
        return {"lastConfirmedEntry": self.last, "cursors": cursors}

    def make_subscription(self, part: str, _name: str, first: tuple[int, int], _properties: Mapping[str, str]) -> None:
        self.made.append((part, first))

    def reset_subscription(self, _part: str, _name: str, first: tuple[int, int]) -> None:
        self.reset.append(first)

    def subscription_properties(self, _part: str, name: str) -> Mapping[str, str]:
        return self.given.get(name, {})

    def describe_subscription(self, _part: str, name: str, properties: Mapping[str, str]) -> None:
        self.given[name] = properties


def positions(store: Store) -> Positions:
    return Positions(cast("Any", store), TopicNames("persistent://public/default/{}"), "work")


def test_what_is_noted_of_messages_that_are_not_there_skips_nothing() -> None:
    store = Store(last="3:7", noted="12:4")
    positions(store).begin(TOPIC, start="latest")
    assert store.made == [(TOPIC, (-1, -1))]


def test_a_partition_that_was_added_while_no_worker_ran_is_read_from_its_first_message() -> None:
    store = Store(last="3:7", partitions=[f"{TOPIC}-partition-0", f"{TOPIC}-partition-1"])
    store.cursors["work"] = "3:1"
    positions(store).begin(TOPIC, start="latest")
    assert store.made == [(f"{TOPIC}-partition-1", (-1, -1))]


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_a_new_subscription_is_left_to_whoever_subscribes(start: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(last="3:7")
    with caplog.at_level("INFO"):
        positions(store).begin(TOPIC, start=start)
    assert store.made == []
    assert f"at the {'oldest' if start == 'earliest' else 'newest'} message, because it is new" in caplog.text


def test_only_what_would_skip_events_waits_for_an_admin_api_that_is_away() -> None:
    store = Store(last="3:7", noted="3:1")
    store.refusal = DriverUnavailable("away")
    positions(store).begin(TOPIC, start="earliest")
    with pytest.raises(DriverUnavailable):
        positions(store).begin(TOPIC, start="latest")


def test_a_subscription_without_a_mark_is_put_back_once_where_it_stood() -> None:
    store = Store(last="3:7")
    store.cursors["work"] = "3:5"
    known = positions(store)
    known.look([TOPIC])
    assert (MARK in store.given["work"], store.noted["hexa-worker.position.work"]) == (True, "3:5")
    store.cursors["work"] = "3:-1"
    store.given.clear()
    assert known.were_settled("in")
    assert store.reset == [(3, 6)]
    store.cursors["work"] = "3:5"
    assert known.were_settled("in")
    assert store.reset == [(3, 6)]


def test_positions_that_may_not_be_noted_are_known_while_the_worker_runs(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(last="3:7")
    store.cursors["work"] = "3:5"
    store.refusal = DriverRejected("no rights")
    known = positions(store)
    with caplog.at_level("INFO"):
        for stands in ("3:5", "3:6"):
            store.cursors["work"] = stands
            known.look([TOPIC])
    assert caplog.text.count("cannot be noted") == 1
    store.cursors["work"] = "3:-1"
    store.given.clear()
    known.look([TOPIC])
    assert store.reset == [(3, 7)]
