"""The command line on Kafka."""

from collections.abc import Callable

import pytest

from tests.e2e.on_brokers import *  # noqa: F403 - the claims
from tests.e2e.on_brokers import Place, free_port
from tests.lab.base import Broker

pytestmark = pytest.mark.kafka


@pytest.fixture
def place(kafka: Broker, unique_name: Callable[..., str]) -> Place:
    broker = 'driver = "kafka"\ncreate_channels = true\nservers = ["{}"]'
    return Place(broker.format(kafka.address), broker.format(f"127.0.0.1:{free_port()}"), unique_name("e"), "group")
