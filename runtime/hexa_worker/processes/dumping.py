"""What the lanes of this process do now, for an operator; taken in a thread, so it works while the loop is blocked."""

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Final

from hexa_worker.actors.lane import Lane
from hexa_worker.actors.stacks import coroutine_stack, loop_stack
from hexa_worker.actors.supervisor import Supervisor
from hexa_worker.core.lineage import lineage_of
from hexa_worker.processes.protocol import MAX_DUMPED, DumpFrame, LaneDump

LONGEST: Final = 200
"""Characters of a key that are shown."""


class Dumper:
    """Looks at the lanes of a supervisor.

    Args:
        supervisor: it; made on the loop's thread.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop_thread = threading.get_ident()

    def take(self, number: int) -> DumpFrame:
        """Look. From any thread."""
        lanes = tuple(islice(self._lanes(), MAX_DUMPED))
        return DumpFrame(number, lanes, loop_stack(self._loop_thread))

    def _lanes(self) -> Iterator[LaneDump]:
        now = self._supervisor.monotonic()
        for one in self._supervisor.subscriptions:
            worker = one.worker
            for lane in () if worker is None else worker.lanes:
                yield from _deliveries(one.plan.action, lane, now)


def _deliveries(action: str, lane: Lane, now: float) -> Iterator[LaneDump]:
    deliveries, started = lane.current, lane.started
    stack = coroutine_stack(lane.work) if deliveries and not lane.waiting else ()
    for delivery in deliveries:
        key = delivery.key
        yield LaneDump(
            action=action,
            lane=lane.number,
            event_id=lineage_of(delivery).event_id,
            message_id=delivery.message_id,
            channel=delivery.channel,
            key=None if key is None else key[:LONGEST].decode(errors="replace"),
            attempt=delivery.attempt,
            state="waiting" if lane.waiting else "running",
            seconds=0.0 if lane.waiting else round(max(now - started, 0.0), 3),
            stack=stack,
        )
