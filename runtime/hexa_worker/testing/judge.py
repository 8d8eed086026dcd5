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

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from hexa_worker.core import lineage
from hexa_worker.core.lineage import lineage_of
from hexa_worker.core.message import Delivery, header
from hexa_worker.core.outcome import DeadLetter, Snooze
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.testing.explanations import Causes, Fault, Repeat, runs_of
from hexa_worker.testing.ledger import LedgerEntry, payload_hash
from hexa_worker.testing.recovery import silences

__all__ = ["Expected", "Fault", "JudgedSubscription", "Scan", "Stored", "Violation", "check", "stored"]

EARLY_TOLERANCE_S = 0.002
"""Due times are whole milliseconds of another clock."""


class JudgedSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """What was configured for one action.

    Attributes:
        channels: what it reads.
        policy: its retry policy.
        order_by: the order it promises.
    """

    channels: frozenset[str]
    policy: RetryPolicy
    order_by: Literal["none", "key", "channel"] = "none"


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the run was like.

    Attributes:
        actions: the subscriptions.
        faults: what was done to it, process kills included; processes that killed themselves are known
            from the ledger.
        changes: what was done beside them: it must repeat nothing, but consuming must go on after it (I4).
        in_flight: how many deliveries one process holds at most (mailbox; running ones are part of it).
        processes: how many processes there are at most; after a fault of the broker each may repeat `in_flight`.
        uncommitted_s: what a process has done within so long before a fault may be repeated, too: the broker was not
            told of it yet.
        settle_s: within this time a finished handler's settlement has taken effect, faults aside.
        recovery_s: within this time after a fault every subscription consumes what is ready (I4); None: not
            checked.
        redelivery_s: how long the broker keeps what a dead process had in hand; added to `recovery_s` when one died.
        republishes: a retry or dead letter and the acknowledgement of its original are two steps, and so are storing
            a record and hearing of it: a fault in between leaves two records. Two are allowed then, only there.
        finish_s: within this time after the last emit and the last fault everything is done (I9); None: not
            checked.
    """

    actions: Mapping[str, JudgedSubscription]
    faults: Sequence[Fault] = ()
    changes: Sequence[Fault] = ()
    in_flight: int = 2_000
    processes: int = 1
    uncommitted_s: float = 0.0
    settle_s: float = 5.0
    recovery_s: float | None = None
    redelivery_s: float = 0.0
    republishes: bool = False
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


def check(entries: Iterable[LedgerEntry], scan: Scan, expected: Expected) -> list[Violation]:
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
    begun: LedgerEntry
    confirmed_at: float


_Pair = tuple[str, str]  # event id, action


class _Judge:
    """The entries, sorted by what they are about."""

    def __init__(self, entries: list[LedgerEntry], scan: Scan, expected: Expected) -> None:
        self.scan = scan
        self.expected = expected
        self.begun = {entry.token: entry for entry in entries if entry.what == "emit_begin"}
        self.emitted = self._match_emits(entries)
        # A handler that is run again emits its children again, by the same ids: then there is a record of each emit.
        events = {token: begun.event for token, begun in self.begun.items()}
        events |= {one.token: one.event for one in entries if one.what == "emit_ok"}
        self.emits = Counter(events.values())
        self.handled: dict[_Pair, list[LedgerEntry]] = defaultdict(list)
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
        self.causes = Causes(self.faults, expected.settle_s, republishes=expected.republishes)
        self.repeats = self._find_repeats()

    def _find_repeats(self) -> dict[_Pair, list[Repeat]]:
        """What ran more than once in one turn."""
        emitted = {one.event: (one.begun.at, one.confirmed_at) for one in self.emitted}
        found: dict[_Pair, list[Repeat]] = {}
        for pair, entries in self.handled.items():
            starts = [entry.turn for entry in entries if entry.what == "handle_start"]
            if len(starts) > len(set(starts)):
                runs, emits = runs_of(entries), self.emits[pair[0]]
                found[pair] = self.causes.repeats(runs, emitted.get(pair[0]), emits)
        return found

    def _match_emits(self, entries: list[LedgerEntry]) -> list[_Emitted]:
        confirmed = ((one, self.begun.get(one.token)) for one in entries if one.what == "emit_ok")
        return [
            _Emitted(ok.event, begun.channel, begun.key, begun, ok.at) for ok, begun in confirmed if begun is not None
        ]

    # -- I1, I2

    def lost_or_ended_twice(self) -> Iterable[Violation]:
        for action, subscribed in self.expected.actions.items():
            for event in self.emitted:
                pair = (event.event, action)
                if event.channel not in subscribed.channels or pair in self.waiting or self._destroyed(event):
                    continue
                if not self._ended(pair):
                    yield Violation("I1", f"confirmed, but neither done nor dead{self._story(pair)}", *pair)
        for pair in {*self.handled, *self.dead}:
            yield from self._ended_twice(pair)

    def _destroyed(self, event: _Emitted) -> bool:
        return any(event.channel in fault.destroys and event.begun.at <= fault.until for fault in self.faults)

    def _ended(self, pair: _Pair) -> bool:
        return pair in self.dead or any(entry.what == "handle_ok" for entry in self.handled.get(pair, ()))

    def _ended_twice(self, pair: _Pair) -> Iterable[Violation]:
        dead, done = self.dead.get(pair, []), [one for one in self.handled.get(pair, ()) if one.what == "handle_ok"]
        copies = self._copies(pair)
        if len(dead) > 1 + copies:
            yield Violation("I2", f"{len(dead)} dead letters{self._story(pair)}", *pair)
        certain = [one for one in done if not self.causes.disturbed(one.pid, one.at, one.at)]
        if dead and certain and not copies:
            yield Violation("I2", f"done and dead-lettered{self._story(pair)}", *pair)
        if len(certain) > 1 + copies:
            yield Violation("I2", f"done {len(done)} times, {len(certain)} of them without a fault", *pair)

    def _copies(self, pair: _Pair) -> int:
        """How many second records of the event there may be: each goes its own way to its end."""
        emitted = max(self.emits[pair[0]] - 1, 0)
        if not self.expected.republishes:
            return emitted
        copies = emitted + sum(one.copied or one.fault is not None for one in self.repeats.get(pair, ()))
        if len(self.dead.get(pair, ())) > 1 + copies:
            runs = runs_of(self.handled.get(pair, ()))
            copies += self.causes.written_twice(runs, max((run.turn for run in runs), default=0) + 1, None)
        return copies

    # -- I3, I7: what ran more than once

    def repeated(self) -> Iterable[Violation]:
        by_fault: dict[Fault, int] = defaultdict(int)
        for pair, repeats in self.repeats.items():
            for repeat in repeats:
                if repeat.fault is not None:
                    by_fault[repeat.fault] += repeat.in_flight
                elif not repeat.copied:
                    text = f"attempt {repeat.run.start.attempt} ran again without a fault{self._story(pair)}"
                    yield Violation("I7", text, *pair)
        for fault, count in by_fault.items():
            limit = self.expected.in_flight * (1 if fault.pid is not None else self.expected.processes)
            if count > limit and count > (limit := limit + self._uncommitted(fault)):
                text = f"{count} runs were repeated after the fault at {fault.at:.3f} (pid {fault.pid})"
                yield Violation("I3", f"{text}, at most {limit} were in hand")

    def _uncommitted(self, fault: Fault) -> int:
        """How many runs had ended when it came, but so shortly before that the broker did not know."""
        begin = fault.at - self.expected.uncommitted_s
        ends = (one for entries in self.handled.values() for one in entries if one.what != "handle_start")
        return sum(begin <= one.at <= fault.until and fault.pid in (None, one.pid) for one in ends)

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

    def _attempts(self, pair: _Pair, entries: list[LedgerEntry]) -> Iterable[Violation]:
        seen = sorted({entry.attempt for entry in entries})
        if seen != list(range(len(seen))):
            yield Violation("I7", f"attempts {seen} have a gap", *pair)
        subscribed = self.expected.actions.get(pair[1])
        if subscribed is not None and seen[-1] > subscribed.policy.maximum_retries:
            yield Violation("I7", f"attempt {seen[-1]} is beyond the policy", *pair)
        for entry in entries:
            if entry.what == "handle_start" and entry.turn and not _failed_before(entries, entry):
                yield Violation("I7", f"attempt {entry.attempt} though the one before had not failed", *pair)

    # -- early

    def early(self) -> Iterable[Violation]:
        for pair, entries in self.handled.items():
            subscribed = self.expected.actions.get(pair[1])
            if subscribed is None:
                continue
            failed: dict[tuple[int, int], LedgerEntry] = {}
            for entry in entries:
                if entry.what == "handle_error":
                    failed.setdefault((entry.attempt, entry.snoozes), entry)
                elif entry.what == "handle_start":
                    yield from _early(pair, _before(failed, entry), entry, subscribed.policy)

    # -- I8

    def order(self) -> Iterable[Violation]:
        for action, subscribed in self.expected.actions.items():
            if subscribed.order_by == "none":
                continue
            groups: dict[object, list[_Emitted]] = defaultdict(list)
            for event in sorted(self.emitted, key=lambda event: event.begun.at):
                if self.emits[event.event] > 1:
                    continue  # nobody can tell which of its records a run is of
                if event.channel in subscribed.channels and (event.key is not None or subscribed.order_by != "key"):
                    group = event.key if subscribed.order_by == "key" else None
                    groups[event.begun.pid, event.channel, group].append(event)
            for events in groups.values():
                yield from self._group_order(action, subscribed.policy, [event.event for event in events])

    def _group_order(self, action: str, policy: RetryPolicy, events: list[str]) -> Iterable[Violation]:
        """First attempts start in the order of emission, each after the end of the one before.

        Where retries keep their place, that is the end of its last attempt.
        """
        span = _whole_span if policy.order == "key" else _first_span
        spans = [(event, span(self.handled.get((event, action), []), policy)) for event in events]
        ran = [(event, span) for event, span in spans if span is not None]
        for (before, (_, ended)), (after, (started, _)) in pairwise(ran):
            if started < ended:
                yield Violation("I8", f"started before {before}, its forerunner, had ended", after, action)

    # -- I4, I9

    def recovery(self) -> Iterable[Violation]:
        if self.expected.recovery_s is None:
            return
        disturbances = sorted([*self.faults, *self.expected.changes], key=lambda one: one.at)
        starts: dict[str, list[float]] = defaultdict(list)
        for entry in self.starts:
            starts[entry.action].append(entry.at)
        for action, subscribed in self.expected.actions.items():
            ready = self._ready_spans(action, subscribed)
            for silence in silences(
                disturbances, starts[action], ready, self.expected.recovery_s, self.expected.redelivery_s
            ):
                text = f"nothing was consumed for {silence.waited_s:g} s after the fault at {silence.fault.at:.3f}"
                yield Violation("I4", f"{text}, though {silence.ready} events were ready", action=action)

    def _ready_spans(self, action: str, subscribed: JudgedSubscription) -> list[tuple[float, float]]:
        """For each confirmed event of an action: since when it was ready, and when it was first started."""
        spans: list[tuple[float, float]] = []
        for event in self.emitted:
            if event.channel in subscribed.channels:
                entries = self.handled.get((event.event, action), [])
                if entries or not (self._destroyed(event) or (event.event, action) in self.dead):
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


def _failed_before(entries: Sequence[LedgerEntry], start: LedgerEntry) -> bool:
    return any(one.what == "handle_error" and one.turn == start.turn - 1 and one.at <= start.at for one in entries)


def _before(failed: Mapping[tuple[int, int], LedgerEntry], start: LedgerEntry) -> LedgerEntry | None:
    """What put `start` off; None where nobody can tell: copies of a record may have gone two ways."""
    retried, snoozed = failed.get((start.attempt - 1, start.snoozes)), failed.get((start.attempt, start.snoozes - 1))
    return (retried or snoozed) if retried is None or snoozed is None else None


def _early(pair: _Pair, failed: LedgerEntry | None, start: LedgerEntry, policy: RetryPolicy) -> Iterable[Violation]:
    if failed is None:
        return
    delay_s = policy.delay_s(start.attempt) if failed.after_s is None else failed.after_s
    waited_s = start.at - failed.at
    if waited_s < delay_s - EARLY_TOLERANCE_S:
        yield Violation("early", f"attempt {start.attempt} came after {waited_s:.3f} s, not {delay_s:g} s", *pair)


def _first_span(entries: Sequence[LedgerEntry], _policy: RetryPolicy) -> tuple[float, float] | None:
    """When the first attempt of an event was first started and first ended; None if it never was."""
    started = next((one.at for one in entries if one.what == "handle_start" and not one.turn), None)
    if started is None:
        return None
    ended = next((one.at for one in entries if one.what != "handle_start" and not one.turn), started)
    return started, ended


def _whole_span(entries: Sequence[LedgerEntry], policy: RetryPolicy) -> tuple[float, float] | None:
    """When an event was first started and first done or given up; None if it never was started."""
    started = next((one.at for one in entries if one.what == "handle_start"), None)
    if started is None:
        return None
    return started, next((one.at for one in entries if _ends(one, policy)), started)


def _ends(entry: LedgerEntry, policy: RetryPolicy) -> bool:
    if entry.what == "handle_ok":
        return True
    if entry.error == Snooze.__qualname__:
        given_up = entry.snoozes >= policy.snoozes_limit
    else:
        given_up = entry.attempt >= policy.maximum_retries or entry.error == DeadLetter.__qualname__
    return entry.what == "handle_error" and given_up
