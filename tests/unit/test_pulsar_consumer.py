"""The thread that reads a Pulsar consumer, without a broker: how it ends."""

import threading
from typing import Any, cast

import pulsar

from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.consumer import ConsumerThread
from hexa_worker.drivers.pulsar.flow import Flow
from hexa_worker.drivers.pulsar.positions import Positions
from hexa_worker.drivers.pulsar.wire import PulsarOrigin


class _Consumer:
    """Bears no second `close`, as the client library's does not."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.again = False

    def is_connected(self) -> bool:
        return True

    def close(self) -> None:
        self.again = self.again or self.closed.is_set()
        self.closed.set()


class _Connection:
    """Is there."""

    client = None
    trouble = None
    generation = 0

    def require(self) -> None:
        return


class _Positions:
    """Nothing is known."""

    floors: dict[str, int] = {}  # noqa: RUF012 - nobody writes it


def test_a_consumer_that_is_made_while_its_reading_ends_is_closed_once() -> None:
    made, busy = _Consumer(), [pulsar.ConsumerBusy("another process has it")]

    def subscribe(_client: Any, _queue: int) -> _Consumer:
        if busy:
            raise busy.pop()
        closing = threading.Thread(target=reading.close)
        closing.start()
        assert reading.room.wait(10)  # the end has begun
        return made

    reading = ConsumerThread(
        cast("PulsarConnection", _Connection()),
        subscribe,
        "orders",
        origin_of=lambda topic: PulsarOrigin(topic, topic, 0),
        known={},
        flow=Flow(10, 1_000),
        positions=cast("Positions", _Positions()),
        arrived=lambda _deliveries, _size: None,
        full=lambda: False,
        changed=lambda: None,
        standby=True,
    )
    reading.begin()
    assert made.closed.wait(10)
    reading.close()
    assert not made.again
