"""What the loop asks of the broker thread."""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Released
from hexa_worker.drivers.embedded.leasing.leases import LogLease
from hexa_worker.drivers.embedded.leasing.settling import Settling
from hexa_worker.drivers.embedded.subscriber import Subscriber


class Command:
    """One piece of work, and the task that waits for it.

    Args:
        run: does the work; inside a write transaction if `writes`. It may be run again after a rollback.
        committed: called by the broker thread after the commit.
        attended: somebody waits for it.
        changes: whose leases it changes, reckoning from what they were when the last change was committed.
        wakes: tells after the commit whether somebody may have something to receive.

    Attributes:
        done: set on the loop when `result` or `error` is there.
        abandoned: nobody waits any more.
    """

    __slots__ = ("abandoned", "changes", "committed", "done", "error", "result", "run", "wakes", "writes")

    def __init__(  # noqa: PLR0913 - all but one have a default
        self,
        run: Callable[[sqlite3.Connection], Any],
        *,
        writes: bool,
        committed: Callable[[], None] | None = None,
        wakes: Callable[[], bool] | None = None,
        changes: Subscriber | None = None,
        attended: bool = True,
    ) -> None:
        self.changes = changes
        self.run = run
        self.writes = writes
        self.committed = committed
        self.wakes = wakes
        self.result: Any = None
        self.error: Exception | None = None
        self.abandoned = not attended
        if attended:
            self.done = anyio.Event()


def unattended(run: Callable[[sqlite3.Connection], Any]) -> Command:
    """A write that nobody waits for; may be made off the loop."""
    return Command(run, writes=True, attended=False)


class Receive:
    """A wish for deliveries: it waits in the broker thread until there are some.

    Attributes:
        claimed: leases taken in the transaction under way.
    """

    __slots__ = ("abandoned", "claimed", "done", "error", "result", "room", "room_bytes", "subscriber")

    def __init__(self, subscriber: Subscriber, room: int, room_bytes: int) -> None:
        self.subscriber = subscriber
        self.room = room
        self.room_bytes = room_bytes
        self.done = anyio.Event()
        self.result: list[Delivery] = []
        self.error: Exception | None = None
        self.abandoned = False
        self.claimed: list[LogLease] = []


def gather(queue: deque[Command | Receive]) -> list[Command | Receive]:
    """Take all there is to do, up to a second change of the same leases: it has to see the first one committed."""
    jobs: list[Command | Receive] = []
    changed: set[Subscriber] = set()
    while queue:
        job = queue[0]
        if isinstance(job, Command) and job.changes is not None:
            if job.changes in changed:
                break
            changed.add(job.changes)
        jobs.append(queue.popleft())
    return jobs


def returning(subscriber: Subscriber, deliveries: Sequence[Delivery]) -> Command:
    """Hand back what came after its waiter was cancelled."""
    settling = Settling(subscriber, [Released(delivery) for delivery in deliveries])
    return Command(
        lambda connection: settling.run(connection, 0),
        writes=True,
        committed=settling.committed,
        wakes=lambda: True,
        changes=subscriber,
    )
