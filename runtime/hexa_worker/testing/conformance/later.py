"""Claims about events that are emitted for later: never early, not late, in nobody's way, and no less safe."""
# ruff: noqa: D103 - the name of a claim says what it claims

from itertools import pairwise

from msgspec.structs import replace

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import Capabilities
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.retrying import expect_in_time
from hexa_worker.testing.conformance.suite import claim

_TEXT = "events for later"
_SAME_TIME_MS = 1_000
"""A driver may take the broker's time stamp for the emitter's where they are so near to each other."""


def _later(capabilities: Capabilities) -> bool:
    return capabilities.delays_events


def _for_later(bench: ConformanceContext, payload: bytes, after_s: float, key: bytes | None = None) -> Message:
    """An event that is due in so many seconds, as an emitter writes it."""
    now_ms = bench.now_ms()
    message = bench.message(payload, key=key, headers=(("hexa-event-id", payload), ("a", b"\xff")))
    return replace(message, timestamp_ms=now_ms, due_ms=now_ms + round(after_s * 1000) + 1)


@claim(needs=_later, needs_text=_TEXT)
async def an_event_for_later_comes_when_it_is_due_as_it_was_emitted(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    message = _for_later(bench, b"x", bench.under_test.delay_s, key=b"k")
    await bench.publish_all(driver, [message])
    (one,) = await bench.receiving(source).result(bench.under_test.deadline_s)
    expect_in_time(bench, one, message.due_ms)
    expect_equal((one.channel, one.payload, one.key), (message.channel, b"x", b"k"), "the event")
    expect_equal(dict(one.headers), dict(message.headers), "headers")
    expect_equal((one.attempt, one.due_ms), (0, 0), "attempt and due time")
    apart_ms = abs(one.timestamp_ms - message.timestamp_ms)
    expect(apart_ms <= _SAME_TIME_MS, f"its time stamp is {apart_ms} ms from when it was emitted")
    await bench.ack(source, [one])
    await bench.expect_quiet(source)


@claim(needs=_later, needs_text=_TEXT)
async def events_for_later_come_in_the_order_of_their_due_times_and_hold_up_nobody(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    accuracy_s = bench.capabilities.delay_accuracy_s
    delays_s = [60.0, *(bench.under_test.delay_s + step * accuracy_s for step in (2, 0, 1))]
    due = {b"%d" % place: _for_later(bench, b"%d" % place, after_s) for place, after_s in enumerate(delays_s)}
    await bench.publish_all(driver, [*due.values(), bench.message(b"live")])
    come: list[Delivery] = []
    while len(come) < len(delays_s):
        batch = await bench.take(source, 1)
        for one in batch:
            if one.payload != b"live":
                expect_in_time(bench, one, due[one.payload].due_ms)
        come += batch
    expect_equal(come[0].payload, b"live", "the first one")
    dues = [due[one.payload].due_ms for one in come[1:]]
    expect(all(b >= a - accuracy_s * 1000 for a, b in pairwise(dues)), f"not in order: {payloads_of(come)}")


@claim(needs=_later, needs_text=_TEXT)
async def an_event_whose_time_has_passed_comes_at_once(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    now_ms = bench.now_ms()
    await bench.publish_all(driver, [replace(bench.message(b"x"), timestamp_ms=now_ms, due_ms=now_ms - 1)])
    (one,) = await bench.take(source, 1, within_s=bench.under_test.wake_s + bench.under_test.slack_s)
    expect_equal((one.payload, one.due_ms), (b"x", 0), "the event")


@claim("kill", needs=_later, needs_text=_TEXT)
async def an_event_for_later_outlives_who_emitted_it_and_who_waited_for_it(bench: ConformanceContext) -> None:
    emitter, driver, spec = await bench.driver(), await bench.driver(), bench.spec()
    await driver.subscribe(spec)
    message = _for_later(bench, b"x", bench.under_test.delay_s)
    await bench.publish_all(emitter, [message])
    await bench.kill(emitter)
    await bench.kill(driver)
    source = await (await bench.driver()).subscribe(spec)
    (one,) = await bench.take(source, 1)
    expect(bench.now_ms() >= message.due_ms, "it came early")
    expect_equal((one.payload, one.attempt), (b"x", 0), "the event")


@claim(needs=_later, needs_text=_TEXT)
async def every_group_gets_an_event_for_later(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    sources = [await driver.subscribe(bench.spec(group=group)) for group in ("one", "two")]
    await bench.publish_all(driver, [_for_later(bench, b"x", bench.under_test.delay_s)])
    for source in sources:
        expect_equal(payloads_of(await bench.take(source, 1)), [b"x"], "what came")


@claim(needs=_later, needs_text=_TEXT)
async def the_backlog_counts_events_for_later_as_delayed(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    receiving = bench.receiving(source)
    await bench.publish_all(driver, [_for_later(bench, b"far", 60), _for_later(bench, b"near", 30)])

    async def counted() -> bool:
        found = [await source.backlog(), await driver.backlog(spec)]
        return all((one.ready, one.delayed, one.leased, one.idle) == (0, 2, 0, False) for one in found)

    await bench.wait_for(counted, "two delayed events")
    source.stop()
    expect_equal(await receiving.result(bench.under_test.deadline_s), [], "what came")


@claim(needs=lambda one: _later(one) and OrderBy.CHANNEL in one.order, needs_text="events for later in order")
async def an_ordered_channel_goes_on_while_an_event_for_later_waits(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(order_by=OrderBy.CHANNEL)
    source = await driver.subscribe(spec)
    near = _for_later(bench, b"near", bench.under_test.delay_s, key=b"k")
    await bench.publish_all(driver, [_for_later(bench, b"far", 60, key=b"k"), near, bench.message(b"live", key=b"k")])
    (live,) = await bench.take(source, 1)
    expect_equal(live.payload, b"live", "the first one")
    await bench.ack(source, [live])
    (one,) = await bench.take(source, 1)
    expect_equal((one.payload, one.due_ms), (b"near", 0), "the second one")
    expect_in_time(bench, one, near.due_ms)
