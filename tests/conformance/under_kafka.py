"""The kafka driver against a real node, as the conformance suite sees it."""

from typing import cast

import anyio

from hexa_worker.clock import Clock
from hexa_worker.config.kafka import Kafka
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.kafka import KafkaDriver, capabilities
from hexa_worker.testing import DriverUnderTest
from tests.conformance.proxied import Proxied

SESSION_S = 5.0
COMMIT_S = 0.05


def options(address: str) -> Kafka:
    """Short times, so that claims about take-overs do not take minutes."""
    return Kafka(
        servers=(address,),
        create_channels=True,
        partitions=4,
        timeout_s=3.0,
        session_timeout_s=SESSION_S,
        heartbeat_s=0.3,
        rebalance_timeout_s=3.0,
        commit_interval_s=COMMIT_S,
        metadata_max_age_s=1.0,
    )


class KafkaBroker(Proxied):
    """See `Proxied`."""

    def driver(self, clock: Clock | None = None) -> KafkaDriver:
        """A driver that stands for one more process."""
        return KafkaDriver(options(self.here.proxied_address), clock)


async def _kill(_broker: KafkaBroker, driver: Driver) -> None:
    # What was acknowledged is kept by the next commit, which comes every so often.
    await anyio.sleep(4 * COMMIT_S)
    await cast("KafkaDriver", driver).crash()


async def _stall(_broker: KafkaBroker, driver: Driver) -> None:
    await cast("KafkaDriver", driver).stall(SESSION_S * 1.5)


KAFKA = DriverUnderTest[KafkaBroker](
    name="kafka",
    capabilities=capabilities(options("localhost:9092")),
    broker=KafkaBroker.opened,
    driver=KafkaBroker.driver,
    kill=_kill,
    stall=_stall,
    away=KafkaBroker.away,
    back=KafkaBroker.back,
    clocked=KafkaBroker.driver,
    quiet_s=0.3,
    delay_s=0.5,
    deadline_s=30.0,
    wake_s=2.0,
    slack_s=3.0,
)
