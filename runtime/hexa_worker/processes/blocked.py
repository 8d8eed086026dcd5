"""Which delivery blocks the event loop: found out by another thread, while it does."""

import sys
import threading
from types import FrameType

from hexa_worker.processes.journal import MappedJournal


class Blocked:
    """Answers the parent that asks, see `hexa_worker.processes.parent_watch`.

    Attributes:
        journal: where the delivery is accused, once there is one.
    """

    def __init__(self) -> None:
        self.journal: MappedJournal | None = None
        self._loop_thread = threading.get_ident()

    def accuse(self) -> None:
        """Accuse what the loop's thread is running right now: what else is in hand only waits for the loop.

        Code that keeps the interpreter's lock to itself lets no other thread ask: then all in hand are suspects.
        """
        from hexa_worker.actors.lane import Lane  # noqa: PLC0415 - there since lanes run

        frame: FrameType | None = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented for this
        while frame is not None and self.journal is not None:
            lane = frame.f_locals.get("self")
            if isinstance(lane, Lane):
                for delivery in lane.current:
                    self.journal.accuse(delivery.source, delivery.offset)
                return
            frame = frame.f_back
