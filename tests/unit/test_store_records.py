"""What every driver with a remote broker does with retries and dead letters: durable first, acknowledged then."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import anyio
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import Acked, DeadLettered, Failure, RetryAt, Settlement
from hexa_worker.drivers.base import Source, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.kafka.partition import Partition
from hexa_worker.drivers.kafka.progress import Progress
from hexa_worker.drivers.kafka.source import KafkaSource
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.kit.settling import WithRecord, store_records
from hexa_worker.drivers.nats.protocol import SubjectSubscription
from hexa_worker.drivers.nats.source import ChannelPart, NatsSource
from hexa_worker.drivers.pulsar.publisher import PublishCall
from hexa_worker.drivers.pulsar.source import PulsarSource
from hexa_worker.drivers.pulsar.threads import Threads
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SPEC = SubscriptionSpec(action="do", group="do", channels=("in",), retry_base="do", retry_count=1)
FAILURE = Failure(error="ValueError", message="no", reason="")
ANSWERS: Mapping[bytes, str | DriverError] = {
    b"refused": DriverRejected("no rights"),
    b"away": DriverUnavailable("not confirmed in time"),
}
NOTHING: Any = None


class Publisher:
    """Stores records as `ANSWERS` says; may be away as a whole, and may keep its callers waiting."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.answers = anyio.Event()
        self.answers.set()
        self.away = False

    async def publish(
        self, messages: Sequence[Message], ids: Sequence[str] = (), *, limited: Sequence[bool] = ()
    ) -> list[str | DriverError]:
        """See `hexa_worker.drivers.base.Driver.publish`."""
        del ids, limited
        self.asked.set()
        await self.answers.wait()
        if self.away:
            raise DriverUnavailable("away")
        return [ANSWERS.get(message.payload, "stored") for message in messages]


class Stage:
    """One source with a fake broker.

    Attributes:
        source: what settles.
        deliveries: what it has in flight.
        acknowledged: tells whether the broker was told that a delivery is done.
    """

    source: Source
    deliveries: list[Delivery]
    acknowledged: Callable[[Delivery], bool]


class OnKafka(Stage):
    """Acknowledged is what the next commit covers."""

    def __init__(self, publisher: Any) -> None:
        partition = Partition("in", 0, 0, Progress(0))
        self.source = KafkaSource(
            NOTHING, SPEC, NOTHING, NOTHING, NOTHING, publisher, NOTHING, nothing_revoked, SystemClock(), NOTHING
        )
        assert partition.watermark is not None
        partition.watermark.deliver(range(4), 4)
        self.deliveries = [
            Delivery(channel="in", payload=b"x", source="in-0", offset=offset, token=partition) for offset in range(4)
        ]
        self.acknowledged = lambda delivery: partition.is_finished(delivery.offset)


class OnNats(Stage):
    """Acknowledged is what was written to a delivery's reply subject."""

    up = True
    generation = 1
    max_payload = 1024 * 1024

    def __init__(self, publisher: Any) -> None:
        connection: Any = self
        self._written = b""
        self._sink: Callable[[list[Any]], None]
        source = NatsSource(connection, publisher, NOTHING, SPEC, "fast", SystemClock(), NOTHING, nothing_revoked)
        source.add_consumer(ChannelPart(stream="in", durable="do", channel="in", born="first"), 30.0)
        self.source = source
        self._sink([(b"in", b"$JS.ACK.in.do.1.%d.1.1000.0" % number, None, b"x") for number in range(1, 5)])
        self.deliveries = list(source.pull_consumers[0].buffer)
        self.acknowledged = lambda delivery: b"$JS.ACK.in.do.1.%d.1.1000.0 4\r\n+ACK" % delivery.offset in self._written

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """The connection never changes."""

    def subscribe(self, sink: Callable[[list[Any]], None]) -> SubjectSubscription:
        """Where deliveries go."""
        self._sink = sink
        return SubjectSubscription("inbox", 1, sink)

    def write(self, data: bytes) -> None:
        """Keep note of it."""
        self._written += data


class OnPulsar(Stage):
    """Acknowledged is what its consumer was told."""

    connected = True
    retries = False

    def __init__(self, publisher: Any) -> None:
        consumer: Any = self
        loop = LoopHandle()
        told: set[tuple[str, int]] = set()

        def begin(messages: Sequence[Message]) -> PublishCall:
            publisher.asked.set()
            if publisher.away:
                raise DriverUnavailable("away")
            call = PublishCall(messages, loop, 30.0)
            if publisher.answers.is_set():
                for number, message in enumerate(messages):
                    call.answer(number, ANSWERS.get(message.payload, "stored"))
            return call

        source = PulsarSource(SPEC, begin, SystemClock(), loop, Threads(), Mock())
        source.consumers.append(consumer)
        self.source = source
        self.deliveries = [Delivery(channel="in", payload=b"x", source="in", offset=number) for number in range(4)]
        source.known.update({(one.source, one.offset): consumer for one in self.deliveries})
        self.acknowledge = lambda settled: told.update([place for place, _ in settled])
        self.acknowledged = lambda delivery: (delivery.source, delivery.offset) in told


STAGES = pytest.mark.parametrize("stage", [OnKafka, OnNats, OnPulsar])


def retry(delivery: Delivery, payload: bytes) -> RetryAt:
    return RetryAt(delivery, Message(channel="do.retry.1", payload=payload, due_ms=1), 1.0, FAILURE)


def dead_letter(delivery: Delivery, payload: bytes) -> DeadLettered:
    return DeadLettered(delivery, Message(channel="do.dlq", payload=payload), FAILURE)


@STAGES
async def test_of_many_records_only_the_durable_ones_have_their_originals_acknowledged(
    stage: Callable[[Any], Stage],
) -> None:
    on = stage(Publisher())
    first, second, third, last = on.deliveries
    settlements: list[Settlement] = [
        retry(first, b"good"),
        dead_letter(second, b"refused"),
        dead_letter(third, b"away"),
        Acked(last),
    ]
    unsettled = await on.source.settle(settlements)
    assert [on.acknowledged(one) for one in on.deliveries] == [True, False, False, True]
    assert [(one.settlement, one.error) for one in unsettled] == [
        (settlements[1], ANSWERS[b"refused"]),
        (settlements[2], ANSWERS[b"away"]),
    ]


@STAGES
async def test_while_no_record_can_be_stored_no_original_is_acknowledged(stage: Callable[[Any], Stage]) -> None:
    publisher = Publisher()
    publisher.away = True
    on = stage(publisher)
    with pytest.raises(DriverUnavailable):
        await on.source.settle([retry(on.deliveries[0], b"good"), dead_letter(on.deliveries[1], b"good")])
    assert not any(map(on.acknowledged, on.deliveries))


@STAGES
async def test_settling_that_is_cancelled_while_records_are_stored_acknowledges_none_of_their_originals(
    stage: Callable[[Any], Stage],
) -> None:
    publisher = Publisher()
    publisher.answers = anyio.Event()
    on = stage(publisher)
    settlements: list[Settlement] = [retry(on.deliveries[0], b"good"), Acked(on.deliveries[1])]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(on.source.settle, settlements)
            await publisher.asked.wait()
            tasks.cancel_scope.cancel()
    assert not on.acknowledged(on.deliveries[0])


@STAGES
async def test_without_records_nobody_publishes(stage: Callable[[Any], Stage]) -> None:
    publisher = Publisher()
    on = stage(publisher)
    assert not await on.source.settle([Acked(one) for one in on.deliveries])
    assert all(map(on.acknowledged, on.deliveries))
    assert not publisher.asked.is_set()


async def test_answers_that_are_too_few_settle_nothing() -> None:
    async def publish(_settlements: Sequence[WithRecord]) -> Sequence[str | DriverError]:
        return ["stored"]

    delivery = Delivery(channel="in", payload=b"x", source="in", offset=0)
    with pytest.raises(ValueError, match="shorter"):
        await store_records([retry(delivery, b"good"), dead_letter(delivery, b"good")], publish)
