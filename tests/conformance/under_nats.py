"""The nats driver against a real server, as the conformance suite sees it."""

from typing import cast

from hexa_worker.clock import Clock
from hexa_worker.config.nats import Nats
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.nats import NatsDriver, capabilities
from hexa_worker.testing import DriverUnderTest
from tests.conformance.proxied import Proxied


def options(address: str) -> Nats:
    """Short times, so that claims about take-overs do not take minutes; claims publish before they subscribe."""
    return Nats(
        servers=(address,),
        ack_wait_s=3.0,
        timeout_s=1.0,
        create_emitted_channels=True,
        max_emitted_channels=100_000,
    )


class NatsBroker(Proxied):
    """See `Proxied`."""

    def driver(self, clock: Clock | None = None) -> NatsDriver:
        """A driver that stands for one more process."""
        return NatsDriver(options(self.here.proxied_address), clock)


async def _kill(_broker: NatsBroker, driver: Driver) -> None:
    await cast("NatsDriver", driver).crash()


async def _stall(_broker: NatsBroker, driver: Driver) -> None:
    await cast("NatsDriver", driver).stall()


NATS = DriverUnderTest[NatsBroker](
    name="nats",
    capabilities=capabilities(options("localhost:4222")),
    broker=NatsBroker.opened,
    driver=NatsBroker.driver,
    kill=_kill,
    stall=_stall,
    away=NatsBroker.away,
    back=NatsBroker.back,
    clocked=NatsBroker.driver,
    quiet_s=0.15,
    delay_s=0.3,
    deadline_s=25.0,
)
