"""Retries in their place: the one task that lets them go on in time.

No lane is occupied by waiting, and no timer is set per delivery: `run` sleeps until the next one is due.
"""

from math import inf

import anyio

from hexa_worker.actors.lane_queues import KeyedLaneQueues
from hexa_worker.actors.mailbox import Mailbox
from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery


class RetryTimer:
    """One worker's; `queues` keep what waits, and are those of its `mailbox`."""

    def __init__(self, queues: KeyedLaneQueues, mailbox: Mailbox, clock: Clock) -> None:
        self._queues = queues
        self._mailbox = mailbox
        self._clock = clock

    def postpone(self, again: Delivery) -> None:
        """A delivery that a lane had in flight waits, until `again` is due, to be run as that; it keeps its room."""
        self._mailbox.wake({self._queues.postpone(again)})

    def drop(self, again: Delivery) -> bool:
        """Forget what was postponed; False when it no longer waits. It keeps its room."""
        lane = self._queues.drop(again)
        if lane is not None:
            self._mailbox.wake({lane})
        return lane is not None

    async def run(self) -> None:
        """Let go on what is due, indefinitely. Cancellation: safe."""
        while True:
            due_ms = self._queues.next_due_ms()
            patience_s = inf if due_ms is None else max(due_ms / 1000 - self._clock.monotonic(), 0.001)
            with anyio.move_on_after(patience_s):
                await self._queues.sooner.wait()
            lanes = self._queues.wake_due()
            if lanes:
                self._mailbox.wake(lanes)
                self._mailbox.look_for_room()
