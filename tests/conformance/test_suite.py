"""The suite itself: it is complete, it can be run by others, and it catches drivers that break their promises."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked, DeadLettered, Released, RetryAt, Settlement
from hexa_worker.drivers import memory
from hexa_worker.drivers.base import Backlog, Revoked, SubscriptionSpec, Unsettled, nothing_revoked
from hexa_worker.errors import DriverError
from hexa_worker.testing import DriverUnderTest, check_driver, claims
from hexa_worker.testing.virtual import VirtualTime
from tests.conformance.under_test import MEMORY

MakeSource = Callable[[memory.MemoryStore, SubscriptionSpec], memory.MemorySource]


def in_virtual_time(time: VirtualTime, **changes: Any) -> DriverUnderTest[memory.MemoryStore]:
    """The memory driver on stores that live in `time`."""

    @asynccontextmanager
    async def broker() -> Any:
        yield memory.MemoryStore(time)

    fields = {name: getattr(MEMORY, name) for name in MEMORY.__dataclass_fields__}
    return DriverUnderTest(**{**fields, "broker": broker, "clock": time, "slack_s": 0.2, **changes})


class BrokenDriver(memory.MemoryDriver):
    """A memory driver whose sources are made by somebody else."""

    make_source: MakeSource = memory.MemorySource

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> memory.MemorySource:
        del revoked
        self.store.require()
        source = type(self).make_source(self.store, spec)
        self._sources.append(source)
        return source


class Source(memory.MemorySource):
    """What mutants are made of."""

    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        return list(settlements)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        return await super().settle(self._change_each(settlements))


class DropsReleased(Source):
    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        return [Acked(one.delivery) if isinstance(one, Released) else one for one in settlements]


class RetriesEarly(Source):
    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        return [_with_record(one, due_ms=0) for one in settlements]


class RetriesLate(Source):
    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        return [
            _with_record(one, due_ms=one.record.due_ms + 3_000) if isinstance(one, RetryAt) else one
            for one in settlements
        ]


class LosesHeaders(Source):
    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        return [_with_record(one, headers=()) for one in settlements]


class LosesKeys(Source):
    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        return [_with_record(one, key=None) for one in settlements]


class KeepsOriginals(Source):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        for one in settlements:
            if isinstance(one, RetryAt | DeadLettered):
                self._store.append(one.record)
        return await super().settle([one for one in settlements if not isinstance(one, RetryAt | DeadLettered)])


class AcksAllBelow(Source):
    """A watermark that takes an acknowledgement for one of all that came before."""

    def _change_each(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        highest = max((one.delivery.offset for one in settlements if isinstance(one, Acked)), default=-1)
        below = [held for _, held in self._held.values() if held.offset < highest]
        return [*settlements, *map(Acked, below)]


class SettlesWhatItLost(Source):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        for one in settlements:
            if isinstance(one, RetryAt | DeadLettered) and id(one.delivery) in self._taken_away:
                self._store.append(one.record)
        await super().settle(settlements)
        return []


class LosesOnClose(Source):
    def _hand_back(self, released: Sequence[tuple[int, Delivery]]) -> None:
        if not self._lost:
            super()._hand_back(released)


class IgnoresStop(Source):
    def stop(self) -> None:
        pass


class IgnoresMaxCount(Source):
    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        return await super().receive(max_count + 1, max_bytes)


class IgnoresMaxBytes(Source):
    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        del max_bytes
        return await super().receive(max_count, 1 << 40)


class HandsOutTwice(Source):
    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        batch = await super().receive((max_count + 1) // 2, max_bytes)
        return [*batch, *batch][:max_count]


class Reverses(Source):
    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        return (await super().receive(max_count, max_bytes))[::-1]


class TrustsHeaders(Source):
    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        batch = await super().receive(max_count, max_bytes)
        return [msgspec.structs.replace(one, attempt=int(dict(one.headers).get("hexa-attempt", b"0"))) for one in batch]


class IsAlwaysIdle(Source):
    async def backlog(self) -> Backlog:
        return Backlog(ready=0, delayed=0, leased=0)


class SwallowsCancellation(Source):
    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        try:
            return await super().receive(max_count, max_bytes)
        except asyncio.CancelledError:
            return []


class LeaksVendorErrors(Source):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        if any(isinstance(one, DeadLettered) for one in settlements):
            raise OSError("connection reset")
        return await super().settle(settlements)


def _with_record(settlement: Settlement, **fields: Any) -> Settlement:
    if isinstance(settlement, RetryAt):
        record = msgspec.structs.replace(settlement.record, **fields)
        return RetryAt(settlement.delivery, record, settlement.delay_s, settlement.failure)
    return settlement


class PublishesUnordered(memory.MemoryDriver):
    async def publish(self, messages: Any) -> Sequence[str | DriverError]:
        return (await super().publish(messages[::-1]))[::-1]


class RefusesTheWholeBatch(memory.MemoryDriver):
    async def publish(self, messages: Any) -> Sequence[str | DriverError]:
        answers = await super().publish(
            [one for one in messages if len(one.payload) > (memory.CAPABILITIES.max_payload or 0)]
        )
        return [answers[0]] * len(messages) if answers else await super().publish(messages)


class RemovesNothing(memory.MemoryDriver):
    async def remove(self, channel: str, offsets: Sequence[int]) -> int:
        del channel
        return len(offsets)


class ForgetsThePage(memory.MemoryDriver):
    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        del after
        return await super().browse(channel, -1, limit, since_ms)


class CannotCloseTwice(memory.MemoryDriver):
    async def close(self) -> None:
        if not self._sources:
            raise OSError("not open")
        await super().close()


def _driver_with(source: MakeSource) -> Callable[[memory.MemoryStore], memory.MemoryDriver]:
    return type("Broken", (BrokenDriver,), {"make_source": staticmethod(source)})


CAUGHT: dict[type, str] = {
    DropsReleased: "a_released_delivery_comes_again_at_once_as_the_same_attempt",
    RetriesEarly: "a_retry_comes_when_it_is_due_as_the_next_attempt",
    RetriesLate: "a_retry_comes_when_it_is_due_as_the_next_attempt",
    LosesHeaders: "a_retry_carries_payload_key_and_headers_of_its_original",
    LosesKeys: "a_retry_carries_payload_key_and_headers_of_its_original",
    KeepsOriginals: "after_a_retry_the_original_is_gone",
    AcksAllBelow: "acknowledging_out_of_order_is_kept_exactly",
    SettlesWhatItLost: "what_is_settled_after_the_lease_is_lost_is_answered_so_and_writes_nothing",
    LosesOnClose: "closing_a_driver_gives_its_deliveries_to_a_waiting_one",
    IgnoresStop: "stop_ends_a_waiting_receive_with_nothing",
    IgnoresMaxCount: "receive_gives_at_most_max_count",
    IgnoresMaxBytes: "receive_stops_adding_when_max_bytes_are_reached",
    HandsOutTwice: "each_message_goes_to_exactly_one_of_two_drivers_of_a_group",
    Reverses: "the_deliveries_of_a_key_come_in_order",
    TrustsHeaders: "headers_from_outside_do_not_change_the_attempt",
    IsAlwaysIdle: "backlog_tells_ready_leased_and_delayed_apart",
    SwallowsCancellation: "a_cancelled_receive_is_a_cancellation_and_not_a_failure",
    LeaksVendorErrors: "after_a_dead_letter_the_original_is_gone",
    PublishesUnordered: "a_message_with_a_key_keeps_its_place_among_those_of_its_key",
    RefusesTheWholeBatch: "a_payload_over_the_limit_is_refused_and_its_neighbours_are_stored",
    RemovesNothing: "removed_dead_letters_are_gone_and_counted",
    ForgetsThePage: "browsing_pages_through_all_records",
    CannotCloseTwice: "closing_twice_is_harmless",
}


@pytest.mark.parametrize("mutant", CAUGHT, ids=lambda mutant: mutant.__name__)
def test_a_driver_that_breaks_a_promise_breaks_the_claim_about_it(mutant: Any) -> None:
    driver = _driver_with(mutant) if issubclass(mutant, memory.MemorySource) else mutant
    time = VirtualTime()
    under_test = in_virtual_time(time, driver=driver, deadline_s=5.0)
    broken = next(one for one in claims(under_test) if one.name == CAUGHT[mutant])
    with pytest.raises((AssertionError, OSError)):
        time.run(broken)


class WallOnly:
    """A clock that knows wall time only."""

    def __init__(self, clock: Clock) -> None:
        self.now_ms = clock.now_ms

    def monotonic(self) -> float:
        return self.now_ms() / 1000


def test_a_driver_that_waits_by_the_wall_clock_breaks_the_claim_about_it() -> None:
    def clocked(store: memory.MemoryStore, clock: Clock) -> memory.MemoryDriver:
        store.clock = WallOnly(clock)
        return memory.MemoryDriver(store)

    time = VirtualTime()
    under_test = in_virtual_time(time, clocked=clocked)
    broken = next(one for one in claims(under_test) if "whatever_the_wall_clock_says" in one.name)
    with pytest.raises(AssertionError, match="early: after 0"):
        time.run(broken)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_third_party_checks_its_driver_with_one_call(backend: Any) -> None:
    time = VirtualTime()
    report = time.run(check_driver, in_virtual_time(time), backend=backend)
    assert len(report.kept) >= 60
    assert set(report.skipped) == {
        "the_broker_counts_the_deaths_of_a_delivery",
        "confirmed_messages_survive_the_death_of_every_process",
    }


def test_claims_are_left_out_by_capabilities_and_missing_hooks_only() -> None:
    modest = msgspec.structs.replace(memory.CAPABILITIES, patterns=False, shared=False, order=frozenset())
    time = VirtualTime()
    left_out = {one.name for one in claims(in_virtual_time(time)) if one.skip}
    fewer = {one.name for one in claims(in_virtual_time(time, capabilities=modest, kill=None, away=None)) if one.skip}
    assert left_out < fewer
    assert "a_pattern_finds_channels_that_are_made_later" in fewer
    assert "a_source_heals_when_its_broker_comes_back" in fewer


def test_a_broken_claim_is_named_in_the_report() -> None:
    time = VirtualTime()
    with pytest.raises(ExceptionGroup) as caught:
        time.run(check_driver, in_virtual_time(time, driver=CannotCloseTwice))
    assert "closing_before_opening_is_harmless" in str(caught.value)


def test_a_claim_about_a_driver_that_hangs_ends() -> None:
    class Hangs(memory.MemoryDriver):
        async def publish(self, messages: Any) -> Sequence[str | DriverError]:
            del messages
            await anyio.sleep_forever()
            return []

    time = VirtualTime()
    one = next(one for one in claims(in_virtual_time(time, driver=Hangs)) if one.name.startswith("ids_are"))
    with pytest.raises(AssertionError, match="not done within"):
        time.run(one)
