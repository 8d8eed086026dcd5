"""What goes wrong half way on pulsar, on a real broker: no delivery stays behind, and nobody reads for nobody."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pulsar as pulsar_client
import pytest
from _pulsar import MessageBuilder
from anyio import to_thread
from pulsar import CryptoKeyReader

from hexa_worker.config.pulsar import PulsarSubscription
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked, DeadLettered, Failure
from hexa_worker.drivers.base import Source
from hexa_worker.drivers.pulsar import PulsarDriver
from hexa_worker.drivers.pulsar.batch_acks import MANY, BatchAcks
from hexa_worker.drivers.pulsar.dead_letter_reader import LETTERS
from hexa_worker.drivers.pulsar.reading import Reading
from hexa_worker.drivers.pulsar.wire import PulsarOrigin
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge
from tests.drivers.consuming import PLENTY, ack, publish, spec, subscribed, take
from tests.drivers.pulsar_tools import ask, opened, options, raw_client
from tests.lab.base import Broker

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask_until(source: Source, count: int) -> list[Delivery]:
    """Receive until `count` deliveries came, as a pump does: a broker that is away is asked again."""
    taken: list[Delivery] = []
    with anyio.fail_after(20):
        while len(taken) < count:
            try:
                taken += await source.receive(count - len(taken), PLENTY)
            except DriverError:
                await anyio.sleep(0.05)
    return taken


async def test_a_key_that_is_no_text_keeps_nothing_from_being_delivered(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name())
    with raw_client(pulsar) as client:
        async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
            producer = client.create_producer(f"{one.action}.in", batching_enabled=False)
            for payload, key in ((b"1", b"good"), (b"2", b"\xff\xfe"), (b"3", b"good")):
                builder = MessageBuilder()
                builder.content(payload)
                builder.partition_key(key)
                producer._producer.send(builder.build())
            taken = await ask_until(source, 3)
            assert [each.payload for each in taken] == [b"1", b"2", b"3"]
            await ack(source, taken)


async def test_a_consumer_that_broke_while_enough_was_ready_is_made_anew(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), options=PulsarSubscription(batch_receive=10))
    async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
        await publish(driver, f"{one.action}.in", *[b"%d" % number for number in range(200)])
        taken = await take(source, 5)
        with anyio.fail_after(10):
            while not source.full():
                await anyio.sleep(0.01)
        await to_thread.run_sync(source.consumers[0]._consumer._consumer.close)  # the client library has given it up
        with anyio.fail_after(20):
            while await source.settle([Acked(each) for each in taken]):
                await anyio.sleep(0.1)
        come = {each.payload for each in taken}
        while len(come) < 200:
            come |= {each.payload for each in await ask_until(source, 1)}


async def test_acknowledgements_leave_also_while_enough_is_ready(pulsar: Broker, unique_name: Name) -> None:
    one = spec(unique_name(), options=PulsarSubscription(batch_receive=10))
    async with opened(options(pulsar)) as first, opened(options(pulsar)) as second:
        await first.declare([one])
        await publish(second, f"{one.action}.in", *[b"%d" % number for number in range(1_000)])
        source = await first.subscribe(one)
        taken = await take(source, 2 * MANY)
        with anyio.fail_after(10):
            while not source.full():
                await anyio.sleep(0.01)
        await ack(source, taken)
        await anyio.sleep(1.0)
        await first.crash()
        async with subscribed(second, one) as other:
            come = await take(other, 1_000 - len(taken))
        assert not {each.payload for each in taken} & {each.payload for each in come}


async def test_a_channel_found_while_its_source_was_closed_is_read_by_nobody(
    pulsar: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = unique_name()
    one = spec(name, channels=(), pattern=rf"{name}.*")
    found, closed = threading.Event(), threading.Event()

    def dawdle(topic: str) -> None:
        if topic.endswith(".late"):
            found.set()
            closed.wait(20)

    async with opened(options(pulsar)) as driver:
        monkeypatch.setattr(driver, "_make_partitioned", dawdle)
        await publish(driver, f"{name}.in", b"x")
        source = await driver.subscribe(one)
        await publish(driver, f"{name}.late", b"y")
        with anyio.fail_after(20):
            while not found.is_set():
                await anyio.sleep(0.05)
            await source.close()
            closed.set()
            while any(each.name == "hexa-pulsar-find" for each in threading.enumerate()):
                await anyio.sleep(0.05)
        with anyio.fail_after(20):
            while await consumers_of(driver, f"{name}.late", name):  # the broker tells it a moment later
                await anyio.sleep(0.05)


class Closing(threading.Event):
    """Lets the end come just after the last look whether it has come."""

    def __init__(self, close: Callable[[], None]) -> None:
        super().__init__()
        self.armed = False
        self._close = close

    def is_set(self) -> bool:
        known = super().is_set()
        if self.armed:
            self.armed = False
            threading.Thread(target=self._close, daemon=True).start()
            self.wait(10)
            time.sleep(0.3)  # what it closes it has closed by then
        return known


async def test_a_consumer_that_is_made_while_its_source_is_closed_is_closed_too(
    pulsar: Broker, unique_name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(unique_name())
    async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
        consumer = source.consumers[0]
        subscribe, closing = consumer._subscribe, Closing(consumer.close)

        def subscribe_and_arm(client: Any, queue: int) -> Any:
            consumer = subscribe(client, queue)
            closing.armed = True
            return consumer

        receive, given_up = consumer._receive, threading.Event()

        def give_up_once(raw: Any) -> Any:
            if given_up.is_set():
                return receive(raw)
            given_up.set()
            raise pulsar_client.AlreadyClosed("the client library has given it up")

        # Not by a close of the client library beside the reading thread: the thread's own close would break the
        # connection before the first one has told the broker, which keeps the consumer then.
        consumer._subscribe, consumer._ending = subscribe_and_arm, closing
        monkeypatch.setattr(consumer, "_receive", give_up_once)
        with anyio.fail_after(20):
            while consumer._thread.is_alive():
                await anyio.sleep(0.05)
            while await consumers_of(driver, f"{one.action}.in", one.group):  # the broker tells it a moment later
                await anyio.sleep(0.05)


async def consumers_of(driver: PulsarDriver, channel: str, subscription: str) -> int:
    stats = await to_thread.run_sync(driver._admin.topic_stats, driver._connection.topics.topic(channel))
    assert stats is not None
    return len(stats["subscriptions"].get(subscription, {}).get("consumers", ()))


async def test_a_connection_that_cannot_be_made_anew_at_first_is_tried_again(
    pulsar: Broker, unique_name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    async with opened(options(pulsar, token_file=str(token))) as driver:
        connection = driver._connection
        probe = connection.security.probe

        def probe_and_vanish(timeout_s: float) -> None:
            probe(timeout_s)
            monkeypatch.setattr(connection.security, "probe", probe)
            token.unlink()

        monkeypatch.setattr(connection.security, "probe", probe_and_vanish)
        await to_thread.run_sync(connection.client.close)  # the client library has given it up
        with anyio.fail_after(20):
            while token.exists():
                await anyio.sleep(0.05)
            await anyio.sleep(1.0)
            token.write_text("secret")
            while True:
                try:
                    await publish(driver, f"{unique_name()}.in", b"x")
                    break
                except DriverUnavailable:
                    await anyio.sleep(0.1)


async def test_what_was_read_beside_something_unreadable_comes_again(pulsar: Broker, unique_name: Name) -> None:
    topic = unique_name()
    with raw_client(pulsar) as client:
        consumer = client.subscribe(topic, "raw")
        client.create_producer(topic).send(b"x")
        message = consumer.receive(10_000)._message
        reading = Reading(lambda one: PulsarOrigin(one, one, 0), {}, object(), BatchAcks())
        with pytest.raises(AttributeError):
            reading.read([message, object()])
        assert [one.payload for one in reading.read([message])] == [b"x"]


@pytest.mark.timeout(180)
async def test_a_source_of_many_consumers_is_closed_in_time_while_the_broker_is_frozen(
    pulsar: Broker, unique_name: Name
) -> None:
    name = unique_name()
    one = spec(name, order_by=OrderBy.CHANNEL, channels=tuple(f"{name}.in{number}" for number in range(4)))
    async with opened(options(pulsar, timeout_s=15.0)) as driver:
        source = await driver.subscribe(one)
        pulsar.freeze()
        try:
            began = time.monotonic()
            await source.close()
            assert time.monotonic() - began < 15.0, "as long as one answer may take, for five consumers"
        finally:
            pulsar.thaw()


async def test_dead_letters_whose_reading_failed_are_released_for_other_commands(
    pulsar: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    letters = one.dead_letter_channel
    async with opened(options(pulsar)) as first, opened(options(pulsar)) as second:
        await first.declare([one])
        await publish(first, letters, b"1", b"2")
        assert len(await first.browse(letters, -1, 1)) == 1
        (opened_letters,) = first._browser._letters.values()
        await to_thread.run_sync(opened_letters._consumer._consumer.close)  # the client library has given it up
        await to_thread.run_sync(_stop_timer, first)
        with pytest.raises(DriverUnavailable):
            await first.browse(letters, -1, 10)
        assert [each.payload for each in await second.browse(letters, -1, 10)] == [b"1", b"2"]
        await anyio.sleep(1.5)
        assert [each.payload for each in await first.browse(letters, -1, 10)] == [b"1", b"2"]


def _stop_timer(driver: PulsarDriver) -> None:
    """The reading that fails is the first one for a while."""
    timer = driver._browser._timer
    assert timer is not None
    timer.cancel()


async def their_keys(folder: Path) -> CryptoKeyReader:
    """Keys that no worker has."""
    secret, public = folder / "secret.pem", folder / "public.pem"
    for call in (["genrsa", "-out", secret, "2048"], ["rsa", "-in", secret, "-pubout", "-out", public]):
        await anyio.run_process(["openssl", *map(str, call)])
    return CryptoKeyReader(str(public), str(secret))


async def test_an_encrypted_message_without_a_key_is_said_and_the_others_go_on(
    pulsar: Broker, unique_name: Name, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, keys = spec(unique_name()), await their_keys(tmp_path)
    with raw_client(pulsar) as client:
        encrypting = client.create_producer(one.channels[0], encryption_key="theirs", crypto_key_reader=keys)
        plain = client.create_producer(one.channels[0])
        async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
            for number in range(3):
                encrypting.send(b"hidden")
                plain.send(b"%d" % number)
            taken = await take(source, 3)
            assert [each.payload for each in taken] == [b"0", b"1", b"2"]
            await ack(source, taken)
            assert (await source.backlog()).ready == 3
    assert caplog.text.count("is encrypted and a worker has no keys") == 1


async def test_browsing_ends_behind_messages_that_cannot_be_read_and_those_in_parts(
    pulsar: Broker, unique_name: Name, tmp_path: Path
) -> None:
    one, keys = spec(unique_name()), await their_keys(tmp_path)
    with raw_client(pulsar) as client:
        encrypting = client.create_producer(one.channels[0], encryption_key="theirs", crypto_key_reader=keys)
        await to_thread.run_sync(encrypting.send, b"hidden")
        parted = client.create_producer(f"{one.action}.large", batching_enabled=False, chunking_enabled=True)
        await to_thread.run_sync(parted.send, b"x" * 6_000_000)
        async with opened(options(pulsar)) as driver:
            for channel in (one.channels[0], f"{one.action}.large"):
                (only,) = await driver.browse(channel, -1, 10)
                assert await driver.browse(channel, only.offset, 10) == []


async def test_a_letter_that_nobody_can_read_hides_none_behind_it(
    pulsar: Broker, unique_name: Name, tmp_path: Path
) -> None:
    one, keys = spec(unique_name()), await their_keys(tmp_path)
    async with opened(options(pulsar)) as driver:
        await driver.declare([one])
        with raw_client(pulsar) as client:
            topic = one.dead_letter_channel
            encrypting = client.create_producer(topic, encryption_key="theirs", crypto_key_reader=keys)
            for _ in range(LETTERS + 1):
                encrypting.send_async(b"hidden", lambda *_: None)
                encrypting.flush()
        await publish(driver, one.dead_letter_channel, b"1")
        assert [each.payload for each in await driver.browse(one.dead_letter_channel, -1, 10)] == [b"1"]


async def test_a_topic_that_is_gone_for_a_while_is_waited_for_by_a_source_that_has_begun(
    pulsar: Broker, unique_name: Name
) -> None:
    one, namespace = spec(unique_name()), f"public/{unique_name('gone')}"
    topic = f"/admin/v2/persistent/{namespace}/{one.channels[0]}"
    await ask(pulsar, "PUT", f"/admin/v2/namespaces/{namespace}", b"{}")
    async with (
        opened(options(pulsar, topic_format=f"persistent://{namespace}/{{}}")) as driver,
        subscribed(driver, one) as source,
    ):
        await publish(driver, one.channels[0], b"1")
        held = await take(source, 1)
        made = b'{"allowAutoTopicCreation": false}'
        await ask(pulsar, "POST", f"/admin/v2/namespaces/{namespace}/autoTopicCreation", made)
        await ask(pulsar, "DELETE", f"{topic}?force=true")
        with anyio.fail_after(20):
            while "does not exist" not in str(source.consumers[0].trouble):
                await anyio.sleep(0.05)
        with pytest.raises(DriverUnavailable, match="does not exist"):
            await source.receive(1, PLENTY)
        with pytest.raises(DriverRejected, match="does not exist"):
            await driver.subscribe(one)
        await ask(pulsar, "PUT", topic)
        with anyio.fail_after(2.0):
            while source.consumers[0].trouble is not None:
                await anyio.sleep(0.05)
        assert await source.settle([Acked(each) for each in held]) == []
        assert (await source.backlog()).idle


async def test_a_chunked_message_is_acknowledged_as_one_and_refused_by_a_dead_letter(
    pulsar: Broker, unique_name: Name
) -> None:
    one = spec(unique_name())
    with raw_client(pulsar) as client:
        async with opened(options(pulsar)) as driver, subscribed(driver, one) as source:
            producer = client.create_producer(one.channels[0], batching_enabled=False, chunking_enabled=True)
            producer.send(b"x" * 12_000_000)
            (whole,) = await take(source, 1)
            assert len(whole.payload) == 12_000_000
            why = Failure(error="Oops", message="no", reason="failed")
            letter = Message(channel=one.dead_letter_channel, payload=whole.payload)
            (refused,) = await source.settle([DeadLettered(whole, letter, why)])
            assert isinstance(refused.error, RecordTooLarge)
            cut = Message(channel=one.dead_letter_channel, payload=b"")
            assert await source.settle([DeadLettered(whole, cut, why)]) == []
            assert (await source.backlog()).idle
            assert len(await driver.browse(one.dead_letter_channel, -1, 10)) == 1
