"""Claims about `Source.settle`: acknowledge and release, in any order, twice, mixed."""
# ruff: noqa: D103 - the name of a claim says what it claims

from msgspec.structs import replace

from hexa_worker.core.classification import ErrorAnswer, Rules
from hexa_worker.core.message import Message
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, DeadLettered, Released, Route, settle
from hexa_worker.drivers.base import Capabilities
from hexa_worker.errors import LeaseLost, RecordTooLarge
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


@claim()
async def what_was_acknowledged_never_comes_again(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(10)])
    await bench.ack(source, await bench.take(source, 10))
    await driver.close()
    again = await bench.driver()
    source = await again.subscribe(spec)
    await bench.publish(again, b"sentinel")
    expect_equal(payloads_of(await bench.take(source, 1)), [b"sentinel"], "payloads after reopening")
    await bench.expect_quiet(source)


@claim()
async def acknowledging_out_of_order_is_kept_exactly(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(10)])
    taken = {int(one.payload): one for one in await bench.take(source, 10)}
    for number in (9, 0, 5, 4, 7):
        await bench.ack(source, [taken[number]])
    await driver.close()
    source = await (await bench.driver()).subscribe(spec)
    rest = await bench.take(source, 5, within_s=bench.takeover_s)
    expect_equal(sorted(int(one.payload) for one in rest), [1, 2, 3, 6, 8], "what comes again")
    await bench.expect_quiet(source)


@claim()
async def a_dropped_delivery_is_acknowledged(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    await bench.settle(source, Acked(one, dropped="not wanted"))
    expect((await source.backlog()).idle, "the dropped delivery is still there")


@claim()
async def a_failure_is_dropped_dead_lettered_or_retried_by_the_class_of_its_error(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    rules: Rules = {KeyError: ErrorAnswer.DROP, ValueError: ErrorAnswer.DEAD_LETTER, UnicodeError: ErrorAnswer.RETRY}
    policy = RetryPolicy(initial_interval_s=bench.under_test.delay_s)
    route = Route(action=spec.action, retry_base=spec.retry_base, policy=policy, rules=rules)
    errors = {b"drop": KeyError("k"), b"dead": ValueError("v"), b"again": UnicodeError("u")}
    await bench.publish(driver, *errors)
    for delivery in await bench.take(source, 3):
        settlement = settle(Raised(errors[delivery.payload]), delivery, route, now_ms=bench.now_ms())
        await bench.settle(source, settlement)
    (again,) = await bench.take(source, 1)
    expect_equal((again.payload, again.attempt), (b"again", 1), "what is retried, and its attempt")
    await bench.ack(source, [again])
    letters = await driver.browse(spec.dead_letter_channel, -1, 10)
    expect_equal(payloads_of(letters), [b"dead"], "dead letters")
    expect((await source.backlog()).idle, "something is left to do")


@claim()
async def settling_nothing_is_harmless(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.settle(source)


@claim()
async def acknowledging_twice_is_harmless(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x", b"y")
    one, other = await bench.take(source, 2)
    await bench.ack(source, [one])
    second = await source.settle([Acked(one)])
    expect(all(isinstance(each.error, LeaseLost) for each in second), f"second answer: {second!r:.300}")
    expect_equal((await source.backlog()).leased, 1, "leased")
    await bench.ack(source, [other])


@claim()
async def settling_a_retry_twice_writes_one_record(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    retry = bench.retry(one, spec)
    await bench.settle(source, retry)
    second = await source.settle([retry])
    expect(all(isinstance(each.error, LeaseLost) for each in second), f"second answer: {second!r:.300}")
    await bench.take(source, 1)
    await bench.expect_quiet(source, for_s=bench.under_test.quiet_s + bench.capabilities.delay_accuracy_s)


@claim()
async def a_record_that_comes_again_tells_the_same_time(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    await bench.settle(source, Released(one))
    (again,) = await bench.take(source, 1)
    await driver.close()
    (later,) = await bench.take(await (await bench.driver()).subscribe(spec), 1)
    expect_equal(
        [(it.message_id, it.timestamp_ms) for it in (again, later)], [(one.message_id, one.timestamp_ms)] * 2, "times"
    )
    expect(one.timestamp_ms > 0, "it tells no time")


@claim()
async def a_released_delivery_comes_again_at_once_as_the_same_attempt(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish_all(driver, [bench.message(b"x", key=b"k", headers=(("h", b"v"),))])
    (one,) = await bench.take(source, 1)
    await bench.settle(source, Released(one))
    (again,) = await bench.take(source, 1, within_s=bench.under_test.wake_s + bench.under_test.slack_s)
    expect_equal(
        (again.message_id, again.attempt, again.payload, again.key, again.headers),
        (one.message_id, 0, b"x", b"k", (("h", b"v"),)),
        "the second delivery",
    )
    await bench.ack(source, [again])
    expect((await source.backlog()).idle, "something is left")


@claim()
async def a_released_retry_keeps_its_attempt_number(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    await bench.settle(source, bench.retry(one, spec, after_s=0))
    (first,) = await bench.take(source, 1)
    await bench.settle(source, Released(first))
    (second,) = await bench.take(source, 1)
    expect_equal((second.attempt, second.channel), (1, spec.retry_channels[0]), "the second delivery")


@claim()
async def a_batch_may_mix_all_settlements(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"ack", b"retry", b"dead", b"release", b"drop")
    by = {one.payload: one for one in await bench.take(source, 5)}
    await bench.settle(
        source,
        Acked(by[b"ack"]),
        bench.retry(by[b"retry"], spec, after_s=0),
        bench.dead_letter(by[b"dead"], spec),
        Released(by[b"release"]),
        Acked(by[b"drop"], dropped="no"),
    )
    again = await bench.take(source, 2)
    expect_equal({one.payload: one.attempt for one in again}, {b"retry": 1, b"release": 0}, "what comes again")
    await bench.ack(source, again)
    dead = await driver.browse(spec.dead_letter_channel, -1, 10)
    expect_equal(payloads_of(dead), [b"dead"], "dead letters")
    expect((await source.backlog()).idle, "something is left")


@claim()
async def a_thousand_acknowledgements_in_one_batch_take_effect(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(1000)])
    await bench.ack(source, await bench.take(source, 1000))
    expect((await source.backlog()).idle, "something is left")


@claim()
async def what_stays_in_flight_does_not_stop_what_comes_behind_it(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"parked"] * 40)
    parked = await bench.take(source, 40)
    await bench.publish(driver, *[b"%d" % number for number in range(400)])
    for _ in range(20):
        await bench.ack(source, await bench.take(source, 20))
    expect_equal((await source.backlog()).leased, 40, "what is in hand")
    await bench.ack(source, parked)
    expect((await source.backlog()).idle, "something is left")


def _limited(capabilities: Capabilities) -> bool:
    return capabilities.max_payload is not None


@claim(needs=_limited, needs_text="a limit of payload size")
async def a_retry_that_is_refused_among_others_is_refused_alone(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"before", b"x", b"dead", b"after")
    by = {one.payload: one for one in await bench.take(source, 4)}
    fitting = bench.retry(by[b"x"], spec, after_s=0)
    huge = b"h" * ((bench.capabilities.max_payload or 0) + 1024 * 1024 + 1)
    refused = replace(fitting, record=replace(fitting.record, payload=huge))
    before, after = [bench.retry(by[name], spec, after_s=0) for name in (b"before", b"after")]
    unsettled = await source.settle([before, refused, bench.dead_letter(by[b"dead"], spec), after])
    expect_equal([type(each.error) for each in unsettled], [RecordTooLarge], "errors")
    expect(unsettled[0].settlement is refused, "the wrong settlement was reported")
    again = await bench.take(source, 2)
    expect_equal(sorted(payloads_of(again)), [b"after", b"before"], "retries")
    letters = await driver.browse(spec.dead_letter_channel, -1, 10)
    expect_equal([one.payload for one in letters], [b"dead"], "dead letters")


@claim(needs=_limited, needs_text="a limit of payload size")
async def a_refused_dead_letter_leaves_its_original_unacknowledged(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x", b"y")
    by = {one.payload: one for one in await bench.take(source, 2)}
    fitting = bench.dead_letter(by[b"x"], spec)
    # What was read may be larger than what may be published, so a driver may have room for some more.
    huge = b"h" * ((bench.capabilities.max_payload or 0) + 1024 * 1024 + 1)
    record = Message(channel=spec.dead_letter_channel, payload=huge, headers=fitting.record.headers)
    refused = DeadLettered(by[b"x"], record, fitting.failure)
    unsettled = await source.settle([refused, Acked(by[b"y"])])
    expect_equal([type(each.error) for each in unsettled], [RecordTooLarge], "errors")
    expect(unsettled[0].settlement is refused, "the wrong settlement was reported")
    expect_equal(await driver.browse(spec.dead_letter_channel, -1, 10), [], "dead letters")
    await driver.close()
    source = await (await bench.driver()).subscribe(spec)
    again = await bench.take(source, 1, within_s=bench.takeover_s)
    expect_equal(payloads_of(again), [b"x"], "what comes again")
    await bench.expect_quiet(source)
