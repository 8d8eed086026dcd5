"""Claims about order: of one key or one channel, in one driver, across drivers, and after a take-over."""
# ruff: noqa: D103 - the name of a claim says what it claims

from collections import defaultdict
from collections.abc import Callable, Sequence

import anyio

from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Released
from hexa_worker.drivers.base import Capabilities, Driver, Source
from hexa_worker.testing.conformance.context import PLENTY, ConformanceContext, expect, expect_equal
from hexa_worker.testing.conformance.suite import claim

Group = Callable[[Delivery], object]


def _by_key(capabilities: Capabilities) -> bool:
    return OrderBy.KEY in capabilities.order


def _by_channel(capabilities: Capabilities) -> bool:
    return OrderBy.CHANNEL in capabilities.order


def _by_key_shared(capabilities: Capabilities) -> bool:
    return capabilities.shared and _by_key(capabilities)


def _by_channel_shared(capabilities: Capabilities) -> bool:
    return capabilities.shared and _by_channel(capabilities)


KEY = "order by key"
CHANNEL = "order by channel"


async def _publish_keyed(bench: ConformanceContext, driver: Driver, count: int, keys: int) -> None:
    """Publish ``0…count-1``, dealt onto `keys` keys."""
    messages = [bench.message(b"%d" % number, key=b"k%d" % (number % keys)) for number in range(count)]
    await bench.publish_all(driver, messages)


async def _drain(bench: ConformanceContext, source: Source, count: int) -> list[Delivery]:
    """Receive and acknowledge until `count` deliveries came.

    A driver may hold back what follows in a key until what is in hand of it is settled.
    """
    come: list[Delivery] = []
    while len(come) < count:
        batch = await bench.take_some(source, 9)
        come += batch
        await bench.ack(source, batch)
    return come


def _expect_ordered(deliveries: Sequence[Delivery], group: Group) -> None:
    numbers: dict[object, list[int]] = defaultdict(list)
    for one in deliveries:
        numbers[group(one)].append(int(one.payload))
    for name, got in numbers.items():
        expect_equal(got, sorted(got), f"order of {name!r}")


def _key(delivery: Delivery) -> object:
    return delivery.key


def _channel(delivery: Delivery) -> object:
    return delivery.channel


@claim(needs=_by_key, needs_text=KEY)
async def the_deliveries_of_a_key_come_in_order(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(order_by=OrderBy.KEY)
    source = await driver.subscribe(spec)
    await _publish_keyed(bench, driver, 100, 7)
    _expect_ordered(await _drain(bench, source, 100), _key)


@claim(needs=_by_channel, needs_text=CHANNEL)
async def the_deliveries_of_a_channel_come_in_order(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec("a", "b", order_by=OrderBy.CHANNEL)
    source = await driver.subscribe(spec)
    for number in range(50):
        await bench.publish(driver, b"%d" % number, channel="ab"[number % 2])
    _expect_ordered(await _drain(bench, source, 50), _channel)


class _Company:
    """Several sources of one group that consume at once, and a watch over what each has in hand."""

    def __init__(self, bench: ConformanceContext, sources: Sequence[Source], group: Group, total: int) -> None:
        self.finished: list[Delivery] = []
        self._bench = bench
        self._sources = sources
        self._group = group
        self._total = total
        self._hands: dict[object, Source] = {}

    async def run(self) -> None:
        """Consume until all is finished."""
        async with anyio.create_task_group() as tasks:
            for source in self._sources:
                tasks.start_soon(self._consume, source)

    async def _consume(self, source: Source) -> None:
        while batch := await source.receive(5, PLENTY):
            groups = {self._group(one) for one in batch}
            for group in groups:
                holder = self._hands.setdefault(group, source)
                expect(holder is source, f"{group!r} is in two hands at once")
            await anyio.sleep(self._bench.under_test.quiet_s / 50)
            for group in groups:
                del self._hands[group]
            self.finished += batch
            await self._bench.ack(source, batch)
            if len(self.finished) >= self._total:
                for one in self._sources:
                    one.stop()


@claim(needs=_by_key_shared, needs_text=KEY)
async def a_key_is_in_the_hands_of_one_driver_at_a_time_and_keeps_its_order(bench: ConformanceContext) -> None:
    drivers, spec = [await bench.driver() for _ in range(3)], bench.spec(order_by=OrderBy.KEY)
    sources = [await driver.subscribe(spec) for driver in drivers]
    await _publish_keyed(bench, drivers[0], 200, 11)
    company = _Company(bench, sources, _key, 200)
    await company.run()
    expect_equal(len(company.finished), 200, "finished deliveries")
    _expect_ordered(company.finished, _key)


@claim(needs=_by_channel_shared, needs_text=CHANNEL)
async def a_channel_is_in_the_hands_of_one_driver_at_a_time_and_keeps_its_order(bench: ConformanceContext) -> None:
    drivers = [await bench.driver() for _ in range(2)]
    spec = bench.spec("a", "b", "c", order_by=OrderBy.CHANNEL)
    sources = [await driver.subscribe(spec) for driver in drivers]
    await bench.publish_all(drivers[0], [bench.message(b"%d" % number, "abc"[number % 3]) for number in range(90)])
    company = _Company(bench, sources, _channel, 90)
    await company.run()
    expect_equal(len(company.finished), 90, "finished deliveries")
    _expect_ordered(company.finished, _channel)


@claim("kill", needs=_by_key_shared, needs_text=KEY)
async def a_take_over_goes_on_where_the_dead_process_was_in_each_key(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec(order_by=OrderBy.KEY)
    source = await first.subscribe(spec)
    await _publish_keyed(bench, first, 40, 4)
    held = await bench.take_some(source, 20)
    done = held[: len(held) // 2]
    await bench.ack(source, done)
    await bench.kill(first)
    rest = await _drain(bench, await second.subscribe(spec), 40 - len(done))
    expect_equal(sorted(int(one.payload) for one in [*done, *rest]), list(range(40)), "all deliveries")
    _expect_ordered([*done, *rest], _key)


@claim(needs=_by_key_shared, needs_text=KEY)
async def an_orderly_stop_repeats_nothing_that_was_done_out_of_order(bench: ConformanceContext) -> None:
    spec, done, slow = bench.spec(order_by=OrderBy.KEY), list[Delivery](), b"k0"
    await _publish_keyed(bench, await bench.driver(), 40, 4)
    for enough in (9, 18):
        source = await (await bench.driver()).subscribe(spec)
        while len(done) < enough:
            quick = [one for one in await bench.take_some(source, 9) if one.key != slow]
            await bench.ack(source, quick)
            done += quick
        await source.close()
    last = await (await bench.driver()).subscribe(spec)
    rest = await _drain(bench, last, 40 - len(done))
    expect_equal(sorted(int(one.payload) for one in [*done, *rest]), list(range(40)), "all deliveries")
    _expect_ordered([*done, *rest], _key)
    await bench.expect_quiet(last)


@claim(needs=_by_key, needs_text=KEY)
async def released_deliveries_keep_their_order(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(order_by=OrderBy.KEY)
    source = await driver.subscribe(spec)
    await _publish_keyed(bench, driver, 12, 1)
    held = await bench.take_some(source, 6)
    await bench.ack(source, held[:1])
    await bench.settle(source, *[Released(one) for one in reversed(held[1:])])
    rest = await _drain(bench, source, 11)
    expect_equal([int(one.payload) for one in rest], list(range(1, 12)), "what follows")


@claim(needs=_by_key, needs_text=KEY)
async def a_retry_does_not_stop_the_others_of_its_key(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(order_by=OrderBy.KEY)
    source = await driver.subscribe(spec)
    await _publish_keyed(bench, driver, 10, 1)
    (first,) = await bench.take(source, 1)
    await bench.settle(source, bench.retry(first, spec, after_s=60))
    rest = await _drain(bench, source, 9)
    expect_equal([int(one.payload) for one in rest], list(range(1, 10)), "what follows")


@claim(needs=_by_key, needs_text=KEY)
async def deliveries_without_a_key_are_not_held_up_by_order(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(order_by=OrderBy.KEY)
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(100)])
    taken = await _drain(bench, source, 100)
    expect_equal(sorted(int(one.payload) for one in taken), list(range(100)), "payloads")


@claim(needs=_by_channel, needs_text="order by channel")
async def what_runs_when_a_source_is_stopped_is_settled_after_the_rest_was_released(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(order_by=OrderBy.CHANNEL)
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"1", b"2")
    runs, queued = await bench.take(source, 2)
    source.stop()
    await bench.settle(source, Released(queued))
    await bench.ack(source, [runs])
    await source.close()
    (again,) = await bench.take(await driver.subscribe(spec), 1)
    expect_equal(again.payload, b"2", "what was released")
