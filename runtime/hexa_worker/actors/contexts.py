"""Context variables of one delivery end with it: what a handler sets, the next one does not see.

A lane is one task for thousands of deliveries, so their context is not a task's. It goes on in a new copy after
each delivery that changed its context: comparing contexts costs next to nothing as long as nobody set a variable.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from types import coroutine
from typing import Any

from anyio import get_current_task

from hexa_worker.core.lineage import lineage_of
from hexa_worker.core.message import Delivery
from hexa_worker.telemetry.log import IN_HAND, coordinates

_RENEW = object()


@coroutine
def in_copies(work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Await `work` in a copy of the present context, and in a new copy after each `renew` in it."""
    base = copy_context()
    run = base.copy().run
    step: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            asked = run(step, value)
        except StopIteration:
            return
        step, value = work.send, None
        if asked is _RENEW:
            value = base.copy()
            run = value.run
            continue
        try:
            value = yield asked
        except BaseException as error:  # noqa: BLE001 - cancellations too: they are the work's
            step, value = work.throw, error


@coroutine
def renew() -> Generator[Any, Any, Context]:
    """Go on in a new copy of the context that `in_copies` was begun in, which is returned. Never suspends."""
    here: Context = yield _RENEW
    return here


def name_hand(action: str, hand: Callable[[], Sequence[Delivery]], *, threads: bool) -> None:
    """Let log lines of any library tell the delivery that they are about: those of this task, a lane's.

    Costs nothing per delivery. So do lines of tasks in a task group of anyio or trio that the handler has opened: they
    end before it. Any other task that a handler began may outlive the delivery, so its lines tell none.

    Args:
        action: the subscription's name.
        hand: what the lane has in hand now.
        threads: its handler runs in threads, each of which has ended when the lane goes on.
    """
    lane = get_current_task().id
    last: tuple[Delivery | None, Mapping[str, object]] = None, {}

    def told() -> Mapping[str, object]:
        nonlocal last
        deliveries = hand()
        if not deliveries or not _is_here(lane, threads=threads):
            return {}
        if len(deliveries) > 1:
            return {"action": action, "in_hand": len(deliveries)}
        if last[0] is not deliveries[0]:  # a handler may write many lines
            last = deliveries[0], coordinates(action, deliveries[0], lineage_of(deliveries[0]))
        return last[1]

    IN_HAND.set(told)


def _is_here(lane: int, *, threads: bool) -> bool:
    with suppress(RuntimeError):  # on asyncio the quick answer, which most lines need
        if id(asyncio.current_task()) == lane:
            return True
    try:
        task = get_current_task()
    except RuntimeError:  # a thread, with no event loop
        return threads
    return lane in (task.id, task.parent_id)
