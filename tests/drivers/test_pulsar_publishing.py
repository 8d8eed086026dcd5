"""Publishing on Pulsar where one topic cannot be written to: the others' messages are confirmed."""

from collections.abc import Callable
from typing import Any

import anyio
import pulsar
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Message
from hexa_worker.drivers.pulsar.home import Home
from hexa_worker.drivers.pulsar.publisher import Publisher
from hexa_worker.drivers.pulsar.unread import Unread
from hexa_worker.errors import DriverUnavailable

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

    def topic(self, channel: str) -> str:
        if channel == "away":
            raise DriverUnavailable("pulsar: away: nobody serves it")
        return channel

    source = channel = topic

    def create_producer(self, _topic: str, **_options: object) -> _Producer:
        return _Producer()


async def test_a_topic_that_nobody_serves_fails_alone() -> None:
    connection: Any = _Connection()
    publisher = Publisher(connection, Pulsar(), SystemClock(), Unread(connection, connection, "drop"))
    publisher.open(Home())
    try:
        names = ("one", "away", "two")
        answers = await publisher.publish([Message(channel=name, payload=b"x") for name in names])
        assert [type(answer) for answer in answers] == [str, DriverUnavailable, str]
        with pytest.raises(DriverUnavailable, match="nobody serves it"):
            await publisher.publish([Message(channel="away", payload=b"x")])
    finally:
        await anyio.to_thread.run_sync(publisher.close)
