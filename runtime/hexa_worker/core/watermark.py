"""How far a stretch of a log is finished, when its deliveries finish in any order.

One watermark follows one source (a Kafka partition, a leased range). It tracks *delivered* offsets, not
integers: logs have gaps (compaction, transaction markers, trimming).
"""

from collections import deque
from collections.abc import Iterable


class Watermark:
    """The lowest offset that is not finished yet, and what is finished beyond it.

    Args:
        position: the first offset that has not been delivered.
    """

    __slots__ = ("_beyond", "_pending", "_position")

    def __init__(self, position: int) -> None:
        self._position = position
        self._pending: deque[int] = deque()
        self._beyond: set[int] = set()

    @property
    def position(self) -> int:
        """Everything below it is finished: what may be committed."""
        return self._pending[0] if self._pending else self._position

    @property
    def end(self) -> int:
        """The first offset that has not been delivered."""
        return self._position

    @property
    def beyond(self) -> tuple[int, ...]:
        """Finished offsets at or above `position`, ascending."""
        return tuple(sorted(self._beyond))

    @property
    def delivered(self) -> tuple[int, ...]:
        """Delivered offsets at or above `position`, finished or not, ascending."""
        return tuple(self._pending)

    @property
    def ahead(self) -> int:
        """How many offsets were delivered from `position` on, finished or not."""
        return len(self._pending)

    @property
    def outstanding(self) -> int:
        """How many delivered offsets are not finished."""
        return len(self._pending) - len(self._beyond)

    def deliver(self, offsets: Iterable[int], position: int) -> None:
        """Note that `offsets` (ascending, none delivered before) were handed out.

        Args:
            offsets: what was handed out.
            position: the first offset after them, gaps included.
        """
        self._pending.extend(offsets)
        self._position = position

    def finish(self, offsets: Iterable[int]) -> None:
        """Note that `offsets` are finished, in any order; repeating one is harmless, all must have been delivered."""
        beyond, pending = self._beyond, self._pending
        if not pending:
            return
        position = pending[0]
        beyond.update([offset for offset in offsets if offset >= position])
        while pending and pending[0] in beyond:
            beyond.remove(pending.popleft())

    def is_finished(self, offset: int) -> bool:
        """Whether a delivered offset was finished before."""
        return offset < self.position or offset in self._beyond
