"""Publishing on Pulsar where one topic cannot be written to: the others' messages are confirmed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import pulsar
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Failure, RetryAt
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.pulsar.publisher import PulsarPublisher
from hexa_worker.drivers.pulsar.unread import Unread
from hexa_worker.errors import DriverUnavailable
from tests.drivers.consuming import patiently, publish, spec, subscribed, take
from tests.drivers.pulsar_tools import ask, opened, options
from tests.lab.base import Broker

pytestmark = pytest.mark.anyio


class _Id:
    """A message id, as the client library hands it out."""

    def ledger_id(self) -> int:
        return 1

    def entry_id(self) -> int:
        return 2

    batch_index = partition = lambda _: -1


class _Producer:
    """Confirms at once."""

    _producer: Any = property(lambda self: self)

    def send_async(self, _message: object, confirmed: Callable[[object, object], None]) -> None:
        confirmed(pulsar.Result.Ok, _Id())

    def flush(self) -> None:
        pass

    close = flush


class _Connection:
    """A broker that has one topic nobody serves."""

    generation = 0
    topics = client = property(lambda self: self)

    def require(self) -> None:
        pass

    heard = require

    def topic(self, channel: str) -> str:
        if channel == "away":
            raise DriverUnavailable("pulsar: away: nobody serves it")
        return channel

    source = channel = topic

    def create_producer(self, _topic: str, **_options: object) -> _Producer:
        return _Producer()


async def test_a_topic_that_nobody_serves_fails_alone() -> None:
    connection: Any = _Connection()
    publisher = PulsarPublisher(connection, Pulsar(), SystemClock(), Unread(connection, connection, "drop"))
    publisher.open(LoopHandle())
    try:
        names = ("one", "away", "two")
        answers = await publisher.publish([Message(channel=name, payload=b"x") for name in names])
        assert [type(answer) for answer in answers] == [str, DriverUnavailable, str]
        with pytest.raises(DriverUnavailable, match="nobody serves it"):
            await publisher.publish([Message(channel="away", payload=b"x")])
    finally:
        await anyio.to_thread.run_sync(publisher.close)


@pytest.mark.pulsar
async def test_a_retry_that_a_slow_broker_takes_its_time_for_is_stored_once(
    pulsar: Broker, unique_name: Callable[..., str]
) -> None:
    one, namespace, count = spec(unique_name()), f"public/{unique_name('slow')}", 20
    rate = b'{"publishThrottlingRateInMsg": -1, "publishThrottlingRateInByte": 20000}'
    await ask(pulsar, "PUT", f"/admin/v2/namespaces/{namespace}", b"{}")
    await ask(pulsar, "POST", f"/admin/v2/namespaces/{namespace}/publishRate", rate)
    brief = options(pulsar, topic_format=f"persistent://{namespace}/{{}}", timeout_s=1.0)
    async with opened(brief) as driver, subscribed(driver, one) as source:
        await publish(driver, one.channels[0], *[b"x"] * count)
        taken = await take(source, count)
        why = Failure(error="Oops", message="no", reason="failed")
        retry = Message(channel=one.retry_channels[0], payload=b"x" * 5_000, due_ms=1 << 42)
        left: Sequence[Any] = [RetryAt(each, retry, 60.0, why) for each in taken]
        unconfirmed = 0
        with anyio.fail_after(60):
            while left:
                left = [each.settlement for each in await patiently(partial(source.settle, left))]
                unconfirmed += bool(left)
        stored = await ask(pulsar, "GET", f"/admin/v2/persistent/{namespace}/{one.retry_channels[0]}/stats")
    assert unconfirmed, "the broker was not slow"
    assert stored["msgInCounter"] == count
