"""Browsing on pulsar, without a broker: a refusal that passes fails nothing."""

from typing import Any, cast

import pulsar
import pytest

from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.browsing import PulsarBrowser
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.names import TopicNames
from hexa_worker.errors import DriverRejected


class _Reader:
    """Of an empty topic."""

    def has_message_available(self) -> bool:
        return False

    def close(self) -> None:
        return


class _Connection:
    """A client whose brokers answer with `refusals` before they give a reader."""

    def __init__(self, *refusals: Exception) -> None:
        self.topics = TopicNames("persistent://public/default/{}")
        self.client = self
        self.tries = 0
        self._refusals = list(refusals)

    def get_topic_partitions(self, topic: str) -> list[str]:
        return [topic]

    def create_reader(self, *_arguments: Any, **_options: Any) -> _Reader:
        self.tries += 1
        if self._refusals:
            raise self._refusals.pop(0)
        return _Reader()


class _Admin:
    def topic_stats(self, topic: str) -> dict[str, Any]:
        return {"topic": topic}


def browse(connection: _Connection) -> list[Any]:
    browser = PulsarBrowser(cast("PulsarConnection", connection), cast("Admin", _Admin()), 5.0)
    return browser.browse("orders", -1, 10, 0)


def test_a_topic_that_a_broker_refuses_for_a_moment_is_read_all_the_same() -> None:
    connection = _Connection(pulsar.BrokerMetadataError(), pulsar.ServiceUnitNotReady())
    assert browse(connection) == []
    assert connection.tries == 3


def test_a_topic_that_may_not_be_read_is_asked_for_once() -> None:
    connection = _Connection(pulsar.AuthorizationError())
    with pytest.raises(DriverRejected):
        browse(connection)
    assert connection.tries == 1
