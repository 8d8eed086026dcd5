"""What a handler's context asks of the worker that runs it (`hexa_worker.subscriptions.context.Runtime`)."""

import math
from collections.abc import Sequence

from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.lane import Lane
from hexa_worker.actors.services import WorkerServices
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Delivery
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.transactions import Transactions
from hexa_worker.telemetry.log import DeliveryLogger, SubscriptionLog


class HandlerRuntime:
    """One worker's.

    Args:
        action: the subscription's name.
        env: what all workers of the process share.
        lanes: those of the worker; they may come later.
        deduplicator: None without deduplication.
        log: the subscription's log.
    """

    def __init__(
        self,
        action: str,
        env: WorkerServices,
        lanes: Sequence[Lane],
        deduplicator: Deduplicator | None,
        log: SubscriptionLog,
    ) -> None:
        self.action = action
        self.state = env.state
        self._env = env
        self._lanes = lanes
        self._deduplicator = deduplicator
        self._log = log

    async def emit(self, event: Event, parent: Lineage | None) -> str:
        """Publish and return the event id once the broker has confirmed."""
        return await self._env.emit(event, parent)

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Move the deadline of a running delivery to `seconds` from now."""
        if math.isnan(seconds):
            raise ValueError("seconds must be a number, not NaN")
        for lane in self._lanes:
            if any(one is delivery for one in lane.current):
                lane.deadline = self._env.clock.monotonic() + seconds

    def fence(self, delivery: Delivery) -> int | None:
        """The fence of a delivery's claim; None without one."""
        return None if self._deduplicator is None else self._deduplicator.fence(delivery)

    @property
    def transactions(self) -> Transactions:
        """The outbox. Raises ConfigError when worker.toml has none."""
        if self._env.transactions is None:
            raise ConfigError("there is no outbox", where="outbox", hint="add [outbox] with a url to worker.toml")
        return self._env.transactions

    def logger(self, delivery: Delivery, lineage: Lineage, items: int = 1) -> DeliveryLogger:
        """A logger bound to a delivery, or to a batch of so many `items` by its first one."""
        return self._log.bound(delivery, lineage, items)
