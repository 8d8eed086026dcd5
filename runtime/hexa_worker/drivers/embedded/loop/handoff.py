"""What the event loop and the broker thread share: jobs go one way, answers the other.

There is no lock: each field is replaced whole, or changed by operations of Python that are atomic.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from hexa_worker.drivers.embedded.leasing import members
from hexa_worker.drivers.embedded.loop.commands import Command, Receive
from hexa_worker.drivers.embedded.loop.waker import Waker
from hexa_worker.drivers.embedded.subscriber import Subscriber
from hexa_worker.drivers.kit.loop_handle import LoopHandle
from hexa_worker.errors import DriverError


class Handoff:
    """Made on the loop.

    Args:
        answered: called on the loop with jobs that have their answers.

    Attributes:
        jobs: appended by the loop, taken by the thread.
        subscribers: those whose leases are kept alive; the loop's.
        alive_ms: when the loop was last seen to run.
        crashing: end without a goodbye; the loop's.
        stopping: end; set by both.
        look: look again at the receives that wait; set by both, cleared by the thread before it looks.
        running: jobs are taken; the thread's.
        sleeping: whoever hands a job over must ring; the thread's.
        lost: why the thread has ended though nobody asked it to; the thread's.
        waker: wakes the thread; there once it runs.
        opened, closed: told when the thread has begun and ended.
    """

    waker: Waker

    def __init__(self, answered: Callable[[Iterable[Command | Receive]], None]) -> None:
        self.jobs: deque[Command | Receive] = deque()
        self.subscribers: frozenset[Subscriber] = frozenset()
        self.alive_ms = members.now_ms()
        self.crashing = False
        self.stopping = False
        self.look = False
        self.running = False
        self.sleeping = False
        self.lost: DriverError | None = None
        self.opened = Command(lambda _: None, writes=False)
        self.closed = Command(lambda _: None, writes=False)
        self._answered = answered
        self._loop = LoopHandle()

    def tell(self, jobs: Sequence[Command | Receive]) -> None:
        """Hand answers over. On the thread."""
        if jobs and not self._loop.post(self._answered, jobs):  # the loop is gone: nobody waits any more
            self.stopping = True

    def ask_for_life(self) -> None:
        """Have the loop show that it runs. On the thread."""
        if not self._loop.post(self._mark_alive):
            self.stopping = True

    def _mark_alive(self) -> None:
        self.alive_ms = members.now_ms()
