"""Claims about retries in their place: what is kept in hand holds nobody else up, and is handed on in its order."""
# ruff: noqa: D103 - the name of a claim says what it claims

from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import structs

from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import Outcome, Retry, Snooze
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Postponed, Route, counted, settle
from hexa_worker.drivers.base import Capabilities, Driver, Source, SubscriptionSpec
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal
from hexa_worker.testing.conformance.ordering import KEY
from hexa_worker.testing.conformance.suite import claim

KEYS = 80
"""More than any driver deals its keys onto, so that some share whatever it is that they are dealt onto."""


def _by_key(capabilities: Capabilities) -> bool:
    return OrderBy.KEY in capabilities.order


def _kept(capabilities: Capabilities) -> bool:
    return capabilities.shared and capabilities.keeps_attempts and _by_key(capabilities)


def _shared(capabilities: Capabilities) -> bool:
    return capabilities.shared and _by_key(capabilities)


def _spec(bench: ConformanceContext) -> SubscriptionSpec:
    return structs.replace(bench.spec(order_by=OrderBy.KEY), in_place=True)


async def _publish(bench: ConformanceContext, driver: Driver, numbers: Iterable[int]) -> None:
    await bench.publish_all(driver, [bench.message(b"%d" % one, key=b"k%d" % (one % KEYS)) for one in numbers])


async def _handle_others(bench: ConformanceContext, source: Source, count: int, key: bytes = b"k0") -> list[Delivery]:
    """Acknowledge `count` deliveries of other keys than `key`; those of `key` that came too, un-acknowledged."""
    kept: list[Delivery] = []
    done = 0
    while done < count:
        batch = await bench.take_some(source, 50)
        others = [one for one in batch if one.key != key]
        kept += [one for one in batch if one.key == key]
        await bench.ack(source, others)
        done += len(others)
    expect_equal(done, count, "deliveries of other keys")
    return kept


def _route(spec: SubscriptionSpec) -> Route:
    policy = RetryPolicy(maximum_retries=spec.retry_count, order="key")
    return Route(action=spec.action, retry_base=spec.retry_base, policy=policy, in_place=OrderBy.KEY)


def _postponed(
    bench: ConformanceContext, delivery: Delivery, spec: SubscriptionSpec, outcome: Outcome | None = None
) -> Postponed:
    made = settle(outcome or Retry(after=60), delivery, _route(spec), now_ms=bench.now_ms())
    if not isinstance(made, Postponed):
        raise TypeError("not postponed")
    return made


def _expect_each_key_in_order(deliveries: Sequence[Delivery]) -> None:
    numbers: dict[bytes | None, list[int]] = defaultdict(list)
    for one in deliveries:
        numbers[one.key].append(int(one.payload))
    for key, got in numbers.items():
        expect_equal(got, sorted(got), f"order of {key!r}")


@claim(needs=_by_key, needs_text=KEY)
async def while_one_key_is_kept_in_flight_all_others_go_on(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), _spec(bench)
    source = await driver.subscribe(spec)
    await _publish(bench, driver, range(KEYS))
    kept = await _handle_others(bench, source, KEYS - 1)
    for more in range(1, 3):
        await _publish(bench, driver, range(more * KEYS, (more + 1) * KEYS))
        kept += await _handle_others(bench, source, KEYS - 1)
    while len(kept) < 3:  # noqa: PLR2004 - one of each round
        kept += await bench.take_some(source, 50)
    expect_equal([int(one.payload) for one in kept], [0, KEYS, 2 * KEYS], "what was kept")
    await bench.ack(source, kept)


@claim("kill", needs=_shared, needs_text=KEY)
async def what_a_dead_process_kept_in_flight_comes_again_before_what_follows_in_its_key(
    bench: ConformanceContext,
) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), _spec(bench)
    source = await first.subscribe(spec)
    await _publish(bench, first, range(2 * KEYS))
    await _handle_others(bench, source, 2 * KEYS - 2)
    await bench.kill(first)
    await _publish(bench, second, range(2 * KEYS, 3 * KEYS))
    source = await second.subscribe(spec)
    come: list[Delivery] = []
    while not {0, KEYS, *range(2 * KEYS, 3 * KEYS)} <= {int(one.payload) for one in come}:
        batch = await bench.take_some(source, 50)
        come += batch
        await bench.ack(source, batch)
    _expect_each_key_in_order(come)


@claim(needs=_kept, needs_text="to keep attempts")
async def a_postponed_delivery_comes_to_the_next_process_as_its_next_attempt_and_at_once(
    bench: ConformanceContext,
) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), _spec(bench)
    source = await first.subscribe(spec)
    await bench.publish_all(first, [bench.message(b"%d" % number, key=b"k0") for number in range(3)])
    held = await bench.take_some(source, 3)
    postponed = _postponed(bench, held[0], spec)
    await bench.settle(source, postponed)
    await bench.settle(source, postponed)
    await first.close()
    source = await second.subscribe(spec)
    come: list[Delivery] = []
    while len(come) < 3:  # noqa: PLR2004 - as many as were published
        come += await bench.take_some(source, 3)
    expect_equal([int(one.payload) for one in come], [0, 1, 2], "what came")
    expect_equal([one.attempt for one in come], [1, 0, 0], "attempts")
    expect_equal([one.due_ms for one in come], [postponed.again.due_ms, 0, 0], "due times")
    expect(come[0].due_ms > bench.now_ms(), "it comes before it is due: waiting is not the driver's business")
    await bench.ack(source, come)
    expect_equal((await source.backlog()).leased, 0, "deliveries in hand after all")


@claim(needs=_kept, needs_text="to keep attempts")
async def what_is_snoozed_in_its_place_comes_to_the_next_process_with_its_count(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), _spec(bench)
    source = await first.subscribe(spec)
    await bench.publish_all(first, [bench.message(b"x", key=b"k0")])
    (one,) = await bench.take(source, 1)
    snoozed = _postponed(bench, _postponed(bench, one, spec, Snooze(60)).again, spec, Snooze(60))
    await bench.settle(source, snoozed)
    await first.close()
    source = await second.subscribe(spec)
    (again,) = await bench.take(source, 1)
    expect_equal(again.due_ms, snoozed.again.due_ms, "due time")
    again = counted(again, _route(spec))
    expect_equal((again.attempt, again.snoozes), (0, 2), "attempt and snoozes")
    await bench.ack(source, [again])
    expect_equal((await source.backlog()).leased, 0, "deliveries in hand after all")
