"""The public conformance suite against the pulsar driver on a real broker, on every event loop."""

from collections.abc import Iterator
from typing import Any

import pytest

from hexa_worker.testing import ConformanceCheck, claims
from tests.conformance.test_drivers import BACKENDS, keep
from tests.conformance.under_pulsar import PULSAR, PulsarBroker
from tests.lab.base import Broker

pytestmark = pytest.mark.pulsar


@pytest.fixture
def node(pulsar: Broker) -> Iterator[Any]:
    PulsarBroker.node = pulsar
    yield
    PulsarBroker.node = None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in claims(PULSAR)])
def test_the_driver_keeps_its_promise(one: ConformanceCheck, backend: str, node: None) -> None:
    keep(one, backend)
