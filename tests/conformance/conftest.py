"""The drivers that whole workers are tried on, each with its broker."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hexa_worker.testing import DriverUnderTest
from tests.conformance.proxied import Proxied
from tests.conformance.under_kafka import KAFKA, KafkaBroker
from tests.conformance.under_nats import NATS, NatsBroker
from tests.conformance.under_pulsar import PULSAR, PulsarBroker
from tests.conformance.under_test import EMBEDDED, MEMORY
from tests.lab.base import Broker

NODES: dict[str, type[Proxied]] = {
    "kafka": KafkaBroker,
    "nats": NatsBroker,
    "pulsar": PulsarBroker,
}
REAL = (KAFKA, NATS, PULSAR)
DRIVERS = [
    *[pytest.param(one, id=one.name) for one in (MEMORY, EMBEDDED)],
    *[pytest.param(one, id=one.name, marks=getattr(pytest.mark, one.name)) for one in REAL],
]


@pytest.fixture(params=DRIVERS)
def under_test(request: pytest.FixtureRequest, get_broker: Callable[[str], Broker]) -> Iterator[DriverUnderTest[Any]]:
    node = NODES.get(request.param.name)
    if node is not None:
        node.node = get_broker(request.param.name)
    yield request.param
    if node is not None:
        node.node = None
