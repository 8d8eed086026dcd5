"""The judge: ledger and final scan against the invariants of at-least-once processing. Pure.

========= ==================================================================================================
I1        zero lost: every confirmed event ends, for each action that reads its channel
I2        in exactly one way: done or dead-lettered
I3        a kill repeats no more handler runs than the process had in hand
I4        after a fault, what is ready is consumed again in bounded time
I7        lineage: attempts 0…k without gaps, root, key and payload unchanged, nothing repeated without a
          fault, no attempt beyond the policy, nothing handled that nobody emitted
I8        the order of a key (or channel) where it is promised
I9        once faults stop, everything is finished in bounded time
early     no retry before its time
========= ==================================================================================================

I5 (retry and dead-letter records are durable before the acknowledgement) and I6 (nothing is settled after the
claim is lost) cannot be seen from outside by themselves: breaking I5 loses events (I1) when a process dies
in between, breaking I6 ends or repeats events twice (I2, I7).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from hexa_worker.core import lineage
from hexa_worker.core.lineage import lineage_of
from hexa_worker.core.message import Delivery, header
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.testing.ledger import CANCELLED, Entry, payload_hash

EARLY_TOLERANCE_S = 0.002
"""Due times are whole milliseconds of another clock."""


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """What was configured for one action.

    Attributes:
        channels: what it reads.
        policy: its retry policy.
        order_by: the order it promises.
    """

    channels: frozenset[str]
    policy: RetryPolicy
    order_by: Literal["none", "key", "channel"] = "none"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something the test did.

    Attributes:
        at: when it began, seconds of the monotonic clock.
        until: when it was over; a kill is over at once.
        pid: the process it was done to; None: all of them (the broker was away).
    """

    at: float
    until: float
    pid: int | None = None


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the run was like.

    Attributes:
        actions: the subscriptions.
        faults: what was done to it, process kills included; processes that killed themselves are known
            from the ledger.
        in_hand: how many deliveries one process holds at most (mailbox; running ones are part of it).
        settle_s: within this time a finished handler's settlement has taken effect, faults aside.
        recovery_s: within this time after a fault something ready is consumed (I4); None: not checked.
        finish_s: within this time after the last emit and the last fault everything is done (I9); None: not
            checked.
    """

    actions: Mapping[str, Subscribed]
    faults: Sequence[Fault] = ()
    in_hand: int = 2_000
    settle_s: float = 5.0
    recovery_s: float | None = None
    finish_s: float | None = None


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A record that the final scan found in a retry or dead-letter channel."""

    action: str
    event: str
    root: str
    attempt: int
    payload: str


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What was in the broker at the end.

    Attributes:
        dead: all dead letters.
        waiting: all records that still wait in retry channels.
        backlog: by action, how many deliveries are left (ready, leased and delayed).
    """

    dead: Sequence[Stored]
    waiting: Sequence[Stored] = ()
    backlog: Mapping[str, int] = {}


class Violation(NamedTuple):
    """One thing that must not happen, and did."""

    invariant: str
    text: str
    event: str = ""
    action: str = ""


def stored(delivery: Delivery) -> Stored:
    """A browsed record of a retry or dead-letter channel, as the judge wants it."""
    ids = lineage_of(delivery)
    action = header(delivery.headers, lineage.ACTION) or b""
    attempt = header(delivery.headers, lineage.ATTEMPT) or b"0"
    return Stored(
        action=action.decode(),
        event=ids.event_id,
        root=ids.root_id,
        attempt=int(attempt),
        payload=payload_hash(delivery.payload),
    )


def check(entries: Iterable[Entry], scan: Scan, expected: Expected) -> list[Violation]:
    """Everything that went wrong; empty when all invariants hold.

    Args:
        entries: the ledger, all processes together, in the order of time.
        scan: the broker at the end.
        expected: the configuration and the faults.
    """
    judge = _Judge(list(entries), scan, expected)
    return [
        *judge.lost_or_ended_twice(),
        *judge.repeated(),
        *judge.lineage(),
        *judge.early(),
        *judge.order(),
        *judge.recovery(),
        *judge.finish(),
    ]


class _Emitted(NamedTuple):
    event: str
    channel: str
    key: str | None
    begun: Entry
    confirmed_at: float


_Pair = tuple[str, str]  # event id, action


class _Judge:
    """The entries, sorted by what they are about."""

    def __init__(self, entries: list[Entry], scan: Scan, expected: Expected) -> None:
        self.scan = scan
        self.expected = expected
        self.begun = {entry.token: entry for entry in entries if entry.what == "emit_begin"}
        self.emitted = self._match_emits(entries)
        self.handled: dict[_Pair, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.what.startswith("handle"):
                self.handled[entry.event, entry.action].append(entry)
        self.starts = [entry for entry in entries if entry.what == "handle_start"]
        self.dead: dict[_Pair, list[Stored]] = defaultdict(list)
        for record in scan.dead:
            self.dead[record.event, record.action].append(record)
        self.waiting = {(record.event, record.action) for record in scan.waiting}
        dying = [Fault(at=one.at, until=one.at, pid=one.pid) for one in entries if one.what == "dying"]
        self.faults = sorted([*expected.faults, *dying], key=lambda fault: fault.at)
        self._faults_of: dict[int | None, list[Fault]] = defaultdict(list)
        for fault in self.faults:
            self._faults_of[fault.pid].append(fault)

    def _match_emits(self, entries: list[Entry]) -> list[_Emitted]:
        confirmed = ((one, self.begun.get(one.token)) for one in entries if one.what == "emit_ok")
        return [
            _Emitted(ok.event, begun.channel, begun.key, begun, ok.at) for ok, begun in confirmed if begun is not None
        ]

    def disturbed(self, entry: Entry, until: float | None = None) -> bool:
        """Whether a fault may have hit what `entry`'s process did from then until `until` (and settling it)."""
        end = (entry.at if until is None else until) + self.expected.settle_s
        mine = (*self._faults_of[entry.pid], *self._faults_of[None])
        return any(fault.at <= end and fault.until >= entry.at for fault in mine)

    # -- I1, I2

    def lost_or_ended_twice(self) -> Iterable[Violation]:
        for action, subscribed in self.expected.actions.items():
            for event in self.emitted:
                pair = (event.event, action)
                if event.channel in subscribed.channels and pair not in self.waiting and not self._ended(pair):
                    yield Violation("I1", f"confirmed, but neither done nor dead{self._story(pair)}", *pair)
        for pair in {*self.handled, *self.dead}:
            yield from self._ended_twice(pair)

    def _ended(self, pair: _Pair) -> bool:
        return pair in self.dead or any(entry.what == "handle_ok" for entry in self.handled.get(pair, ()))

    def _ended_twice(self, pair: _Pair) -> Iterable[Violation]:
        dead, done = self.dead.get(pair, []), [one for one in self.handled.get(pair, ()) if one.what == "handle_ok"]
        if len(dead) > 1:
            yield Violation("I2", f"{len(dead)} dead letters", *pair)
        certain = [one for one in done if not self.disturbed(one)]
        if dead and certain:
            yield Violation("I2", f"done and dead-lettered{self._story(pair)}", *pair)
        if len(certain) > 1:
            yield Violation("I2", f"done {len(done)} times, {len(certain)} of them without a fault", *pair)

    # -- I3, I7: what ran more than once

    def repeated(self) -> Iterable[Violation]:
        by_fault: dict[Fault, int] = defaultdict(int)
        for pair, entries in self.handled.items():
            for earlier, later in pairwise(_runs(entries)):
                if earlier.attempt != later.attempt or earlier.end == CANCELLED:
                    continue
                causes = self._causes(earlier, later.start)
                if not causes:
                    text = f"attempt {later.attempt} ran again without a fault{self._story(pair)}"
                    yield Violation("I7", text, *pair)
                for fault in causes[:1]:
                    by_fault[fault] += 1
        for fault, count in by_fault.items():
            if count > self.expected.in_hand:
                text = f"{count} runs were repeated after the fault at {fault.at:.3f} (pid {fault.pid})"
                yield Violation("I3", f"{text}, at most {self.expected.in_hand} were in hand")

    def _causes(self, earlier: "_Run", before: Entry) -> list[Fault]:
        """Faults that explain why `earlier` was run again by `before`."""
        first = earlier.start
        end = (earlier.ended_at or before.at) + self.expected.settle_s
        # A process that stood still goes on with what is somebody else's by now: the fault is the later one's.
        pids = dict.fromkeys((first.pid, before.pid, None))
        mine = sorted((fault for pid in pids for fault in self._faults_of[pid]), key=lambda fault: fault.at)
        return [fault for fault in mine if first.at <= fault.until and fault.at <= min(end, before.at)]

    # -- I7

    def lineage(self) -> Iterable[Violation]:
        known = {(entry.payload, entry.key) for entry in self.begun.values()}
        for pair, entries in self.handled.items():
            first = entries[0]
            yield from self._attempts(pair, entries)
            for name in ("root", "payload", "key"):
                values = {getattr(entry, name) for entry in entries}
                if len(values) > 1:
                    yield Violation("I7", f"{name} changed on the way: {sorted(map(str, values))}", *pair)
            if (first.payload, first.key) not in known:
                yield Violation("I7", "was handled, but nobody emitted it", *pair)
            for record in self.dead.get(pair, ()):
                if record.root != first.root or record.payload != first.payload:
                    yield Violation("I7", "its dead letter has another root or payload", *pair)

    def _attempts(self, pair: _Pair, entries: list[Entry]) -> Iterable[Violation]:
        seen = sorted({entry.attempt for entry in entries})
        if seen != list(range(len(seen))):
            yield Violation("I7", f"attempts {seen} have a gap", *pair)
        subscribed = self.expected.actions.get(pair[1])
        if subscribed is not None and seen[-1] > subscribed.policy.maximum_attempts:
            yield Violation("I7", f"attempt {seen[-1]} is beyond the policy", *pair)
        for entry in entries:
            if entry.what == "handle_start" and entry.attempt and not _failed_before(entries, entry):
                yield Violation("I7", f"attempt {entry.attempt} though the one before had not failed", *pair)

    # -- early

    def early(self) -> Iterable[Violation]:
        for pair, entries in self.handled.items():
            subscribed = self.expected.actions.get(pair[1])
            if subscribed is None:
                continue
            failed: dict[int, Entry] = {}
            for entry in entries:
                if entry.what == "handle_error":
                    failed.setdefault(entry.attempt, entry)
                before = failed.get(entry.attempt - 1)
                if entry.what == "handle_start" and before is not None:
                    yield from _early(pair, before, entry, subscribed.policy)

    # -- I8

    def order(self) -> Iterable[Violation]:
        for action, subscribed in self.expected.actions.items():
            if subscribed.order_by == "none":
                continue
            groups: dict[object, list[_Emitted]] = defaultdict(list)
            for event in sorted(self.emitted, key=lambda event: event.begun.at):
                if event.channel in subscribed.channels and (event.key is not None or subscribed.order_by != "key"):
                    group = event.key if subscribed.order_by == "key" else None
                    groups[event.begun.pid, event.channel, group].append(event)
            for events in groups.values():
                yield from self._group_order(action, [event.event for event in events])

    def _group_order(self, action: str, events: list[str]) -> Iterable[Violation]:
        """First attempts start in the order of emission, each after the end of the one before."""
        spans = [(event, _first_span(self.handled.get((event, action), []))) for event in events]
        ran = [(event, span) for event, span in spans if span is not None]
        for (before, (_, ended)), (after, (started, _)) in pairwise(ran):
            if started < ended:
                yield Violation("I8", f"started before {before}, its forerunner, had ended", after, action)

    # -- I4, I9

    def recovery(self) -> Iterable[Violation]:
        if self.expected.recovery_s is None:
            return
        ready = self._ready_spans()
        starts = [entry.at for entry in self.starts]
        for fault in self.faults:
            limit = fault.until + self.expected.recovery_s
            if any(fault.until < at <= limit for at in starts):
                continue
            waiting = sum(1 for since, until in ready if since <= fault.until and until > limit)
            if waiting:
                text = f"nothing was consumed for {self.expected.recovery_s:g} s after the fault at {fault.at:.3f}"
                yield Violation("I4", f"{text}, though {waiting} events were ready")

    def _ready_spans(self) -> list[tuple[float, float]]:
        """For each confirmed event and action: since when it was ready, and when it was first started."""
        spans: list[tuple[float, float]] = []
        for action, subscribed in self.expected.actions.items():
            for event in self.emitted:
                if event.channel in subscribed.channels:
                    entries = self.handled.get((event.event, action), [])
                    if entries or (event.event, action) not in self.dead:
                        spans.append((event.confirmed_at, entries[0].at if entries else float("inf")))
        return spans

    def finish(self) -> Iterable[Violation]:
        for action, left in self.scan.backlog.items():
            if left:
                yield Violation("I9", f"{left} deliveries are left", action=action)
        for record in self.scan.waiting:
            yield Violation("I9", "still waits in a retry channel", record.event, record.action)
        if self.expected.finish_s is None or not self.starts:
            return
        calm = max([event.confirmed_at for event in self.emitted] + [fault.until for fault in self.faults], default=0.0)
        last = self.starts[-1]
        if last.at - calm > self.expected.finish_s:
            text = f"still busy {last.at - calm:.1f} s after the last emit and fault"
            yield Violation("I9", text, last.event, last.action)

    # -- for people

    def _story(self, pair: _Pair) -> str:
        entries = self.handled.get(pair, [])
        lines = [f"{one.at:.3f} pid {one.pid} {one.what} attempt {one.attempt} {one.error}" for one in entries[-6:]]
        return "".join(f"\n    {line}" for line in lines) or " (no handler ever saw it)"


class _Run(NamedTuple):
    """One run of a handler: its start, and how and when it ended, as far as the ledger knows."""

    start: Entry
    end: str
    ended_at: float | None

    @property
    def attempt(self) -> int:
        return self.start.attempt


def _runs(entries: Sequence[Entry]) -> list[_Run]:
    """The runs of one (event, action), in the order of (attempt, start)."""
    open_runs: dict[tuple[int, int], list[int]] = defaultdict(list)
    runs: list[_Run] = []
    for entry in entries:
        mine = open_runs[entry.pid, entry.attempt]
        if entry.what == "handle_start":
            mine.append(len(runs))
            runs.append(_Run(entry, "", None))
        elif mine:
            place = mine.pop(0)
            runs[place] = _Run(runs[place].start, entry.error or "ok", entry.at)
    return sorted(runs, key=lambda run: (run.attempt, run.start.at))


def _failed_before(entries: Sequence[Entry], start: Entry) -> bool:
    return any(
        one.what == "handle_error" and one.attempt == start.attempt - 1 and one.at <= start.at for one in entries
    )


def _early(pair: _Pair, failed: Entry, start: Entry, policy: RetryPolicy) -> Iterable[Violation]:
    delay_s = policy.delay_s(start.attempt) if failed.after_s is None else failed.after_s
    waited_s = start.at - failed.at
    if waited_s < delay_s - EARLY_TOLERANCE_S:
        yield Violation("early", f"attempt {start.attempt} came after {waited_s:.3f} s, not {delay_s:g} s", *pair)


def _first_span(entries: Sequence[Entry]) -> tuple[float, float] | None:
    """When the first attempt of an event was first started and first ended; None if it never was."""
    started = next((one.at for one in entries if one.what == "handle_start" and not one.attempt), None)
    if started is None:
        return None
    ended = next((one.at for one in entries if one.what != "handle_start" and not one.attempt), started)
    return started, ended
