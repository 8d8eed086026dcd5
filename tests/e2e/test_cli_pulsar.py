"""The command line on Pulsar."""

from collections.abc import Callable

import pytest

from tests.brokers.base import Broker
from tests.e2e.on_brokers import *  # noqa: F403 - the claims
from tests.e2e.on_brokers import Place, free_port

pytestmark = pytest.mark.pulsar


@pytest.fixture
def place(pulsar: Broker, unique_name: Callable[..., str]) -> Place:
    broker = 'driver = "pulsar"\nadmin_url = "{}"\nurl = "{}"'
    away = broker.format(pulsar.admin_address, f"pulsar://127.0.0.1:{free_port()}")
    return Place(broker.format(pulsar.admin_address, pulsar.address), away, unique_name("e"), "subscription", 4_500_000)
