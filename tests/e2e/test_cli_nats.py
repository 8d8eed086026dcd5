"""The command line on NATS JetStream."""

from collections.abc import Callable

import pytest

from tests.e2e.on_brokers import *  # noqa: F403 - the claims
from tests.e2e.on_brokers import Place, free_port
from tests.lab.base import Broker

pytestmark = pytest.mark.nats


@pytest.fixture
def place(nats: Broker, unique_name: Callable[..., str]) -> Place:
    broker = 'driver = "nats"\ncreate_channels = true\nservers = ["{}"]'
    away = broker.format(f"nats://127.0.0.1:{free_port()}")
    return Place(broker.format(nats.address), away, unique_name("e"), "durable")
