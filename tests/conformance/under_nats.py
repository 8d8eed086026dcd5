"""The nats driver against a real server, as the conformance suite sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from hexa_worker.config.nats import Nats
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.nats import NatsDriver, capabilities
from hexa_worker.testing import DriverUnderTest
from tests.brokers.base import Broker
from tests.brokers.proxy import Proxy


def options(address: str) -> Nats:
    """Short times, so that claims about take-overs do not take minutes."""
    return Nats(servers=(address,), ack_wait_s=3.0, timeout_s=1.0)


class NatsBroker:
    """The server of this test run, behind a proxy of this claim's own."""

    node: Broker | None = None

    def __init__(self, proxy: Proxy, address: str) -> None:
        self.proxy = proxy
        self._address = address

    def driver(self) -> NatsDriver:
        """A driver that stands for one more process."""
        return NatsDriver(options(self._address))


@asynccontextmanager
async def nats_broker() -> AsyncIterator[NatsBroker]:
    """See `NatsBroker`."""
    node = NatsBroker.node
    assert node is not None
    with node.open_proxy() as proxy:
        yield NatsBroker(proxy, node.proxied_address)


async def _kill(_broker: NatsBroker, driver: Driver) -> None:
    await cast("NatsDriver", driver).crash()


async def _stall(_broker: NatsBroker, driver: Driver) -> None:
    await cast("NatsDriver", driver).stall()


async def _away(broker: NatsBroker) -> None:
    broker.proxy.refuse()
    broker.proxy.cut()


async def _back(broker: NatsBroker) -> None:
    broker.proxy.heal()


NATS = DriverUnderTest[NatsBroker](
    name="nats",
    capabilities=capabilities(options("")),
    broker=nats_broker,
    driver=NatsBroker.driver,
    kill=_kill,
    stall=_stall,
    away=_away,
    back=_back,
    quiet_s=0.15,
    delay_s=0.3,
    deadline_s=25.0,
)
