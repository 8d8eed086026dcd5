"""The public conformance suite against the kafka driver on a real node, on every event loop."""

from collections.abc import Iterator
from typing import Any

import pytest

from hexa_worker.testing import ConformanceCheck, claims
from tests.conformance.test_drivers import BACKENDS, keep
from tests.conformance.under_kafka import KAFKA, KafkaBroker
from tests.lab.base import Broker

pytestmark = pytest.mark.kafka


@pytest.fixture
def node(kafka: Broker) -> Iterator[Any]:
    KafkaBroker.node = kafka
    yield
    KafkaBroker.node = None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in claims(KAFKA)])
def test_the_driver_keeps_its_promise(one: ConformanceCheck, backend: str, node: None) -> None:
    keep(one, backend)
