"""What explains that something ran again: faults, and what they may have hit. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from hexa_worker.testing.ledger import CANCELLED, LedgerEntry


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something the test did.

    Attributes:
        at: when it began, seconds of the monotonic clock.
        until: when it was over; a kill is over at once.
        pid: the process it was done to; None: all of them (the broker was away).
        forgets_s: the broker may forget acknowledgements that are so much older than the fault; what they
            repeat is allowed and does not count as in hand.
        lingers_s: claims may still be lost to it so long after it was over (a session that ran out meanwhile).
        destroys: channels whose records an operator removed: what was emitted there before it was over may be lost.
    """

    at: float
    until: float
    pid: int | None = None
    forgets_s: float = 0.0
    lingers_s: float = 0.0
    destroys: frozenset[str] = frozenset()

    def touches(self, start: float, end: float, settle_s: float) -> bool:
        """Whether it may have hit what went on from `start` to `end` and was settled within `settle_s`."""
        return self.at <= end + max(settle_s, self.forgets_s) and self.until + self.lingers_s >= start


class HandlerRun(NamedTuple):
    """One run of a handler: its start, and how and when it ended, as far as the ledger knows."""

    start: LedgerEntry
    end: str
    ended_at: float | None

    @property
    def turn(self) -> int:
        """See `LedgerEntry.turn`."""
        return self.start.turn


def runs_of(entries: Sequence[LedgerEntry]) -> list[HandlerRun]:
    """The runs of one (event, action), in the order of (turn, start)."""
    open_runs: dict[tuple[int, int], list[int]] = defaultdict(list)
    runs: list[HandlerRun] = []
    for entry in entries:
        mine = open_runs[entry.pid, entry.turn]
        if entry.what == "handle_start":
            mine.append(len(runs))
            runs.append(HandlerRun(entry, "", None))
        elif mine:
            place = mine.pop(0)
            runs[place] = HandlerRun(runs[place].start, entry.error or "ok", entry.at)
    return sorted(runs, key=lambda run: (run.turn, run.start.at))


class Repeat(NamedTuple):
    """A run that was not the first of its turn.

    Attributes:
        run: the later one.
        fault: the fault that explains it; None: none does.
        copied: it is explained by a second copy of its record.
        in_flight: it counts as something a process had in hand.
    """

    run: HandlerRun
    fault: Fault | None
    copied: bool = False
    in_flight: bool = True


class Causes:
    """The faults of a run, asked what they explain.

    Args:
        faults: all of them.
        settle_s: within this time a finished handler's settlement has taken effect, faults aside.
        republishes: see `hexa_worker.testing.judge.Expected`.
    """

    def __init__(self, faults: Iterable[Fault], settle_s: float, *, republishes: bool = False) -> None:
        self._settle_s = settle_s
        self._republishes = republishes
        self._of: dict[int | None, list[Fault]] = defaultdict(list)
        for fault in sorted(faults, key=lambda fault: fault.at):
            self._of[fault.pid].append(fault)

    def disturbed(self, pid: int, start: float, end: float) -> bool:
        """Whether a fault may have hit what a process did from `start` to `end` (and settling it)."""
        return any(fault.touches(start, end, self._settle_s) for fault in (*self._of[pid], *self._of[None]))

    def repeats(self, runs: Sequence[HandlerRun], emitted: tuple[float, float] | None, emits: int = 1) -> list[Repeat]:
        """Every run of one (event, action) that repeats its turn, with what explains it.

        Args:
            runs: from `runs_of`.
            emitted: when its emit began and was confirmed, if that is known.
            emits: how often it was emitted.
        """
        found: list[Repeat] = []
        count = Counter(run.turn for run in runs)
        latest: dict[int, list[HandlerRun]] = defaultdict(list)  # by turn: the last run of each of its records
        for run in runs:
            records = latest[run.turn]
            cancelled = next((one for one in records if one.end == CANCELLED), None)
            if not records or cancelled is not None:
                _follow(records, cancelled, run)
                continue
            earlier, fault = self._repeated(records, run)
            written = count[run.turn - 1] if run.turn else emits
            copied = fault is None and len(records) < written and (self._republishes or emits > 1)
            if fault is None and self._republishes:
                copied = copied or self.written_twice(runs, run.turn, emitted)
            found.append(Repeat(run, fault, copied, in_flight=not _forgotten(earlier, fault)))
            _follow(records, None if copied else earlier, run)
        return found

    def _repeated(self, records: Sequence[HandlerRun], later: HandlerRun) -> tuple[HandlerRun, Fault | None]:
        """Which of the last runs of a turn's records `later` repeats, and why; the latest if nothing tells."""
        for earlier in records:
            fault = self._explains(earlier, later.start)
            if fault is not None:
                return earlier, fault
        return records[-1], None

    def _explains(self, earlier: HandlerRun, before: LedgerEntry) -> Fault | None:
        """The first fault that explains why `earlier` was run again by `before`."""
        start = earlier.start.at
        end = before.at if earlier.ended_at is None else earlier.ended_at
        # A process that stood still goes on with what is somebody else's by now: the fault is the later one's.
        pids = dict.fromkeys((earlier.start.pid, before.pid, None))
        mine = (fault for pid in pids for fault in self._of[pid])
        causes = (fault for fault in mine if fault.at <= before.at and fault.touches(start, end, self._settle_s))
        return min(causes, key=lambda fault: fault.at, default=None)

    def written_twice(self, runs: Sequence[HandlerRun], turn: int, emitted: tuple[float, float] | None) -> bool:
        """Whether the broker was away while the record of a turn was written, so that there may be two."""
        if not turn:
            spans = [] if emitted is None else [emitted]
        else:
            before = [run for run in runs if run.turn == turn - 1]
            ends = [run.start.at if run.ended_at is None else run.ended_at for run in before]
            spans = [(end, end + self._settle_s) for end in ends]
        return any(
            fault.at <= end and fault.until + fault.lingers_s >= start
            for start, end in spans
            for fault in self._of[None]
        )


def _follow(records: list[HandlerRun], earlier: HandlerRun | None, later: HandlerRun) -> None:
    """Note a run of the record that `earlier` was the last run of; None: of one that had not run yet."""
    if earlier is not None:
        records.remove(earlier)
    records.append(later)


def _forgotten(earlier: HandlerRun, fault: Fault | None) -> bool:
    """Whether a run was over and its acknowledgement is what the fault may have made the broker forget."""
    return fault is not None and earlier.ended_at is not None and 0 < fault.at - earlier.ended_at <= fault.forgets_s
