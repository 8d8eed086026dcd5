"""Where events for later wait in NATS; see `hexa_worker.drivers.kit.later`. The server tells which are due."""

from collections.abc import Awaitable, Callable, Collection, Sequence

from hexa_worker.core.channels import LATER, parse
from hexa_worker.core.message import Message
from hexa_worker.drivers.base import Backlog, Revoked, Source, SubscriptionSpec
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.publisher import NatsPublisher
from hexa_worker.drivers.nats.streams import Streams, streams_of
from hexa_worker.errors import DriverError


class NatsLadders:
    """See `hexa_worker.drivers.kit.mover.MovingDriver`.

    Args:
        connection: asks.
        streams: finds and makes streams.
        publisher: stores.
        declare: makes what a subscription needs.
        subscribe: reads a subscription.
        backlog: looks at one from outside.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        connection: NatsConnection,
        streams: Streams,
        publisher: NatsPublisher,
        declare: Callable[[Sequence[SubscriptionSpec]], Awaitable[None]],
        subscribe: Callable[[SubscriptionSpec, Revoked], Awaitable[Source]],
        backlog: Callable[[SubscriptionSpec], Awaitable[Backlog]],
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._publisher = publisher
        self._declare = declare
        self.read_ladder = subscribe
        self.ladder_backlog = backlog

    async def store(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """Publish records as they are."""
        return await self._publisher.publish(messages)

    async def require_channel(self, channel: str) -> None:
        """Make sure that a channel can be published to."""
        await self._streams.channel(channel, emitted=True)

    async def make_ladder(self, spec: SubscriptionSpec) -> None:
        """Make the stream in which events for later wait."""
        await self._declare([spec])

    async def with_ladder(self, specs: Sequence[SubscriptionSpec]) -> Collection[str]:
        """Those channels of subscriptions that have a ladder."""
        found: set[str] = set()
        async for one in streams_of(self._connection, subject=f"{LATER}>"):
            for subject in one["config"].get("subjects") or ():
                rung = parse(subject.removesuffix(">") + "1")  # of all its retry channels, the first
                if rung is not None and rung.base.startswith(LATER):
                    found.add(rung.base.removeprefix(LATER))
        return [channel for channel in found if any(spec.reads(channel) for spec in specs)]
