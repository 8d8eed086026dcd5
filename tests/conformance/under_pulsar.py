"""The pulsar driver against a real broker, as the conformance suite sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import anyio

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.pulsar import PulsarDriver, capabilities
from hexa_worker.testing import DriverUnderTest
from tests.brokers.base import Broker
from tests.brokers.proxy import Proxy

ACKS_SENT_S = 0.3


def options(address: str, admin_address: str = "http://127.0.0.1:1") -> Pulsar:
    """Short times, so that claims about outages do not take minutes."""
    return Pulsar(url=address, admin_url=admin_address, listener_name="proxied", timeout_s=2.0, delay_tick_s=0.1)


class PulsarBroker:
    """The broker of this test run, behind a proxy of this claim's own."""

    node: Broker | None = None

    def __init__(self, proxy: Proxy, options: Pulsar) -> None:
        self.proxy = proxy
        self._options = options

    def driver(self) -> PulsarDriver:
        """A driver that stands for one more process."""
        return PulsarDriver(self._options)


@asynccontextmanager
async def pulsar_broker() -> AsyncIterator[PulsarBroker]:
    """See `PulsarBroker`."""
    node = PulsarBroker.node
    assert node is not None
    with node.open_proxy() as proxy:
        yield PulsarBroker(proxy, options(node.proxied_address, node.admin_address))


async def _kill(_broker: PulsarBroker, driver: Driver) -> None:
    # What was acknowledged is on its way within a tenth of a second; the rest of the time is the test machine's.
    await anyio.sleep(ACKS_SENT_S)
    await cast("PulsarDriver", driver).crash()


async def _away(broker: PulsarBroker) -> None:
    broker.proxy.refuse()


async def _back(broker: PulsarBroker) -> None:
    broker.proxy.heal()


PULSAR = DriverUnderTest[PulsarBroker](
    name="pulsar",
    capabilities=capabilities(options("pulsar://127.0.0.1:1")),
    broker=pulsar_broker,
    driver=PulsarBroker.driver,
    kill=_kill,
    away=_away,
    back=_back,
    quiet_s=0.3,
    delay_s=0.5,
    deadline_s=30.0,
    wake_s=2.0,
    slack_s=3.0,
)
