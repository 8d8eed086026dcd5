"""Claims about retry records and dead letters: complete, once, not early, not late, and never in the way."""
# ruff: noqa: D103 - the name of a claim says what it claims

from itertools import pairwise

import anyio

from hexa_worker.core.lineage import EVENT_ID
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Released
from hexa_worker.drivers.base import Source, SubscriptionSpec
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


def expect_in_time(bench: ConformanceContext, delivery: Delivery, due_ms: int) -> None:
    """`delivery`, received just now, came when it was due: not early, and no later than is promised."""
    late_ms = bench.now_ms() - due_ms
    allowed_ms = (bench.capabilities.delay_accuracy_s + bench.under_test.slack_s) * 1000
    expect(late_ms >= 0, f"{delivery.message_id} came {-late_ms} ms early")
    expect(late_ms <= allowed_ms, f"{delivery.message_id} came {late_ms} ms late, allowed are {allowed_ms:g}")


async def _fail_once(
    bench: ConformanceContext, source: Source, spec: SubscriptionSpec, after_s: float | None = None
) -> int:
    """Take one delivery and settle it as a retry; returns when that is due."""
    (one,) = await bench.take(source, 1)
    retry = bench.retry(one, spec, after_s)
    await bench.settle(source, retry)
    return retry.record.due_ms


@claim()
async def a_retry_comes_when_it_is_due_as_the_next_attempt(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    for attempt in (1, 2, 3):
        due_ms = await _fail_once(bench, source, spec)
        (again,) = await bench.receiving(source).result(bench.under_test.deadline_s)
        expect_in_time(bench, again, due_ms)
        expect_equal((again.attempt, again.channel), (attempt, spec.retry_channels[attempt - 1]), "the retry")
        await bench.settle(source, Released(again))


@claim()
async def a_retry_carries_payload_key_and_headers_of_its_original(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    headers = (("a", b"1"), ("b", b"\xff\0"))
    await bench.publish_all(driver, [bench.message(b"\0payload\xff", key=b"\xffkey", headers=headers)])
    (one,) = await bench.take(source, 1)
    retry = bench.retry(one, spec, after_s=0)
    await bench.settle(source, retry)
    (again,) = await bench.take(source, 1)
    expect_equal((again.payload, again.key), (b"\0payload\xff", b"\xffkey"), "payload and key")
    expect_equal(dict(again.headers), dict(retry.record.headers), "headers")
    expect_equal(dict(again.headers)[EVENT_ID], one.message_id.encode(), "event id")


@claim()
async def after_a_retry_the_original_is_gone(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    await _fail_once(bench, source, spec)
    await driver.close()
    source = await (await bench.driver()).subscribe(spec)
    (again,) = await bench.take(source, 1)
    expect_equal(again.attempt, 1, "attempt")
    await bench.ack(source, [again])
    await bench.expect_quiet(source)


@claim()
async def a_retry_survives_the_closing_of_its_driver(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    due_ms = await _fail_once(bench, source, spec)
    await driver.close()
    source = await (await bench.driver()).subscribe(spec)
    (again,) = await bench.take(source, 1)
    expect(bench.now_ms() >= due_ms, "it came early")
    expect_equal((again.payload, again.attempt), (b"x", 1), "the retry")


@claim("kill")
async def a_retry_survives_the_death_of_its_process(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    due_ms = await _fail_once(bench, source, spec)
    await bench.kill(driver)
    source = await (await bench.driver()).subscribe(spec)
    (again,) = await bench.take(source, 1)
    expect(bench.now_ms() >= due_ms, "it came early")
    expect_equal((again.payload, again.attempt), (b"x", 1), "the retry")
    await bench.ack(source, [again])
    await bench.expect_quiet(source)


@claim()
async def a_waiting_retry_holds_up_nobody(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"slow")
    await _fail_once(bench, source, spec, after_s=60)
    await bench.publish(driver, *[b"%d" % number for number in range(20)])
    taken = await bench.take(source, 20, within_s=bench.under_test.wake_s + bench.under_test.slack_s)
    expect(b"slow" not in payloads_of(taken), "the waiting retry came")


@claim()
async def a_long_delay_does_not_hold_up_a_short_one_behind_it(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"long", b"short")
    by = {one.payload: one for one in await bench.take(source, 2)}
    await bench.settle(source, bench.retry(by[b"long"], spec, after_s=60))
    short = bench.retry(by[b"short"], spec)
    await bench.settle(source, short)
    (again,) = await bench.take(source, 1)
    expect_equal(again.payload, b"short", "payload")
    expect_in_time(bench, again, short.record.due_ms)


@claim()
async def many_retries_come_each_at_its_time_and_in_that_order(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    step_s = max(bench.under_test.delay_s / 10, bench.capabilities.delay_accuracy_s)
    count = 12
    await bench.publish(driver, *[b"%d" % number for number in range(count)])
    taken = await bench.take(source, count)
    retries = [
        bench.retry(one, spec, after_s=bench.under_test.delay_s + (int(one.payload) * 5 % count) * step_s)
        for one in taken
    ]
    due = {retry.record.payload: retry.record.due_ms for retry in retries}
    await bench.settle(source, *retries)
    come: list[Delivery] = []
    while len(come) < count:
        batch = await bench.take(source, 1)
        for one in batch:
            expect_in_time(bench, one, due[one.payload])
        come += batch
    tolerated_ms = bench.capabilities.delay_accuracy_s * 1000
    for earlier, later in pairwise(come):
        expect(
            due[later.payload] >= due[earlier.payload] - tolerated_ms,
            f"due {due[earlier.payload] - due[later.payload]} ms sooner, yet came later",
        )


@claim()
async def a_retry_that_is_due_wakes_a_waiting_receive(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    receiving = bench.receiving(source)  # waits before the retry exists
    await anyio.sleep(bench.under_test.quiet_s)
    retry = bench.retry(one, spec)
    await bench.settle(source, retry)
    (again,) = await receiving.result(bench.under_test.deadline_s)
    expect_in_time(bench, again, retry.record.due_ms)


@claim()
async def another_driver_of_the_group_may_get_the_retry(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    retry = bench.retry(one, spec)
    await bench.settle(source, retry)
    source.stop()
    await source.close()
    other = await (await bench.driver()).subscribe(spec)
    (again,) = await bench.receiving(other).result(bench.under_test.deadline_s)
    expect(bench.now_ms() >= retry.record.due_ms, "it came early")
    expect_equal(again.attempt, 1, "attempt")


@claim()
async def a_record_put_into_a_retry_channel_comes_to_that_group_only(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    spec, sibling = bench.spec(group="mine"), bench.spec(group="sibling")
    source, other = await driver.subscribe(spec), await driver.subscribe(sibling)
    record = Message(channel=spec.retry_channels[1], payload=b"redriven", key=b"k", headers=(("h", b"v"),))
    await bench.publish_all(driver, [record])
    (one,) = await bench.take(source, 1)
    expect_equal((one.payload, one.attempt, one.key), (b"redriven", 2, b"k"), "the delivery")
    expect_equal(one.headers, (("h", b"v"),), "headers")
    await bench.expect_quiet(other)


@claim()
async def a_record_put_into_a_retry_channel_waits_until_it_is_due(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    due_ms = bench.now_ms() + round(bench.under_test.delay_s * 1000)
    await bench.publish_all(driver, [Message(channel=spec.retry_channels[0], payload=b"x", due_ms=due_ms)])
    (one,) = await bench.take(source, 1)
    expect_in_time(bench, one, due_ms)


@claim()
async def a_snoozed_delivery_comes_when_it_is_due_and_has_consumed_no_attempt(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    snooze = bench.snooze(one, spec)
    await bench.settle(source, snooze)
    (again,) = await bench.receiving(source).result(bench.under_test.deadline_s)
    expect_in_time(bench, again, snooze.record.due_ms)
    one = bench.counted(again, spec)
    expect_equal((one.attempt, one.snoozes, one.payload), (0, 1, b"x"), "attempt, snoozes and payload")
    await bench.settle(source, bench.retry(one, spec, after_s=0))
    (again,) = await bench.take(source, 1)
    expect_equal((again.attempt, bench.counted(again, spec).snoozes), (1, 1), "attempt and snoozes after a failure")
    await bench.ack(source, [again])


@claim()
async def a_snoozed_delivery_outlives_its_process_with_its_count(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    snooze = bench.snooze(one, spec)
    await bench.settle(source, snooze)
    await driver.close()
    source = await (await bench.driver()).subscribe(spec)
    (again,) = await bench.take(source, 1)
    expect(bench.now_ms() >= snooze.record.due_ms, "it came early")
    again = bench.counted(again, spec)
    expect_equal((again.attempt, again.snoozes), (0, 1), "attempt and snoozes")
    await bench.ack(source, [again])
    await bench.expect_quiet(source)


@claim()
async def headers_from_outside_do_not_change_the_attempt(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    claimed = (("hexa-attempt", b"3"), ("hexa-action", spec.action.encode()))
    await bench.publish_all(driver, [bench.message(b"x", headers=claimed)])
    (one,) = await bench.take(source, 1)
    expect_equal(one.attempt, 0, "attempt")


@claim()
async def a_channel_whose_name_looks_like_a_retry_channel_is_none(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec("orders.retry.7", "orders.v.2")
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"a", channel="orders.retry.7")
    await bench.publish(driver, b"b", channel="orders.v.2")
    taken = await bench.take(source, 2)
    expect_equal({one.payload: one.attempt for one in taken}, {b"a": 0, b"b": 0}, "attempts")


@claim()
async def records_above_a_lowered_retry_count_are_not_lost(bench: ConformanceContext) -> None:
    driver, many, few = await bench.driver(), bench.spec(retry_count=3), bench.spec(retry_count=1)
    await driver.declare([many])
    await bench.publish_all(driver, [Message(channel=many.retry_channels[2], payload=b"high")])
    lowered = await driver.subscribe(few)
    receiving = bench.receiving(lowered)
    await anyio.sleep(bench.under_test.quiet_s)
    lowered.stop()
    come = await receiving.result(bench.under_test.deadline_s)
    await lowered.close()
    if not come:
        expect_equal(payloads_of(await bench.take(await driver.subscribe(many), 1)), [b"high"], "payloads")


@claim()
async def a_dead_letter_can_be_browsed_with_all_it_carried(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish_all(driver, [bench.message(b"\0\xff", key=b"\xfe", headers=(("h", b"\0v"),))])
    (one,) = await bench.take(source, 1)
    dead = bench.dead_letter(one, spec, "why not ⚡")
    await bench.settle(source, dead)
    (found,) = await driver.browse(spec.dead_letter_channel, -1, 10)
    expect_equal((found.payload, found.key, found.channel), (b"\0\xff", b"\xfe", spec.dead_letter_channel), "it")
    expect_equal(dict(found.headers), dict(dead.record.headers), "headers")


@claim()
async def after_a_dead_letter_the_original_is_gone(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    await bench.settle(source, bench.dead_letter(one, spec))
    expect((await source.backlog()).idle, "something is left")
    await driver.close()
    again = await bench.driver()
    source = await again.subscribe(spec)
    await bench.expect_quiet(source)
    expect_equal(len(await again.browse(spec.dead_letter_channel, -1, 10)), 1, "dead letters after reopening")


@claim()
async def a_retry_may_end_as_a_dead_letter(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(retry_count=1)
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    await _fail_once(bench, source, spec, after_s=0)
    (again,) = await bench.take(source, 1)
    await bench.settle(source, bench.dead_letter(again, spec))
    expect_equal(len(await driver.browse(spec.dead_letter_channel, -1, 10)), 1, "dead letters")
    await bench.expect_quiet(source)
