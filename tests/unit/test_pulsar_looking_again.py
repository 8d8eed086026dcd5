"""Seeing to the topics that are published to, while publishing goes on."""

import threading
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from pulsar import MessageId, Result

from hexa_worker.clock import SystemClock
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.message import Message
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.drivers.pulsar import publisher as publishing
from hexa_worker.drivers.pulsar.names import TopicNames, place
from hexa_worker.drivers.pulsar.publisher import PulsarPublisher
from hexa_worker.errors import DriverUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

MESSAGE = Message(channel="orders", payload=b"x")


class Line:
    """A producer that confirms everything at once."""

    def send_async(self, message: Any, confirmed: Any) -> None:
        """Say that it is stored."""
        del message
        confirmed(Result.Ok, MessageId(-1, 1, 1, -1))

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to end."""


class Broker:
    """A connection to a broker that works."""

    generation = 0
    topics = TopicNames("persistent://public/default/{}")

    def __init__(self) -> None:
        self.client: Any = SimpleNamespace(create_producer=self._producer)
        self.producers = 0

    def _producer(self, _topic: str, **_options: Any) -> Any:
        self.producers += 1
        return SimpleNamespace(_producer=Line())

    def require(self) -> None:
        """It is there."""

    def heard(self) -> None:
        """It has answered."""


class Admin:
    """An admin API that answers the first question, and lets the others wait."""

    def __init__(self) -> None:
        self.asked_again = threading.Event()
        self.answers = threading.Event()
        self._asked = 0

    def see_to(self, topic: str) -> None:
        """As `Unread.see_to`."""
        del topic
        self._asked += 1
        if self._asked == 2:
            self.asked_again.set()
            self.answers.wait(10)
            raise DriverUnavailable("away")


async def test_an_admin_api_that_lets_everybody_wait_holds_up_nothing_that_is_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "LOOK_S", 0.01)
    broker: Any = Broker()
    admin: Any = Admin()
    publisher = PulsarPublisher(broker, Pulsar(url="pulsar://localhost:6650"), SystemClock(), admin)
    publisher.open(LoopHandle())
    try:
        await publisher.publish([MESSAGE])
        assert await anyio.to_thread.run_sync(admin.asked_again.wait, 5)
        with anyio.fail_after(5):
            assert await publisher.publish([MESSAGE]) == [f"orders-{place(1, 1, -1)[1]}"]
        admin.answers.set()
        with anyio.fail_after(5):
            while broker.producers < 2:  # what it answers at last counts: the next message begins anew
                await publisher.publish([MESSAGE])
    finally:
        admin.answers.set()
        publisher.close()
