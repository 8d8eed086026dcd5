"""What the tests of the embedded driver share."""

from collections.abc import Sequence

from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.source import EmbeddedSource

PLENTY = 1 << 30


def spec(group: str = "do", *, order_by: OrderBy = OrderBy.NONE, start: str = "earliest") -> SubscriptionSpec:
    """A subscription to the channel ``work``."""
    return SubscriptionSpec(
        action=group, group=group, channels=("work",), retry_base=group, retry_count=2, order_by=order_by, start=start
    )


async def publish(driver: EmbeddedDriver, count: int, *, keys: int = 0) -> None:
    """Publish `count` numbered messages to ``work``."""
    await driver.publish(
        [
            Message(channel="work", payload=b"%d" % number, key=b"k%d" % (number % keys) if keys else None)
            for number in range(count)
        ]
    )


async def take(source: EmbeddedSource, count: int) -> list[Delivery]:
    """Receive until `count` deliveries came."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += await source.receive(count - len(taken), PLENTY)
    return taken


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers that `publish` wrote."""
    return [int(one.payload) for one in deliveries]
