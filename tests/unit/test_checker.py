"""The judge on histories written by hand: one invariant at a time."""

from typing import Any

import pytest

from hexa_worker.core.message import Delivery
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.testing.check import Expected, Fault, Scan, Stored, Subscribed, Violation, check, stored
from hexa_worker.testing.ledger import CANCELLED, Entry, payload_hash

POLICY = RetryPolicy(initial_interval_s=1.0, maximum_attempts=2)
ACTIONS = {"do": Subscribed(channels=frozenset({"in"}), policy=POLICY)}


class History:
    """Writes a ledger line by line; time goes on by 0.1 s with each."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.now = 0.0

    def line(self, what: Any, pid: int = 1, after: float = 0.1, **fields: Any) -> "History":
        self.now += after
        self.entries.append(Entry(what=what, at=self.now, pid=pid, **fields))
        return self

    def emit(self, event: str, *, key: str | None = None) -> "History":
        self.line("emit_begin", pid=9, token=event, channel="in", key=key, payload="p")
        return self.line("emit_ok", pid=9, token=event, event=event)

    def handle(self, what: str, event: str, attempt: int = 0, **fields: Any) -> "History":
        given = {"root": event, "action": "do", "payload": "p", **fields}
        return self.line(f"handle_{what}", event=event, attempt=attempt, **given)

    def judge(self, *, dead: tuple[Stored, ...] = (), waiting: tuple[Stored, ...] = (), **expected: Any) -> set[str]:
        return {one.invariant for one in self.violations(dead=dead, waiting=waiting, **expected)}

    def violations(
        self, *, dead: tuple[Stored, ...] = (), waiting: tuple[Stored, ...] = (), backlog: int = 0, **expected: Any
    ) -> list[Violation]:
        settings = {"actions": ACTIONS, "settle_s": 0.5, **expected}
        return check(self.entries, Scan(dead=dead, waiting=waiting, backlog={"do": backlog}), Expected(**settings))


def record(event: str, attempt: int = 0) -> Stored:
    return Stored(action="do", event=event, root=event, attempt=attempt, payload="p")


def kill(at: float, pid: int = 1) -> Fault:
    return Fault(at=at, until=at, pid=pid)


def test_a_plain_success_is_fine() -> None:
    assert History().emit("a").handle("start", "a").handle("ok", "a").judge() == set()


def test_a_failure_that_is_retried_in_time_is_fine() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="ValueError")
    assert history.handle("start", "a", 1, after=1.0).handle("ok", "a", 1).judge() == set()


def test_a_confirmed_event_that_nobody_saw_is_lost() -> None:
    assert History().emit("a").judge() == {"I1"}


def test_an_emit_without_a_known_result_may_end_either_way() -> None:
    history = History().line("emit_begin", pid=9, token="t", channel="in", payload="p")
    assert history.line("emit_unknown", pid=9, token="t").judge() == set()
    assert history.handle("start", "a").handle("ok", "a").judge() == set()


def test_an_event_of_a_channel_that_nobody_reads_is_not_lost() -> None:
    history = History().line("emit_begin", pid=9, token="t", channel="elsewhere", payload="p")
    assert history.line("emit_ok", pid=9, token="t", event="a").judge() == set()


def test_a_dead_letter_is_an_end() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="DeadLetter")
    assert history.judge(dead=(record("a"),)) == set()


def test_done_and_dead_is_one_end_too_many() -> None:
    history = History().emit("a").handle("start", "a").handle("ok", "a")
    assert history.judge(dead=(record("a"),)) == {"I2"}


def test_done_and_dead_is_excused_by_a_kill_before_the_success_was_settled() -> None:
    history = History().emit("a").handle("start", "a").handle("ok", "a")
    killed_at = history.now + 0.05
    history.handle("start", "a", pid=2).handle("error", "a", pid=2, error="DeadLetter")
    assert history.judge(dead=(record("a"),), faults=(kill(killed_at),)) == set()


def test_a_kill_long_after_a_success_excuses_nothing() -> None:
    history = History().emit("a").handle("start", "a").handle("ok", "a").handle("start", "a", pid=2, after=9.0)
    history.handle("ok", "a", pid=2)
    assert history.judge(faults=(kill(history.now - 0.2),)) == {"I2", "I7"}


def test_a_kill_of_another_process_excuses_nothing() -> None:
    history = History().emit("a").handle("start", "a").handle("start", "a", pid=2).handle("ok", "a", pid=2)
    assert history.judge(faults=(kill(0.35, pid=3),)) == {"I7"}
    assert history.judge(faults=(kill(0.35, pid=1),)) == set()


def test_a_process_that_says_it_is_dying_explains_its_repeats() -> None:
    history = History().emit("a").handle("start", "a").line("dying").handle("start", "a", pid=2)
    assert history.handle("ok", "a", pid=2).judge() == set()


def test_an_interrupted_run_may_be_repeated() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error=CANCELLED)
    assert history.handle("start", "a", pid=2).handle("ok", "a", pid=2).judge() == set()


@pytest.mark.parametrize(("in_hand", "found"), [(3, set()), (2, {"I3"})])
def test_a_kill_repeats_no_more_than_was_in_hand(in_hand: int, found: set[str]) -> None:
    history = History()
    for event in "abc":
        history.emit(event).handle("start", event, after=0.01)
    killed_at = history.now + 0.01
    for event in "abc":
        history.handle("start", event, pid=2).handle("ok", event, pid=2)
    assert history.judge(in_hand=in_hand, faults=(kill(killed_at),)) == found


def test_a_retry_before_its_time_is_early() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="ValueError")
    assert history.handle("start", "a", 1, after=0.99).handle("ok", "a", 1).judge() == {"early"}


def test_a_delay_that_the_handler_asked_for_counts_instead_of_the_policy() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="Retry", after_s=0.2)
    assert history.handle("start", "a", 1, after=0.2).handle("ok", "a", 1).judge() == set()


def test_an_attempt_without_the_failure_before_it_is_a_broken_chain() -> None:
    history = History().emit("a").handle("start", "a").handle("start", "a", 1, after=2.0).handle("ok", "a", 1)
    assert history.judge() == {"I7"}


def test_an_attempt_beyond_the_policy_is_a_broken_chain() -> None:
    history = History().emit("a")
    for attempt in range(4):
        history.handle("start", "a", attempt, after=9.0).handle("error", "a", attempt, error="ValueError")
    assert history.judge(dead=(record("a", 3),)) == {"I7"}


def test_order_is_judged_within_a_key_only() -> None:
    keyed = {"do": Subscribed(channels=frozenset({"in"}), policy=POLICY, order_by="key")}
    history = History().emit("a", key="x").emit("b", key="y").emit("c", key="x")
    for event, key in (("b", "y"), ("a", "x"), ("c", "x")):
        history.handle("start", event, key=key).handle("ok", event, key=key)
    assert history.judge(actions=keyed) == set()


def test_runs_of_one_key_must_not_overlap() -> None:
    keyed = {"do": Subscribed(channels=frozenset({"in"}), policy=POLICY, order_by="key")}
    history = (
        History().emit("a", key="x").emit("b", key="x").handle("start", "a", key="x").handle("start", "b", key="x")
    )
    assert history.handle("ok", "a", key="x").handle("ok", "b", key="x").judge(actions=keyed) == {"I8"}


def test_silence_after_a_fault_is_found_only_while_something_is_ready() -> None:
    history = History().emit("a")
    fault = kill(history.now + 0.1)
    history.handle("start", "a", pid=2, after=5.0).handle("ok", "a", pid=2)
    assert history.judge(faults=(fault,), recovery_s=1.0) == {"I4"}
    assert history.judge(faults=(fault,), recovery_s=6.0) == set()
    assert history.judge(faults=(kill(history.now + 1),), recovery_s=1.0) == set()


def test_what_is_left_at_the_end_is_unfinished_and_not_lost() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="ValueError")
    assert history.judge(waiting=(record("a", 1),), backlog=1) == {"I9"}


def test_finishing_too_late_is_found() -> None:
    history = History().emit("a").handle("start", "a", after=10.0).handle("ok", "a")
    assert history.judge(finish_s=5.0) == {"I9"}
    assert history.judge(finish_s=15.0) == set()


def test_a_violation_tells_the_story_of_its_event() -> None:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="ValueError")
    (violation,) = history.violations()
    assert (violation.invariant, violation.event, violation.action) == ("I1", "a", "do")
    assert "handle_error attempt 0 ValueError" in violation.text


def test_a_browsed_record_is_understood_by_its_headers() -> None:
    headers = (("hexa-event-id", b"e"), ("hexa-root-id", b"r"), ("hexa-action", b"do"), ("hexa-attempt", b"2"))
    delivery = Delivery(channel="do.dlq", payload=b"p", headers=headers, source="do.dlq", offset=7)
    expected = Stored(action="do", event="e", root="r", attempt=2, payload=payload_hash(b"p"))
    assert stored(delivery) == expected
