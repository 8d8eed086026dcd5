"""Claims about what the dlq commands use: `Driver.browse`, `Driver.remove`, `Driver.channels`."""
# ruff: noqa: D103 - the name of a claim says what it claims

from hexa_worker.core.message import Delivery, Message
from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


async def _bury(bench: ConformanceContext, driver: Driver, spec: SubscriptionSpec, count: int) -> list[Delivery]:
    """Dead-letter `count` messages; returns the dead letters."""
    source = await driver.subscribe(spec)
    await bench.publish(driver, *[b"%d" % number for number in range(count)])
    taken = await bench.take(source, count)
    await bench.settle(source, *[bench.dead_letter(one, spec, "no") for one in taken])
    return await _browse_all(driver, spec.dead_letter_channel, page=1000)


async def _browse_all(driver: Driver, channel: str, page: int) -> list[Delivery]:
    found: list[Delivery] = []
    after = -1
    while records := await driver.browse(channel, after, page):
        expect(len(records) <= page, f"a page of {page} has {len(records)} records")
        offsets = [one.offset for one in records]
        expect(offsets == sorted(set(offsets)) and offsets[0] > after, f"offsets after {after}: {offsets}")
        found += records
        after = offsets[-1]
    return found


@claim()
async def browsing_pages_through_all_records(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await _bury(bench, driver, spec, 25)
    for page in (1, 10, 25, 100):
        found = await _browse_all(driver, spec.dead_letter_channel, page)
        expect_equal(sorted(int(one.payload) for one in found), list(range(25)), f"payloads in pages of {page}")


@claim()
async def a_page_may_begin_anywhere(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    dead = await _bury(bench, driver, spec, 9)
    channel = spec.dead_letter_channel
    for first in (0, 3, 8):  # forward, as a redrive does that leaves letters out and removes the others
        page = await driver.browse(channel, dead[first].offset - 1, 2)
        expect_equal([one.offset for one in page], [one.offset for one in dead[first : first + 2]], f"page at {first}")
        expect_equal(await driver.remove(channel, [dead[first].offset]), 1, f"removed at {first}")
    again = await driver.browse(channel, -1, 2)
    expect_equal([one.offset for one in again], [one.offset for one in dead[1:3]], "the first page again")


@claim()
async def browsing_since_a_time_shows_whatever_was_written_from_then_on(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    for payload in (b"a", b"b", b"c"):
        await bench.publish(driver, payload)
    channel = bench.name("in")
    every = await driver.browse(channel, -1, 10)
    expect_equal(sorted(payloads_of(every)), [b"a", b"b", b"c"], "browsed")
    for number, one in enumerate(every):
        found = [each.offset for each in await driver.browse(channel, -1, 10, one.timestamp_ms)]
        expect(not {each.offset for each in every[number:]} - set(found), f"since {one.payload!r}: {found} of {every}")


@claim()
async def browsing_consumes_nothing(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    await bench.publish(driver, b"a", b"b")
    for _ in range(2):
        expect_equal(sorted(payloads_of(await driver.browse(bench.name("in"), -1, 10))), [b"a", b"b"], "browsed")
    taken = await bench.take(await driver.subscribe(spec), 2)
    expect_equal(sorted(payloads_of(taken)), [b"a", b"b"], "payloads")


@claim()
async def browsing_a_channel_that_does_not_exist_finds_nothing(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    expect_equal(list(await driver.browse(bench.name("nowhere"), -1, 10)), [], "records")


@claim()
async def a_browsed_record_has_the_id_it_was_published_under(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    ids = await bench.publish_all(driver, [Message(channel=spec.dead_letter_channel, payload=b"x", key=b"k")])
    (found,) = await driver.browse(spec.dead_letter_channel, -1, 10)
    expect_equal(([found.message_id], found.key), (ids, b"k"), "id and key")


@claim()
async def waiting_retries_can_be_browsed(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    retry = bench.retry(one, spec, after_s=60)
    await bench.settle(source, retry)
    (found,) = await driver.browse(spec.retry_channels[0], -1, 10)
    expect_equal((found.payload, found.due_ms), (b"x", retry.record.due_ms), "payload and due time")


@claim()
async def removed_dead_letters_are_gone_and_counted(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    dead = await _bury(bench, driver, spec, 6)
    gone = [dead[1].offset, dead[4].offset]
    expect_equal(await driver.remove(spec.dead_letter_channel, gone), 2, "removed")
    left = await _browse_all(driver, spec.dead_letter_channel, 100)
    expect_equal([one.offset for one in left], [dead[place].offset for place in (0, 2, 3, 5)], "what is left")


@claim()
async def removing_what_is_not_there_removes_nothing(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    dead = await _bury(bench, driver, spec, 2)
    expect_equal(await driver.remove(spec.dead_letter_channel, [dead[0].offset]), 1, "removed first")
    expect_equal(await driver.remove(spec.dead_letter_channel, [dead[0].offset, 10**9]), 0, "removed again")
    expect_equal(await driver.remove(bench.name("nowhere"), [1]), 0, "removed from nowhere")
    expect_equal(await driver.remove(spec.dead_letter_channel, []), 0, "removed without offsets")


@claim()
async def a_removal_is_seen_by_other_drivers_and_after_reopening(bench: ConformanceContext) -> None:
    driver, other, spec = await bench.driver(), await bench.driver(), bench.spec()
    dead = await _bury(bench, driver, spec, 3)
    await driver.remove(spec.dead_letter_channel, [dead[0].offset])
    expect_equal(len(await _browse_all(other, spec.dead_letter_channel, 10)), 2, "dead letters elsewhere")
    await driver.close()
    again = await bench.driver()
    expect_equal(len(await _browse_all(again, spec.dead_letter_channel, 10)), 2, "dead letters after reopening")


@claim()
async def a_new_dead_letter_never_takes_the_offset_of_a_removed_one(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    dead = await _bury(bench, driver, spec, 3)
    await driver.remove(spec.dead_letter_channel, [one.offset for one in dead])
    await bench.publish_all(driver, [Message(channel=spec.dead_letter_channel, payload=b"new")])
    (found,) = await driver.browse(spec.dead_letter_channel, -1, 10)
    expect(found.offset > dead[-1].offset, f"offset {found.offset} was used before")


@claim()
async def a_redrive_brings_a_dead_letter_back_to_its_group_only(bench: ConformanceContext) -> None:
    driver, spec, sibling = await bench.driver(), bench.spec(group="mine"), bench.spec(group="sibling")
    source, other = await driver.subscribe(spec), await driver.subscribe(sibling)
    await bench.publish(driver, b"x")
    (one,) = await bench.take(source, 1)
    await bench.ack(other, await bench.take(other, 1))
    await bench.settle(source, bench.dead_letter(one, spec))
    (dead,) = await driver.browse(spec.dead_letter_channel, -1, 10)
    record = Message(channel=spec.retry_channels[0], payload=dead.payload, key=dead.key, headers=dead.headers)
    await bench.publish_all(driver, [record])
    await driver.remove(spec.dead_letter_channel, [dead.offset])
    (again,) = await bench.take(source, 1)
    expect_equal((again.payload, dict(again.headers)), (b"x", dict(dead.headers)), "the redriven delivery")
    await bench.expect_quiet(other)


@claim()
async def channels_lists_every_channel_sorted(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec(retry_count=2)
    await driver.declare([spec])
    await bench.publish(driver, b"x", channel="other")
    names = list(await driver.channels())
    expect_equal(names, sorted(names), "order")
    wanted = {bench.name("in"), bench.name("other"), *spec.retry_channels, spec.dead_letter_channel}
    expect(wanted <= set(names), f"missing: {sorted(wanted - set(names))}")
