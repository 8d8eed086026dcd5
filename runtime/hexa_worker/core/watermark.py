"""How far a stretch of a log is finished, when its deliveries finish in any order.

One watermark follows one source (a Kafka partition, a leased range). It keeps the *unfinished* offsets only, so one
that stays unfinished costs nothing, however much is finished beyond it. Logs have gaps (compaction, transaction
markers, trimming): an offset that was passed and never delivered counts as finished.
"""

from collections.abc import Iterable


class Watermark:
    """The lowest offset that is not finished yet, and what is finished beyond it.

    Args:
        position: the first offset that has not been delivered.
    """

    __slots__ = ("_end", "_unfinished")

    def __init__(self, position: int) -> None:
        self._end = position
        self._unfinished: dict[int, None] = {}  # ascending, as they were delivered

    @property
    def position(self) -> int:
        """Everything below it is finished: what may be committed."""
        return next(iter(self._unfinished), self._end)

    @property
    def end(self) -> int:
        """The first offset that has not been delivered."""
        return self._end

    @property
    def beyond(self) -> list[tuple[int, int]]:
        """What is finished above `position`: ascending runs, each with its first and last offset."""
        runs: list[tuple[int, int]] = []
        before = self.position
        for offset in (*self._unfinished, self._end):
            if offset > before + 1:
                runs.append((before + 1, offset - 1))
            before = offset
        return runs

    @property
    def outstanding(self) -> int:
        """How many delivered offsets are not finished."""
        return len(self._unfinished)

    def deliver(self, offsets: Iterable[int], position: int) -> None:
        """Note that `offsets` (ascending, none delivered before) were handed out.

        Args:
            offsets: what was handed out.
            position: the first offset after them, gaps included.
        """
        self._unfinished.update(dict.fromkeys(offsets))
        self._end = position

    def finish(self, offsets: Iterable[int]) -> None:
        """Note that `offsets` are finished, in any order; repeating one is harmless, all must have been delivered."""
        forget = self._unfinished.pop
        for offset in offsets:
            forget(offset, None)

    def is_finished(self, offset: int) -> bool:
        """Whether a delivered offset was finished before."""
        return offset < self._end and offset not in self._unfinished
