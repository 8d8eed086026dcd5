"""Where events for later wait in Kafka; see `hexa_worker.drivers.kit.later`."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Backlog, Revoked, Source, SubscriptionSpec
from hexa_worker.drivers.kafka.publisher import KafkaPublisher
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.drivers.kit.later import LEVELS_MS, ladder_of
from hexa_worker.errors import DriverError


class Parts(Protocol):
    """What is needed of an open driver."""

    publisher: KafkaPublisher
    registry: Registry
    topics: TopicAdmin


class KafkaLadders:
    """See `hexa_worker.drivers.kit.mover.MovingDriver`.

    Args:
        parts: of the driver; raises DriverUnavailable while it is not open.
        subscribe: reads a subscription.
        backlog: looks at one from outside.
    """

    def __init__(
        self,
        parts: Callable[[], Parts],
        subscribe: Callable[[SubscriptionSpec, Revoked], Awaitable[Source]],
        backlog: Callable[[SubscriptionSpec], Awaitable[Backlog]],
    ) -> None:
        self._parts = parts
        self.read_ladder = subscribe
        self.ladder_backlog = backlog

    async def store(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        return await self._parts().publisher.publish(messages)

    async def require_channel(self, channel: str) -> None:
        """Make sure that a channel can be published to."""
        await self._parts().registry.partitions_of(channel)

    async def make_ladder(self, spec: SubscriptionSpec) -> None:
        """Make the topics in which events for later wait."""
        await self._parts().registry.ensure([spec])

    async def with_ladder(self, specs: Sequence[SubscriptionSpec]) -> Collection[str]:
        """Those channels of subscriptions that have a ladder."""
        parts = self._parts()
        patterns = [spec for spec in specs if spec.pattern is not None]
        known = await parts.registry.recent() if patterns else {}
        firsts = {_first(name): name for spec in specs if spec.pattern is None for name in spec.channels}
        firsts.update({_first(name): name for spec in patterns for name in spec.channels_among(known)})
        found, _ = await parts.topics.look(list(firsts))
        return {firsts[name] for name, one in found.items() if not one["error_code"]}


def _first(channel: str) -> str:
    return ladder_of(channel, LEVELS_MS).retry_channels[0]
