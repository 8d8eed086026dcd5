"""The deadline sweeper: one task looks at all lanes of a worker now and then, instead of a timer per message."""

import math
from collections.abc import Callable, Sequence

import anyio

from hexa_worker.actors.lane import Lane
from hexa_worker.core.message import Delivery

SHORTEST_S = 0.005
LONGEST_S = 1.0


def interval_s(timeout_s: float | None) -> float:
    """Seconds between two looks: a twentieth of the timeout, within reason."""
    return min(max((timeout_s or math.inf) / 20, SHORTEST_S), LONGEST_S)


async def sweep(
    lanes: Sequence[Lane],
    *,
    monotonic: Callable[[], float],
    timeout_s: float | None,
    stuck_after_s: float,
    stuck: Callable[[Delivery, float], None],
) -> None:
    """Cancel late handlers, and report those that do not end even so. Runs until cancelled.

    Args:
        lanes: the worker's lanes.
        monotonic: the clock of the lanes' deadlines.
        timeout_s: the subscription's timeout; a handler may have extended its own.
        stuck_after_s: a handler that runs this long after its cancellation is stuck.
        stuck: told of its delivery.
    """
    pause = interval_s(timeout_s)
    while True:
        await anyio.sleep(pause)
        now = monotonic()
        for lane in lanes:
            if not lane.current or lane.waiting or now < lane.deadline:
                continue
            if not lane.late:
                lane.cancel_late()
            elif now > lane.deadline + stuck_after_s:
                stuck(lane.current[0], now - lane.deadline)
