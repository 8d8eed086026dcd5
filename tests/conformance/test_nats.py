"""The public conformance suite against the nats driver: the newest server on every event loop, the oldest on one."""

from collections.abc import Callable, Iterator

import pytest

from hexa_worker.testing import ConformanceCheck, claims
from tests.conformance.test_drivers import BACKENDS, keep
from tests.conformance.under_nats import NATS, NatsBroker
from tests.lab.base import Broker

pytestmark = pytest.mark.nats


@pytest.fixture
def server(request: pytest.FixtureRequest, get_broker: Callable[[str], Broker]) -> Iterator[None]:
    NatsBroker.node = get_broker(request.param)
    yield
    NatsBroker.node = None


@pytest.mark.parametrize(
    ("server", "backend"),
    [*[("nats", backend) for backend in BACKENDS], ("nats29", "uvloop")],
    indirect=["server"],
)
@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in claims(NATS)])
def test_the_driver_keeps_its_promise(one: ConformanceCheck, server: None, backend: str) -> None:
    keep(one, backend)
