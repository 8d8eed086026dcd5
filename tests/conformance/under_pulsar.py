"""The pulsar driver against a real broker, as the conformance suite sees it."""

from typing import cast

import anyio

from hexa_worker.clock import Clock
from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.pulsar import PulsarDriver, capabilities
from hexa_worker.testing import DriverUnderTest
from tests.conformance.proxied import Proxied

ACKS_SENT_S = 0.3


def options(address: str, admin_address: str = "http://127.0.0.1:1") -> Pulsar:
    """Short times, so that claims about outages do not take minutes."""
    return Pulsar(url=address, admin_url=admin_address, listener_name="proxied", timeout_s=2.0, delay_tick_s=0.1)


class PulsarBroker(Proxied):
    """See `Proxied`."""

    def driver(self, clock: Clock | None = None) -> PulsarDriver:
        """A driver that stands for one more process."""
        return PulsarDriver(options(self.here.proxied_address, self.here.admin_address), clock)


async def _kill(_broker: PulsarBroker, driver: Driver) -> None:
    # What was acknowledged is on its way within a tenth of a second; the rest of the time is the test machine's.
    await anyio.sleep(ACKS_SENT_S)
    await cast("PulsarDriver", driver).crash()


PULSAR = DriverUnderTest[PulsarBroker](
    name="pulsar",
    capabilities=capabilities(options("pulsar://127.0.0.1:1")),
    broker=PulsarBroker.opened,
    driver=PulsarBroker.driver,
    kill=_kill,
    away=PulsarBroker.away,
    back=PulsarBroker.back,
    clocked=PulsarBroker.driver,
    quiet_s=0.3,
    delay_s=0.5,
    deadline_s=30.0,
    wake_s=2.0,
    slack_s=3.0,
)
