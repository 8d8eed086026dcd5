"""Claims about who has a delivery in hand: kept while alive, given on after a close, a death or a stall."""
# ruff: noqa: D103 - the name of a claim says what it claims

import anyio

from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.drivers.base import Capabilities
from hexa_worker.errors import DriverUnavailable, LeaseLost
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


def _shared(capabilities: Capabilities) -> bool:
    return capabilities.shared


SHARED = "several processes on one subscription"


@claim()
async def closing_a_source_hands_back_what_it_had_not_settled(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"1", b"2", b"3")
    by = {one.payload: one for one in await bench.take(source, 3)}
    await bench.ack(source, [by[b"2"]])
    await source.close()
    source = await driver.subscribe(spec)
    again = await bench.take(source, 2, within_s=bench.takeover_s)
    expect_equal(sorted(payloads_of(again)), [b"1", b"3"], "what comes again")
    expect_equal({one.attempt for one in again}, {0}, "attempts")
    await bench.expect_quiet(source)


@claim(needs=_shared, needs_text=SHARED)
async def closing_a_driver_gives_its_deliveries_to_a_waiting_one(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, b"1", b"2")
    held = await bench.take(source, 2)
    other = await second.subscribe(spec)
    await first.close()
    again = await bench.take(other, 2, within_s=bench.takeover_s)
    expect_equal(sorted(one.message_id for one in again), sorted(one.message_id for one in held), "message ids")


@claim("kill")
async def the_deliveries_of_a_dead_process_come_again(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, *[b"%d" % number for number in range(10)])
    held = await bench.take(source, 10)
    await bench.kill(first)
    other = await second.subscribe(spec)
    again = await bench.take(other, 10, within_s=bench.takeover_s)
    expect_equal(sorted(one.message_id for one in again), sorted(one.message_id for one in held), "message ids")
    expect_equal({one.attempt for one in again}, {0}, "attempts")


@claim("kill")
async def after_a_death_only_the_unfinished_come_again(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, *[b"%d" % number for number in range(12)])
    taken = {int(one.payload): one for one in await bench.take(source, 10)}
    await bench.ack(source, [taken[number] for number in (1, 2, 5, 9)])
    await bench.settle(source, bench.dead_letter(taken[7], spec))
    await bench.kill(first)
    other = await second.subscribe(spec)
    again = await bench.take(other, 7, within_s=bench.takeover_s)
    expect_equal(sorted(int(one.payload) for one in again), [0, 3, 4, 6, 8, 10, 11], "what comes again")
    await bench.expect_quiet(other)


@claim("kill")
async def a_retry_in_flight_of_a_dead_process_comes_again_as_the_same_attempt(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, b"x")
    (one,) = await bench.take(source, 1)
    await bench.settle(source, bench.retry(one, spec, after_s=0))
    await bench.take(source, 1)
    await bench.kill(first)
    (again,) = await bench.take(await second.subscribe(spec), 1, within_s=bench.takeover_s)
    expect_equal((again.attempt, again.payload), (1, b"x"), "the delivery")


@claim("kill")
async def a_new_process_can_take_over_after_all_died(bench: ConformanceContext) -> None:
    spec = bench.spec()
    for number in range(3):
        driver = await bench.driver()
        source = await driver.subscribe(spec)
        await bench.publish(driver, b"%d" % number)
        taken = await bench.take(source, number + 1, within_s=bench.takeover_s)
        expect_equal(len(set(payloads_of(taken))), number + 1, "distinct deliveries")
        await bench.kill(driver)


@claim("kill", needs=lambda capabilities: capabilities.counts_deliveries, needs_text="a count of deliveries")
async def the_broker_counts_the_deaths_of_a_delivery(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await bench.publish(driver, b"x")
    for crashes in range(3):
        (one,) = await bench.take(await driver.subscribe(spec), 1, within_s=bench.takeover_s)
        expect_equal(one.crashes, crashes, "crashes")
        await bench.kill(driver)
        driver = await bench.driver()


@claim(needs=_shared, needs_text=SHARED)
async def a_delivery_in_flight_is_not_given_to_others_however_long_it_takes(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source, other = await first.subscribe(spec), await second.subscribe(spec)
    await bench.publish(first, b"slow")
    waiting, receiving = bench.receiving(other), bench.receiving(source)

    async def arrived() -> bool:
        return waiting.done or receiving.done

    await bench.wait_for(arrived, "one of the two drivers has it", bench.under_test.deadline_s)
    await anyio.sleep(2.5 * (bench.capabilities.redelivery_s or 0.0) + bench.under_test.quiet_s)
    expect(not (waiting.done and receiving.done), "the delivery came to both drivers")
    has, holder, idle = (waiting, other, source) if waiting.done else (receiving, source, other)
    await bench.ack(holder, await has.result(0.1))
    idle.stop()
    expect((await holder.backlog()).idle, "something is left")


@claim("stall")
async def what_is_settled_after_the_lease_is_lost_is_answered_so_and_writes_nothing(bench: ConformanceContext) -> None:
    first, second, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, b"ack", b"retry", b"dead")
    by = {one.payload: one for one in await bench.take(source, 3)}
    await bench.stall(first)
    other = await second.subscribe(spec)
    again = await bench.take(other, 3, within_s=bench.takeover_s)
    late: list[Settlement] = [
        Acked(by[b"ack"]),
        bench.retry(by[b"retry"], spec, after_s=0),
        bench.dead_letter(by[b"dead"], spec),
    ]
    unsettled = await source.settle(late)
    expect_equal([type(one.error) for one in unsettled], [LeaseLost] * 3, "errors")
    expect_equal(await second.browse(spec.dead_letter_channel, -1, 10), [], "dead letters")
    await bench.ack(other, again)
    await bench.expect_quiet(other)


@claim("stall")
async def a_stalled_driver_gets_deliveries_again_once_it_goes_on(bench: ConformanceContext) -> None:
    first, spec = await bench.driver(), bench.spec()
    source = await first.subscribe(spec)
    await bench.publish(first, b"1")
    held = await bench.take(source, 1)
    await bench.stall(first)
    await bench.publish(await bench.driver(), b"2")
    come: set[bytes] = set()
    while b"2" not in come:
        try:
            come.update(payloads_of(await bench.take(source, 1)))
        except DriverUnavailable:
            source = await first.subscribe(spec)
    if b"1" not in come:  # a driver that knows what is in hand may have renewed the claim on it instead
        receiving = bench.receiving(source)

        async def settled_or_again() -> bool:
            return receiving.done or not await source.settle([Acked(held[0])])

        await bench.wait_for(settled_or_again, "the first comes again, or can be settled", bench.takeover_s)
        source.stop()


@claim()
async def closing_a_source_twice_is_harmless(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    await bench.take(source, 1)
    await source.close()
    await source.close()
    await bench.take(await driver.subscribe(spec), 1, within_s=bench.takeover_s)


@claim()
async def after_close_receive_gives_nothing(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    await source.close()
    expect_equal(await bench.receiving(source).result(bench.under_test.wake_s), [], "deliveries after close")


@claim()
async def closing_a_source_wakes_its_waiting_receive(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    receiving = bench.receiving(source)
    await anyio.sleep(bench.under_test.quiet_s)
    await source.close()
    come = await receiving.result(bench.under_test.wake_s + bench.under_test.slack_s)
    expect_equal(come, [], "deliveries after close")


@claim()
async def settling_after_close_does_not_take_effect(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    await source.close()
    unsettled = await source.settle([Acked(one)])
    expect_equal([type(each.error) for each in unsettled], [LeaseLost], "errors")
    await bench.take(await driver.subscribe(spec), 1, within_s=bench.takeover_s)
