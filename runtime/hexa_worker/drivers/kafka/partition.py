"""One assigned partition: what was handed out, what is finished, whether it is still ours."""

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from hexa_worker.core.message import Delivery
from hexa_worker.core.watermark import Watermark
from hexa_worker.drivers.kafka.progress import NOTE_LIMIT, Book, CommitPoint, Progress, read_progress, write_note
from hexa_worker.drivers.kafka.records import deliveries_of
from hexa_worker.drivers.kit.offset_ranges import RangeSet


class Partition:
    """A partition for as long as one assignment, or its book, lasts. It is the token of its deliveries.

    When offsets begin anew (the topic was made again, its log was put back) another one takes its place: this one
    then counts for no commit any more, but what was handed out of it is still settled with it.

    Args:
        topic: its topic, which is the channel of its deliveries.
        number: its number.
        attempt: 0, or the number of the retry topic it belongs to.
        progress: what the group had committed when it was assigned.
        committed: that commit; None: there is none, or it is to be replaced.
        book: what its offsets count.
    """

    __slots__ = (
        "_committed",
        "_finished",
        "_postponed",
        "_told",
        "attempt",
        "book",
        "lost",
        "number",
        "source",
        "topic",
        "watermark",
    )

    def __init__(  # noqa: PLR0913 - what is known of it
        self,
        topic: str,
        number: int,
        attempt: int,
        progress: Progress,
        committed: CommitPoint | None = None,
        book: Book | None = None,
    ) -> None:
        self.topic = topic
        self.number = number
        self.source = f"{topic}-{number}"
        self.attempt = attempt
        self.book = book or Book()
        self.lost = False
        self.watermark: Watermark | None = None if progress.offset is None else Watermark(progress.offset)
        self._finished: RangeSet | None = RangeSet(progress.runs) if progress.runs else None
        self._postponed = dict(progress.postponed)
        self._committed = committed
        self._told = 0 if self._finished is None else self._finished.end  # all that is done below it is committed

    def anew(self, book: Book, offset: int) -> "Partition":
        """What takes its place where offsets begin anew."""
        return Partition(self.topic, self.number, self.attempt, Progress(offset), None, book)

    @property
    def end(self) -> int:
        """No record below it will be handed out again."""
        return 0 if self.watermark is None else self.watermark.end

    def accept(self, records: Sequence[Any]) -> list[Delivery]:
        """Records that were fetched, as deliveries; those that somebody finished before are left out."""
        offsets = [record.offset for record in records]
        if self.watermark is None:
            self.watermark = Watermark(offsets[0])
        self.watermark.deliver(offsets, offsets[-1] + 1)
        deliveries = deliveries_of(records, self.topic, self.source, self.attempt, self)
        if self._finished is not None:
            deliveries = self._without_finished(deliveries, self._finished, offsets[-1])
        return self._resumed(deliveries) if self._postponed else deliveries

    def _resumed(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Deliveries as whoever had them before would have run them next."""
        resumed = list(deliveries)
        for index, delivery in enumerate(deliveries):
            known = self._postponed.get(delivery.offset)
            if known is not None:
                resumed[index] = structs.replace(delivery, attempt=known[0], due_ms=known[1])
        return resumed

    def postpone(self, offset: int, note: int, due_ms: int) -> None:
        """A delivery of it is kept in hand, to be run later: as the attempt that `Postponed.note` says."""
        if not self.is_finished(offset):
            self._postponed[offset] = (note, due_ms)

    def _without_finished(self, deliveries: list[Delivery], finished: RangeSet, last: int) -> list[Delivery]:
        assert self.watermark is not None  # noqa: S101 - accept() has made it
        self.watermark.finish([delivery.offset for delivery in deliveries if delivery.offset in finished])
        if last >= finished.end:
            self._finished = None
        return [delivery for delivery in deliveries if delivery.offset not in finished]

    def skip_to(self, position: int) -> None:
        """Nothing more will come from below `position`: transaction markers, compacted or unreadable records."""
        watermark = self.watermark
        if watermark is None:
            self.watermark = Watermark(position)
        elif watermark.end < position:
            watermark.deliver((), position)

    def finish(self, offsets: Sequence[int]) -> None:
        """Deliveries of it are settled; repeating one is harmless."""
        if self.watermark is not None:
            self.watermark.finish(offsets)
        if self._postponed:
            for offset in self._postponed.keys() & offsets:
                del self._postponed[offset]

    def is_finished(self, offset: int) -> bool:
        """Whether a delivery of it was settled before."""
        return self.watermark is not None and self.watermark.is_finished(offset)

    def is_ahead(self, limit: int) -> bool:
        """Whether `limit` offsets or more were passed beyond what is done and committed, note included.

        Who takes the partition over does these again. A note holds hundreds of unfinished records, so it is many of
        them, or brokers that take no notes, that bring a partition there: a single one never does.
        """
        watermark = self.watermark
        if watermark is None or watermark.end - self._told < limit:
            return False
        return watermark.end - watermark.position >= limit

    @property
    def outstanding(self) -> int:
        """How many records were fetched and are not settled."""
        return 0 if self.watermark is None else self.watermark.outstanding

    @property
    def noted(self) -> int:
        """How many records beyond what was fetched are known to be finished."""
        return 0 if self._finished is None else self._finished.count

    def commit_point(self, limit: int = NOTE_LIMIT) -> CommitPoint | None:
        """What should be committed now; None when that is committed already.

        Args:
            limit: how long the note may be.
        """
        watermark = self.watermark
        if watermark is None:
            return None
        position = watermark.position
        runs = watermark.beyond
        if self._finished is not None:
            runs += self._finished.above(runs[-1][1] if runs else position - 1)
        if self._postponed:  # less what is gone from the broker
            self._postponed = {offset: known for offset, known in self._postponed.items() if offset >= position}
        point = (position, write_note(position, runs, limit, self._postponed, self.book))
        return None if point == self._committed else point

    def committed(self, point: CommitPoint) -> None:
        self._committed = point
        self._told = max(point[0], RangeSet(read_progress(point, self.book).runs).end)
