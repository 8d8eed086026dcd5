"""Claims about the life of a driver and of a subscription: open, declare, backlog, close."""
# ruff: noqa: D103 - the name of a claim says what it claims

from hexa_worker.core.message import Message
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


@claim()
async def a_driver_says_what_it_was_announced_with(bench: ConformanceContext) -> None:
    driver = bench.new_driver()
    expect_equal(driver.capabilities, bench.capabilities, "capabilities")
    expect(driver.capabilities.name, "a driver needs a name")


@claim()
async def closing_before_opening_is_harmless(bench: ConformanceContext) -> None:
    driver = bench.new_driver()
    await driver.close()


@claim()
async def closing_twice_is_harmless(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.subscribe(spec)
    await driver.close()
    await driver.close()


@claim()
async def opening_twice_is_harmless(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    await driver.open()
    await bench.publish(driver, b"x")
    expect_equal(payloads_of(await bench.take(await driver.subscribe(bench.spec()), 1)), [b"x"], "payloads")


@claim()
async def closing_a_driver_ends_the_waiting_receives_of_its_sources(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    receiving = bench.receiving(await driver.subscribe(spec))
    await driver.close()
    come = await receiving.result(bench.under_test.wake_s + bench.under_test.slack_s)
    expect_equal(come, [], "deliveries after close")


@claim()
async def declaring_twice_changes_nothing(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    await bench.publish(driver, b"1", b"2")
    source = await driver.subscribe(spec)
    (one,) = await bench.take(source, 1)
    await driver.declare([spec, spec])
    await bench.ack(source, [one])
    await driver.declare([spec])
    (two,) = await bench.take(source, 1)
    expect_equal(sorted([one.payload, two.payload]), [b"1", b"2"], "payloads")
    await bench.ack(source, [two])
    expect((await source.backlog()).idle, "something is left")


@claim()
async def declaring_nothing_is_harmless(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    await driver.declare([])


@claim()
async def what_is_published_after_a_declaration_is_kept_for_its_group(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(start="latest")
    await driver.declare([spec])
    await bench.publish(driver, b"kept")
    await driver.close()
    source = await (await bench.driver()).subscribe(spec)
    expect_equal(payloads_of(await bench.take(source, 1)), [b"kept"], "payloads")


@claim()
async def messages_outlive_the_driver_that_published_them(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    await bench.publish(driver, b"1", b"2")
    await driver.close()
    taken = await bench.take(await (await bench.driver()).subscribe(spec), 2)
    expect_equal(sorted(payloads_of(taken)), [b"1", b"2"], "payloads")


@claim("kill", needs=lambda capabilities: capabilities.durable, needs_text="durability")
async def confirmed_messages_survive_the_death_of_every_process(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    await bench.publish(driver, *[b"%d" % number for number in range(50)])
    await bench.kill(driver)
    taken = await bench.take(await (await bench.driver()).subscribe(spec), 50)
    expect_equal(sorted(int(one.payload) for one in taken), list(range(50)), "payloads")


@claim()
async def backlog_of_a_group_that_never_ran_is_what_was_published(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    await bench.publish(driver, *[b"x"] * 5)
    backlog = await (await driver.subscribe(spec)).backlog()
    expect_equal((backlog.ready + backlog.leased, backlog.delayed), (5, 0), "ready or leased, and delayed")
    expect(not backlog.idle, "5 messages wait, and it counts as idle")


@claim()
async def backlog_tells_ready_leased_and_delayed_apart(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(6)])
    first, second, third = await bench.take(source, 3)
    retry = bench.retry(first, spec, after_s=60)
    await bench.settle(source, retry)
    await bench.ack(source, [second])
    backlog = await source.backlog()
    expect_equal((backlog.ready, backlog.leased, backlog.delayed), (3, 1, 1), "ready, leased, delayed")
    expect_equal(backlog.next_due_ms, retry.record.due_ms, "next due")
    expect(third.attempt == 0 and not backlog.idle, "it counts as idle")


@claim()
async def backlog_is_idle_when_everything_is_settled(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    expect((await source.backlog()).idle, "an empty subscription is not idle")
    await bench.publish(driver, b"ack", b"dead")
    by = {one.payload: one for one in await bench.take(source, 2)}
    expect(not (await source.backlog()).idle, "two deliveries are in hand, and it counts as idle")
    await bench.ack(source, [by[b"ack"]])
    await bench.settle(source, bench.dead_letter(by[b"dead"], spec))
    backlog = await source.backlog()
    expect(backlog.idle and backlog.next_due_ms is None, f"everything is settled: {backlog}")


@claim(needs=lambda capabilities: not capabilities.revokes, needs_text="claims that stay when a process joins")
async def backlog_counts_what_other_drivers_have_in_flight(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, b"1", b"2")
    taken = await bench.take(source, 2)
    other = await second.subscribe(spec)
    expect_equal((await other.backlog()).leased, 2, "leased")
    await bench.ack(source, taken)
    expect((await other.backlog()).idle, "something is left")


@claim()
async def backlog_of_one_group_is_not_that_of_another(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    one, two = bench.spec(group="one"), bench.spec(group="two")
    source, other = await driver.subscribe(one), await driver.subscribe(two)
    await bench.publish(driver, b"1", b"2")
    await bench.ack(source, await bench.take(source, 2))
    await bench.publish_all(driver, [Message(channel=two.retry_channels[0], payload=b"r")])
    expect((await source.backlog()).idle, "the first group has nothing left")
    backlog = await other.backlog()
    expect_equal(backlog.ready + backlog.leased, 3, "what the second group has to do")


@claim()
async def a_group_may_get_another_channel_later(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    source = await driver.subscribe(bench.spec("a"))
    await bench.publish(driver, b"a", channel="a")
    await bench.ack(source, await bench.take(source, 1))
    await source.close()
    source = await driver.subscribe(bench.spec("a", "b"))
    await bench.publish(driver, b"b", channel="b")
    expect_equal(payloads_of(await bench.take(source, 1)), [b"b"], "payloads")
    await bench.expect_quiet(source)
