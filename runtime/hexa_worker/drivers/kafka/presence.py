"""Whether the topics that a source reads are still there. One that is gone is made again, where that is allowed."""

import asyncio
import logging
from collections.abc import MutableMapping

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient

from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.errors import DriverRejected, DriverUnavailable

log = logging.getLogger("hexa_worker.kafka")
LOOK_S = 0.5


class Presence:
    """Looks after one source's topics.

    Args:
        registry: which topics there are.
        spec: the subscription.
        origins: where partitions without progress begin; forgotten for a topic that is made again.
    """

    def __init__(
        self, registry: Registry, spec: SubscriptionSpec, origins: MutableMapping[TopicPartition, int]
    ) -> None:
        self._registry = registry
        self._spec = spec
        self._origins = origins
        self._names = (*spec.channels, *spec.retry_channels)
        self._next_at = float("-inf")
        self._missed: DriverUnavailable | None = None
        self._said = ""

    async def look(self, client: AIOKafkaClient) -> None:
        """Look, if the last look was a while ago: what the source's client knows costs nothing.

        Raises:
            DriverUnavailable: there is nothing to read from; a later look may find it.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._next_at:
            self._next_at = now + LOOK_S
            await self._look(client)
        if self._missed is not None:
            raise self._missed

    async def _look(self, client: AIOKafkaClient) -> None:
        known = client.cluster.topics(exclude_internal_topics=False)
        if known.issuperset(self._names):
            self._missed, self._said = None, ""
            return
        try:
            made = await self._registry.ensure([self._spec])
        except DriverRejected as error:
            self._miss(error, alone=not known.intersection(self._spec.channels) and self._spec.pattern is None)
            return
        self._missed = None
        # A client also misses a topic whose leader is unavailable for a moment: only one that was made is another one.
        for place in [place for place in self._origins if place.topic in made]:
            del self._origins[place]
        client.force_metadata_update()

    def _miss(self, error: DriverRejected, *, alone: bool) -> None:
        self._missed = DriverUnavailable(str(error)) if alone else None
        if not alone and str(error) != self._said:
            self._said = str(error)
            log.warning("%s: goes on without it: %s", self._spec.action, error)
