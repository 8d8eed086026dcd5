"""Claims about `Source.receive` and `Source.stop`: what comes, to whom, how much at once, and how it ends."""
# ruff: noqa: D103 - the name of a claim says what it claims

import anyio

from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Capabilities, Source
from hexa_worker.testing.conformance.context import PLENTY, ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


def _shared(capabilities: Capabilities) -> bool:
    return capabilities.shared


def _patterns(capabilities: Capabilities) -> bool:
    return capabilities.patterns


@claim()
async def a_new_group_at_earliest_gets_what_was_there_before(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    await bench.publish(driver, b"1", b"2")
    source = await driver.subscribe(bench.spec(start="earliest"))
    await bench.publish(driver, b"3")
    expect_equal(sorted(payloads_of(await bench.take(source, 3))), [b"1", b"2", b"3"], "payloads")


@claim()
async def a_new_group_at_latest_gets_only_what_comes_after(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    await bench.publish(driver, b"old", b"older")
    source = await driver.subscribe(bench.spec(start="latest"))
    await bench.publish(driver, b"new")
    expect_equal(payloads_of(await bench.take(source, 1)), [b"new"], "payloads")
    await bench.expect_quiet(source)


@claim()
async def two_groups_each_get_every_message(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    one = await driver.subscribe(bench.spec(group="one"))
    two = await driver.subscribe(bench.spec(group="two"))
    await bench.publish(driver, b"a", b"b", b"c")
    for source in (one, two):
        expect_equal(sorted(payloads_of(await bench.take(source, 3))), [b"a", b"b", b"c"], "payloads")


@claim(needs=_shared, needs_text="several processes on one subscription")
async def each_message_goes_to_exactly_one_of_two_drivers_of_a_group(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    sources = [await first.subscribe(spec), await second.subscribe(spec)]
    await bench.publish_all(first, [bench.message(b"%d" % n, key=b"%d" % n) for n in range(300)])
    got: list[bytes] = []

    async def consume(source: Source) -> None:
        while batch := await source.receive(7, PLENTY):
            got.extend(payloads_of(batch))
            await bench.ack(source, batch)
            if len(got) >= 300:  # noqa: PLR2004 - all that was published
                for each in sources:
                    each.stop()

    async with anyio.create_task_group() as tasks:
        for source in sources:
            tasks.start_soon(consume, source)
    expect_equal(sorted(map(int, got)), list(range(300)), "payloads of both drivers together")


@claim(needs=_shared, needs_text="several processes on one subscription")
async def a_second_driver_gets_work_while_the_first_is_busy(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    busy, free = await first.subscribe(spec), await second.subscribe(spec)
    await bench.publish_all(first, [bench.message(b"%d" % n, key=b"%d" % n) for n in range(200)])
    held = await bench.take(busy, 5)
    others = await bench.take(free, 5)
    expect(not set(payloads_of(held)) & set(payloads_of(others)), "both drivers got the same message")


@claim()
async def receive_gives_at_most_max_count(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(20)])
    got: list[bytes] = []
    while len(got) < 20:  # noqa: PLR2004 - all that was published
        batch = await source.receive(3, PLENTY)
        expect(1 <= len(batch) <= 3, f"asked for at most 3, got {len(batch)}")  # noqa: PLR2004
        got += payloads_of(batch)
    expect_equal(len(set(got)), 20, "distinct payloads")


@claim()
async def receive_stops_adding_when_max_bytes_are_reached(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number * 1000 for number in range(10)])
    got = 0
    while got < 10:  # noqa: PLR2004 - all that was published
        batch = await source.receive(100, 2500)
        before_last = sum(map(len, payloads_of(batch[:-1])))
        expect(before_last < 2500, f"{before_last} bytes, and still one was added")  # noqa: PLR2004
        got += len(batch)


@claim()
async def a_delivery_larger_than_max_bytes_comes_alone(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x" * 5000, b"y" * 5000)
    for _ in range(2):
        expect_equal(len(await source.receive(10, 1)), 1, "deliveries")


@claim()
async def receive_waits_until_something_comes_and_then_wakes_soon(bench: ConformanceContext) -> None:
    driver, publisher, spec = await bench.driver(), await bench.driver(), bench.spec()
    receiving = bench.receiving(await driver.subscribe(spec))
    await anyio.sleep(bench.under_test.quiet_s)
    expect(not receiving.done, "receive returned though there was nothing")
    await bench.publish(publisher, b"now")
    come = await receiving.result(bench.under_test.wake_s + bench.under_test.slack_s)
    expect_equal(payloads_of(come), [b"now"], "payloads")


@claim()
async def stop_ends_a_waiting_receive_with_nothing(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    receiving = bench.receiving(source)
    await anyio.sleep(bench.under_test.quiet_s)
    source.stop()
    come = await receiving.result(bench.under_test.wake_s + bench.under_test.slack_s)
    expect_equal(come, [], "deliveries after stop")


@claim()
async def after_stop_receive_gives_nothing_even_when_there_is_something(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    source.stop()
    await bench.publish(driver, b"x")
    for _ in range(2):
        expect_equal(await bench.receiving(source).result(bench.under_test.wake_s), [], "deliveries after stop")


@claim()
async def stopping_twice_is_harmless_and_what_is_in_flight_can_be_settled_after(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    taken = await bench.take(source, 1)
    source.stop()
    source.stop()
    await bench.ack(source, taken)
    await source.close()
    expect((await (await driver.subscribe(spec)).backlog()).idle, "the acknowledged delivery is still there")


@claim()
async def what_stop_leaves_unread_goes_to_the_next_source(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(10)])
    first = await bench.take(source, 4)
    await bench.ack(source, first)
    source.stop()
    await source.close()
    rest = await bench.take(await driver.subscribe(spec), 6)
    expect_equal(sorted(payloads_of(first + rest)), [b"%d" % n for n in range(10)], "payloads of both")


@claim()
async def a_cancelled_receive_is_a_cancellation_and_not_a_failure(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    with anyio.move_on_after(bench.under_test.quiet_s) as scope:
        await source.receive(10, PLENTY)
    expect(scope.cancelled_caught, "receive did not wait, or swallowed the cancellation")


@claim()
async def two_subscriptions_in_one_driver_do_not_mix(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    one = await driver.subscribe(bench.spec("left", group="one"))
    two = await driver.subscribe(bench.spec("right", group="two"))
    await bench.publish(driver, b"l", channel="left")
    await bench.publish(driver, b"r", channel="right")
    left, right = await bench.take(one, 1), await bench.take(two, 1)
    expect_equal([*payloads_of(left), *payloads_of(right)], [b"l", b"r"], "payloads")
    await bench.ack(one, left)
    expect_equal((await two.backlog()).leased, 1, "leased of the other subscription")


@claim()
async def one_subscription_may_read_several_channels(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec("a", "b", "c")
    source = await driver.subscribe(spec)
    for channel in ("a", "b", "c"):
        await bench.publish(driver, channel.encode(), channel=channel)
    taken = await bench.take(source, 3)
    expect_equal({one.channel: one.payload for one in taken}, {bench.name(c): c.encode() for c in "abc"}, "arrivals")


@claim(needs=_patterns, needs_text="subscriptions by pattern")
async def a_pattern_reads_the_channels_it_matches_whole_and_no_others(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    pattern = bench.name(r"orders\.[a-z]+").replace(bench.name(""), bench.name("").replace(".", r"\."))
    for channel in ("orders.new", "orders.paid", "orders.paid2", "x.orders.new", "orders"):
        await bench.publish(driver, channel.encode(), channel=channel)
    source = await driver.subscribe(bench.spec(pattern=pattern))
    expect_equal(sorted(payloads_of(await bench.take(source, 2))), [b"orders.new", b"orders.paid"], "payloads")
    await bench.expect_quiet(source)


@claim(needs=_patterns, needs_text="subscriptions by pattern")
async def a_pattern_finds_channels_that_are_made_later(bench: ConformanceContext) -> None:
    driver, publisher = await bench.driver(), await bench.driver()
    pattern = bench.name("").replace(".", r"\.") + r"late\..*"
    source = await driver.subscribe(bench.spec(pattern=pattern))
    receiving = bench.receiving(source)
    await anyio.sleep(bench.under_test.quiet_s)
    await bench.publish(publisher, b"found", channel="late.one")
    expect_equal(payloads_of(await receiving.result(bench.under_test.deadline_s)), [b"found"], "payloads")


@claim(needs=_patterns, needs_text="subscriptions by pattern")
async def at_latest_a_channel_that_appears_after_the_first_start_is_read_from_its_beginning(
    bench: ConformanceContext,
) -> None:
    driver = await bench.driver()
    pattern = bench.name("").replace(".", r"\.") + r"by-id\..*"
    spec = bench.spec(pattern=pattern, start="latest")
    await (await driver.subscribe(spec)).close()
    await bench.publish(driver, b"stopped", channel="by-id.1")
    source = await (await bench.driver()).subscribe(spec)
    came = await bench.take(source, 1)
    expect_equal(payloads_of(came), [b"stopped"], "payloads of what appeared while it was stopped")
    await source.settle([Acked(one) for one in came])
    receiving = bench.receiving(source)
    await anyio.sleep(bench.under_test.quiet_s)
    await bench.publish(driver, b"running", channel="by-id.2")
    came = await receiving.result(bench.under_test.deadline_s)
    expect_equal(payloads_of(came), [b"running"], "payloads of what appeared while it ran")


@claim()
async def a_first_delivery_says_where_it_was_read_and_that_it_is_the_first(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await bench.publish(driver, b"x")
    one = (await bench.take(await driver.subscribe(spec), 1))[0]
    expect_equal((one.channel, one.attempt, one.crashes, one.due_ms), (bench.name("in"), 0, 0, 0), "the delivery")
    expect_equal(one.message_id, f"{one.source}-{one.offset}", "message id")
