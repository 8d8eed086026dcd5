"""Claims about a broker that goes away and comes back: bounded errors of the right kind, and nothing lost."""
# ruff: noqa: D103 - the name of a claim says what it claims

from contextlib import suppress

import anyio

from hexa_worker.core.settlement import Acked, Settlement
from hexa_worker.drivers.base import Source, Unsettled
from hexa_worker.errors import DriverUnavailable
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


@claim("away")
async def publishing_to_a_broker_that_is_away_is_unavailable_and_works_again_after(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"before")
    await bench.away()
    try:
        await driver.publish([bench.message(b"lost or not")])
    except DriverUnavailable:
        pass
    else:
        expect(condition=False, message="publish was confirmed though the broker was away")
    await bench.back()
    await bench.patiently(lambda: bench.publish(driver, b"after"))
    come: set[bytes] = set()
    while not come >= {b"before", b"after"}:
        come.update(payloads_of(await bench.patiently(lambda: bench.take(source, 1))))


@claim("away")
async def a_source_heals_when_its_broker_comes_back(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    receiving = bench.receiving(source)
    await bench.away()
    await anyio.sleep(bench.under_test.quiet_s)
    await bench.back()
    await bench.patiently(lambda: bench.publish(driver, b"x"))
    try:
        come = await receiving.result(bench.under_test.deadline_s)
    except DriverUnavailable:
        come = await bench.patiently(lambda: bench.take(source, 1))
    expect_equal(payloads_of(come), [b"x"], "payloads")


@claim("away")
async def settling_while_the_broker_is_away_can_be_done_again_after(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"ack", b"retry")
    by = {one.payload: one for one in await bench.take(source, 2)}
    settlements: list[Settlement] = [Acked(by[b"ack"]), bench.retry(by[b"retry"], spec, after_s=0)]
    await bench.away()
    try:
        unsettled = await source.settle(settlements)
    except DriverUnavailable:
        unsettled = [Unsettled(one, DriverUnavailable("all of them")) for one in settlements]
    expect(unsettled, "settled though the broker was away")
    await bench.back()
    again = [one.settlement for one in unsettled if isinstance(one.error, DriverUnavailable)]
    await bench.patiently(lambda: source.settle(again))
    seen: set[bytes] = set()
    while b"retry" not in seen:
        for one in await bench.patiently(lambda: bench.take(source, 1)):
            if one.attempt:
                seen.add(one.payload)
            await bench.ack(source, [one])


@claim("away")
async def closing_while_the_broker_is_away_neither_fails_nor_hangs(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    await bench.take(source, 1)
    await bench.away()
    await source.close()
    await driver.close()
    await bench.back()
    source = await bench.patiently(lambda: _subscribed(bench))
    expect_equal(payloads_of(await bench.patiently(lambda: bench.take(source, 1))), [b"x"], "what comes again")


async def _subscribed(bench: ConformanceContext) -> Source:
    driver = await bench.driver()
    return await driver.subscribe(bench.spec())


@claim("away")
async def opening_while_the_broker_is_away_is_unavailable(bench: ConformanceContext) -> None:
    await bench.away()
    driver = bench.new_driver()
    try:
        await driver.open()
        await driver.publish([bench.message(b"x")])
    except DriverUnavailable:
        pass
    else:
        expect(condition=False, message="everything worked though the broker was away")
    await bench.back()
    await bench.patiently(driver.open)
    await bench.patiently(lambda: bench.publish(driver, b"x"))


@claim("away")
async def backlog_answers_or_is_unavailable_while_the_broker_is_away(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"x")
    await bench.away()
    with suppress(DriverUnavailable):
        await source.backlog()
    await bench.back()
    backlog = await bench.patiently(source.backlog)
    expect_equal(backlog.ready + backlog.leased, 1, "ready or leased")
