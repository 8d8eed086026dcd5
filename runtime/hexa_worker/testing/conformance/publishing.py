"""Claims about `Driver.publish`, and that what was published arrives as it was."""
# ruff: noqa: D103 - the name of a claim says what it claims

import anyio

from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Capabilities
from hexa_worker.errors import RecordTooLarge
from hexa_worker.testing.conformance.context import ConformanceContext, expect, expect_equal, payloads_of
from hexa_worker.testing.conformance.suite import claim


@claim()
async def publish_confirms_each_message_with_the_id_it_is_delivered_under(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await driver.declare([spec])
    ids = await bench.publish(driver, b"a", b"b", b"c")
    taken = await bench.take(await driver.subscribe(spec), 3)
    expect_equal({one.payload: one.message_id for one in taken}, dict(zip([b"a", b"b", b"c"], ids, strict=True)), "ids")


@claim()
async def ids_are_unique_across_batches_and_channels(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    ids = await bench.publish(driver, *[b"x"] * 20)
    ids += await bench.publish(driver, *[b"x"] * 20)
    ids += await bench.publish(driver, *[b"x"] * 20, channel="other")
    expect_equal(len(set(ids)), 60, "distinct ids")


@claim()
async def publish_to_a_channel_that_nobody_declared_is_kept(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    await bench.publish(driver, b"early", channel="new")
    source = await driver.subscribe(bench.spec("new"))
    expect_equal(payloads_of(await bench.take(source, 1)), [b"early"], "payloads")


@claim()
async def what_an_emitter_published_waits_for_the_first_start_of_its_subscription(bench: ConformanceContext) -> None:
    emitter = await bench.driver()
    await bench.publish(emitter, b"1", b"2", channel="waiting")
    await emitter.close()
    source = await (await bench.driver()).subscribe(bench.spec("waiting"))
    expect_equal(sorted(payloads_of(await bench.take(source, 2))), [b"1", b"2"], "payloads")


@claim()
async def publishing_nothing_answers_nothing(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    expect_equal(list(await driver.publish([])), [], "answers")


@claim()
async def payloads_of_any_bytes_arrive_unchanged(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    payloads = [b"", b"\0", b"\xff\xfe", bytes(range(256)) * 5, "žluť ⚡".encode(), b'{"a": 1}', b"\n\r\0\n"]
    await bench.publish(driver, *payloads)
    expect_equal(sorted(payloads_of(await bench.take(source, len(payloads)))), sorted(payloads), "payloads")


@claim()
async def a_payload_of_half_a_mebibyte_arrives_unchanged(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    payload = bytes(range(256)) * 2048
    await bench.publish(driver, payload)
    taken = await bench.take(await driver.subscribe(spec), 1)
    expect(taken[0].payload == payload, "the payload changed")


def _limited(capabilities: Capabilities) -> bool:
    return capabilities.max_payload is not None


@claim(needs=_limited, needs_text="a limit of payload size")
async def the_largest_payload_that_is_promised_arrives(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    payload = b"m" * (bench.capabilities.max_payload or 0)
    await bench.publish(driver, payload)
    taken = await bench.take(await driver.subscribe(spec), 1)
    expect(taken[0].payload == payload, "the payload changed")


@claim(needs=_limited, needs_text="a limit of payload size")
async def a_payload_over_the_limit_is_refused_and_its_neighbours_are_stored(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    source = await driver.subscribe(spec)
    huge = b"m" * ((bench.capabilities.max_payload or 0) + 1)
    answers = await driver.publish([bench.message(b"before"), bench.message(huge), bench.message(b"after")])
    expect_equal([type(answer) for answer in answers], [str, RecordTooLarge, str], "types of the answers")
    expect_equal(sorted(payloads_of(await bench.take(source, 2))), [b"after", b"before"], "payloads")


@claim()
async def keys_of_any_bytes_arrive_unchanged(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    keys = [None, b"k", b"\0\xff\xfe", "klíč".encode(), b"k" * 200, b" ", b"a b\nc"]
    await bench.publish_all(driver, [bench.message(b"%d" % place, key=key) for place, key in enumerate(keys)])
    taken = await bench.take(await driver.subscribe(spec), len(keys))
    expect_equal({int(one.payload): one.key for one in taken}, dict(enumerate(keys)), "keys")


@claim(needs=lambda capabilities: capabilities.empty_keys, needs_text="empty keys")
async def an_empty_key_is_not_the_same_as_no_key(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await bench.publish_all(driver, [bench.message(b"empty", key=b""), bench.message(b"none")])
    taken = await bench.take(await driver.subscribe(spec), 2)
    expect_equal({one.payload: one.key for one in taken}, {b"empty": b"", b"none": None}, "keys")


@claim()
async def header_names_and_values_arrive_byte_for_byte(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    headers = (
        ("plain", b"text"),
        ("Mixed-Case", b"Kept"),
        ("empty", b""),
        ("binary", bytes(range(256))),
        ("spaces", b"  both ends "),
        ("lines", b"a\r\nb: c\r\n\r\n"),
        ("utf-8", "hodnota ⚡".encode()),
        ("jméno ⚡", b"name"),
        ("with space: and colon", b"1"),
    )
    await bench.publish_all(driver, [bench.message(b"x", headers=headers)])
    taken = await bench.take(await driver.subscribe(spec), 1)
    expect_equal(dict(taken[0].headers), dict(headers), "headers")
    expect_equal(len(taken[0].headers), len(headers), "number of headers")


@claim(needs=lambda capabilities: capabilities.header_order, needs_text="the order of headers")
async def headers_arrive_in_their_order(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    headers = tuple((name, name.encode()) for name in "qwertyuiopasdfghjklzxcvbnm")
    await bench.publish_all(driver, [bench.message(b"x", headers=headers)])
    taken = await bench.take(await driver.subscribe(spec), 1)
    expect_equal(taken[0].headers, headers, "headers")


@claim(needs=lambda capabilities: capabilities.header_duplicates, needs_text="repeated header names")
async def repeated_headers_are_all_kept(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    headers = (("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"1"))
    await bench.publish_all(driver, [bench.message(b"x", headers=headers)])
    taken = await bench.take(await driver.subscribe(spec), 1)
    expect_equal(sorted(taken[0].headers), sorted(headers), "headers")


@claim()
async def two_hundred_headers_arrive(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    headers = tuple((f"name-{number}", b"v" * 20) for number in range(200))
    await bench.publish_all(driver, [bench.message(b"x", headers=headers)])
    taken = await bench.take(await driver.subscribe(spec), 1)
    expect_equal(dict(taken[0].headers), dict(headers), "headers")


@claim()
async def a_message_without_a_timestamp_gets_the_time_of_its_writing(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    before_ms = bench.now_ms()
    await bench.publish(driver, b"x")
    taken = await bench.take(await driver.subscribe(spec), 1)
    slack_ms = bench.under_test.slack_s * 1000
    expect(
        before_ms - slack_ms <= taken[0].timestamp_ms <= bench.now_ms() + slack_ms,
        f"timestamp {taken[0].timestamp_ms}, written from {before_ms} to {bench.now_ms()}",
    )


@claim()
async def one_batch_may_go_to_many_channels(bench: ConformanceContext) -> None:
    driver = await bench.driver()
    names = [f"many-{number}" for number in range(20)]
    await bench.publish_all(driver, [bench.message(name.encode(), name) for name in names])
    taken = await bench.take(await driver.subscribe(bench.spec(*names)), len(names))
    expect_equal({one.channel: one.payload for one in taken}, {bench.name(n): n.encode() for n in names}, "arrivals")


@claim()
async def many_tasks_may_publish_at_once(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    ids: list[str] = []

    async def publish(task: int) -> None:
        for number in range(5):
            ids.extend(await bench.publish(driver, b"%d-%d" % (task, number), b"%d-%d'" % (task, number)))

    async with anyio.create_task_group() as tasks:
        for task in range(20):
            tasks.start_soon(publish, task)
    expect_equal(len(set(ids)), 200, "distinct ids")
    taken = await bench.take(await driver.subscribe(spec), 200)
    expect_equal(len(set(payloads_of(taken))), 200, "distinct payloads")


@claim()
async def one_batch_of_a_thousand_messages_is_stored_whole(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    await bench.publish(driver, *[b"%d" % number for number in range(1000)])
    taken = await bench.take(await driver.subscribe(spec), 1000)
    expect_equal(sorted(int(one.payload) for one in taken), list(range(1000)), "payloads")


@claim()
async def a_message_with_a_key_keeps_its_place_among_those_of_its_key(bench: ConformanceContext) -> None:
    driver, spec = await bench.driver(), bench.spec()
    messages = [
        Message(channel=bench.name("in"), payload=b"%d" % number, key=b"k%d" % (number % 3)) for number in range(60)
    ]
    for start in range(0, 60, 7):
        await bench.publish_all(driver, messages[start : start + 7])
    taken = await bench.take(await driver.subscribe(spec), 60)
    for key in (b"k0", b"k1", b"k2"):
        numbers = [int(one.payload) for one in taken if one.key == key]
        expect_equal(numbers, sorted(numbers), f"order of {key!r}")
