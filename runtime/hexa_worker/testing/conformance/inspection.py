"""Claims about looking from outside: `Driver.backlog` and `Driver.preflight` tell much and disturb nobody."""
# ruff: noqa: D103 - the name of a claim says what it claims

from hexa_worker.drivers.base import Driver, SubscriptionSpec
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


async def _wait_for_backlog(
    bench: ConformanceContext, driver: Driver, spec: SubscriptionSpec, wanted: tuple[int, int, int]
) -> None:
    """Wait until that many are ready or in hand, delayed, and dead."""
    seen: list[tuple[int, int, int | None]] = []

    async def reached() -> bool:
        found = await driver.backlog(spec)
        seen.append((found.ready + found.leased, found.delayed, found.dead_letters))
        return seen[-1] == wanted

    try:
        await bench.wait_for(reached, "", bench.takeover_s)
    except AssertionError as error:
        raise AssertionError(f"ready or in hand, delayed, dead: expected {wanted}, last seen {seen[-1]}") from error


@claim()
async def the_backlog_is_seen_from_outside_while_nobody_runs(bench: ConformanceContext) -> None:
    driver, outside, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    for payload in (b"a", b"b", b"c", b"d"):  # one by one: of a batch some brokers tell only that something is left
        await bench.publish(driver, payload)
    first, second, third, _ = await bench.take(source, 4)
    retry = bench.retry(first, spec, after_s=60)
    await bench.settle(source, retry, bench.dead_letter(second, spec))
    await bench.ack(source, [third])
    await source.close()
    await driver.close()
    await _wait_for_backlog(bench, outside, spec, (1, 1, 1))
    expect_equal((await outside.backlog(spec)).next_due_ms, retry.record.due_ms, "next due")


@claim()
async def the_backlog_of_a_subscription_that_never_ran_is_what_it_would_begin_with(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    await driver.declare([bench.spec(group="somebody")])  # or nobody would keep the records
    await bench.publish(driver, b"a", b"b", b"c")
    await _wait_for_backlog(bench, driver, bench.spec(group="eager"), (3, 0, 0))
    await _wait_for_backlog(bench, driver, bench.spec(group="late", start="latest"), (0, 0, 0))
    expect(
        (await driver.backlog(bench.spec("nowhere", group="lost"))).idle, "a channel that does not exist has records"
    )


@claim()
async def a_look_from_outside_disturbs_nobody(bench: ConformanceContext) -> None:
    driver, outside, spec = await bench.driver(), await bench.driver(), bench.spec()
    revoked: list[frozenset[str]] = []

    async def note(sources: frozenset[str]) -> None:
        revoked.append(sources)

    source = await driver.subscribe(spec, note)
    await bench.publish(driver, b"a", b"b")
    taken = await bench.take(source, 2)
    before = len(revoked)
    await _wait_for_backlog(bench, outside, spec, (2, 0, 0))
    await outside.preflight(spec)
    await bench.ack(source, taken)
    await _wait_for_backlog(bench, outside, spec, (0, 0, 0))
    await bench.publish(driver, b"c")
    expect_equal(payloads_of(await bench.take(source, 1)), [b"c"], "what came after the look")
    expect_equal(len(revoked), before, "how often something was revoked")


@claim()
async def a_removed_dead_letter_is_not_counted(bench: ConformanceContext) -> None:
    driver, outside, spec = await bench.driver(), await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    await bench.publish(driver, b"a", b"b", b"c")
    await bench.settle(source, *[bench.dead_letter(one, spec) for one in await bench.take(source, 3)])
    await _wait_for_backlog(bench, outside, spec, (0, 0, 3))
    letters = await driver.browse(spec.dead_letter_channel, -1, 10)
    await driver.remove(spec.dead_letter_channel, [letters[1].offset])
    await _wait_for_backlog(bench, outside, spec, (0, 0, 2))


@claim()
async def a_preflight_makes_nothing_and_tells_what_is_there(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    names = {bench.name("in"), *spec.retry_channels, spec.dead_letter_channel}
    found = await driver.preflight(spec)
    expect(found and not any(one.exists for one in found), f"it is said to exist: {found}")
    expect(not any(one.problem for one in found), f"what a worker would make is a problem: {found}")
    expect(not names & set(await driver.channels()), "the preflight made a channel")
    await driver.declare([spec])
    found = await driver.preflight(spec)
    kept = {"channel", "retry channel", "dead letter"}  # progress may begin to be kept when somebody reads
    wrong = [one for one in found if one.problem or (one.kind in kept and not one.exists)]
    expect(not wrong, f"not there after it was declared, or a problem: {wrong}")
    expect(bench.name("in") in {one.name for one in found if one.kind == "channel"}, "the channel is not told of")
