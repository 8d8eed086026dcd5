"""What a handler's context asks of the worker that runs it (`hexa_worker.subscriptions.context.Runtime`)."""

import math
from collections.abc import Sequence

from hexa_worker.actors.dedup_stage import Deduplicator
from hexa_worker.actors.lane import Lane
from hexa_worker.actors.services import WorkerServices
from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Delivery
from hexa_worker.errors import ConfigError, DriverError
from hexa_worker.subscriptions.api import Event
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.subscriptions.transactions import Transactions
from hexa_worker.telemetry.log import DeliveryLogger, SubscriptionLog


class HandlerRuntime:
    """One worker's.

    Args:
        plan: the subscription.
        env: what all workers of the process share.
        lanes: those of the worker; they may come later.
        deduplicator: None without deduplication.
        log: the subscription's log.
    """

    def __init__(
        self,
        plan: Plan,
        env: WorkerServices,
        lanes: Sequence[Lane],
        deduplicator: Deduplicator | None,
        log: SubscriptionLog,
    ) -> None:
        self.action = plan.action
        self.maximum_retries = plan.retry.maximum_retries
        self.state = env.state
        self._env = env
        self._lanes = lanes
        self._deduplicator = deduplicator
        self._log = log

    async def emit(self, event: Event, parent: Lineage) -> str:
        """Publish and return the event id once the broker has confirmed."""
        return await self._env.encoder.emit(event, parent)

    async def emit_many(self, events: Sequence[Event], parent: Lineage) -> Sequence[str | DriverError]:
        """Publish in one go: for each its event id, or why it is not confirmed."""
        return await self._env.encoder.emit_many(events, parent)

    def now_ms(self) -> int:
        """The wall clock, milliseconds since the epoch."""
        return self._env.clock.now_ms()

    def handled_s(self, delivery: Delivery) -> float:
        """How long the handler has had a delivery; 0 when it has it no longer."""
        lane = self._lane_of(delivery)
        return 0.0 if lane is None else self._env.clock.monotonic() - lane.started

    def remaining_s(self, delivery: Delivery) -> float | None:
        """How long the handler may still take, 0 when its time is over; None: there is no limit."""
        lane = self._lane_of(delivery)
        if lane is None:
            return 0.0
        return None if lane.deadline == math.inf else max(lane.deadline - self._env.clock.monotonic(), 0.0)

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Move the deadline of a running delivery to `seconds` from now."""
        if math.isnan(seconds):
            raise ValueError("seconds must be a number, not NaN")
        lane = self._lane_of(delivery)
        if lane is not None:
            lane.deadline = self._env.clock.monotonic() + seconds

    def _lane_of(self, delivery: Delivery) -> Lane | None:
        return next((lane for lane in self._lanes if any(one is delivery for one in lane.current)), None)

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
