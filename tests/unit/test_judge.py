"""The judge on histories written by hand: one invariant at a time."""

from typing import Any

import msgspec
import pytest

from hexa_worker.core.message import Delivery
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.testing.judge import Expected, Fault, JudgedSubscription, Scan, Stored, Violation, check, stored
from hexa_worker.testing.ledger import CANCELLED, LedgerEntry, payload_hash

POLICY = RetryPolicy(initial_interval_s=1.0, maximum_retries=2)
ACTIONS = {"do": JudgedSubscription(channels=frozenset({"in"}), policy=POLICY)}


class History:
    """Writes a ledger line by line; time goes on by 0.1 s with each."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.now = 0.0

    def line(self, what: Any, pid: int = 1, after: float = 0.1, **fields: Any) -> "History":
        self.now += after
        self.entries.append(LedgerEntry(what=what, at=self.now, pid=pid, **fields))
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


def snoozed() -> History:
    history = History().emit("a").handle("start", "a").handle("error", "a", error="Snooze", after_s=5.0)
    return history.handle("start", "a", snoozes=1, after=5.0).handle("error", "a", error="ValueError", snoozes=1)


def test_what_is_snoozed_runs_again_as_the_attempt_that_it_is_and_never_early() -> None:
    assert snoozed().handle("start", "a", 1, snoozes=1, after=1.0).handle("ok", "a", 1, snoozes=1).judge() == set()
    early = History().emit("a").handle("start", "a").handle("error", "a", error="Snooze", after_s=5.0)
    assert early.handle("start", "a", snoozes=1, after=1.0).handle("ok", "a", snoozes=1).judge() == {"early"}
    early = snoozed().handle("start", "a", 1, snoozes=1, after=0.5).handle("ok", "a", 1, snoozes=1)
    assert early.judge() == {"early"}


def test_a_snooze_that_nobody_asked_for_is_a_violation() -> None:
    history = History().emit("a").handle("start", "a").handle("ok", "a")
    assert "I7" in history.handle("start", "a", snoozes=1).handle("ok", "a", snoozes=1).judge()


@pytest.mark.parametrize("emits", [1, 2])
def test_an_event_may_run_as_often_as_it_was_emitted(emits: int) -> None:
    history = History()
    for token in ("one", "two")[:emits]:
        history.line("emit_begin", pid=9, token=token, channel="in", payload="p")
        history.line("emit_ok", pid=9, token=token, event="a")
    for _ in range(2):
        history.handle("start", "a").handle("ok", "a")
    assert history.judge() == (set() if emits > 1 else {"I2", "I7"})
    assert "I7" in history.handle("start", "a").handle("ok", "a").judge()


def test_what_an_operator_destroyed_may_be_lost_but_nothing_that_was_emitted_afterwards() -> None:
    history = History().emit("a")
    removed = Fault(at=history.now, until=history.now, destroys=frozenset({"in"}))
    assert history.judge(faults=(removed,)) == set()
    assert history.judge(faults=(msgspec.structs.replace(removed, destroys=frozenset({"other"})),)) == {"I1"}
    assert history.emit("b").judge(faults=(removed,)) == {"I1"}


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


@pytest.mark.parametrize(("in_flight", "found"), [(3, set()), (2, {"I3"})])
def test_a_kill_repeats_no_more_than_was_in_flight(in_flight: int, found: set[str]) -> None:
    history = History()
    for event in "abc":
        history.emit(event).handle("start", event, after=0.01)
    killed_at = history.now + 0.01
    for event in "abc":
        history.handle("start", event, pid=2).handle("ok", event, pid=2)
    assert history.judge(in_flight=in_flight, faults=(kill(killed_at),)) == found


@pytest.mark.parametrize(("uncommitted_s", "found"), [(0.4, set()), (0.3, {"I3"})])
def test_what_was_done_shortly_before_a_kill_may_be_repeated_where_that_is_said(
    uncommitted_s: float, found: set[str]
) -> None:
    history = History()
    for event in "abc":
        history.emit(event).handle("start", event).handle("ok", event, after=0.05)
    killed_at = history.now + 0.01
    for event in "abc":
        history.handle("start", event, pid=2).handle("ok", event, pid=2)
    faults = (kill(killed_at),)
    assert history.judge(in_flight=1, uncommitted_s=uncommitted_s, settle_s=5.0, faults=faults) == found


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
    keyed = {"do": JudgedSubscription(channels=frozenset({"in"}), policy=POLICY, order_by="key")}
    history = History().emit("a", key="x").emit("b", key="y").emit("c", key="x")
    for event, key in (("b", "y"), ("a", "x"), ("c", "x")):
        history.handle("start", event, key=key).handle("ok", event, key=key)
    assert history.judge(actions=keyed) == set()


def test_runs_of_one_key_must_not_overlap() -> None:
    keyed = {"do": JudgedSubscription(channels=frozenset({"in"}), policy=POLICY, order_by="key")}
    history = (
        History().emit("a", key="x").emit("b", key="x").handle("start", "a", key="x").handle("start", "b", key="x")
    )
    assert history.handle("ok", "a", key="x").handle("ok", "b", key="x").judge(actions=keyed) == {"I8"}


STEADY = JudgedSubscription(
    channels=frozenset({"in"}), policy=msgspec.structs.replace(POLICY, order="key"), order_by="key"
)


@pytest.mark.parametrize(("subscribed", "broken"), [(STEADY, {"I8"}), (None, set())], ids=["in-place", "free"])
def test_where_retries_keep_their_place_nothing_of_a_key_starts_before_the_last_attempt(
    subscribed: JudgedSubscription | None, broken: set[str]
) -> None:
    free = JudgedSubscription(channels=frozenset({"in"}), policy=POLICY, order_by="key")
    history = History().emit("a", key="x").emit("b", key="x")
    history.handle("start", "a", key="x").handle("error", "a", key="x", error="ValueError")
    history.handle("start", "b", key="x").handle("ok", "b", key="x")
    history.handle("start", "a", 1, key="x", after=2.0).handle("ok", "a", 1, key="x")
    assert history.judge(actions={"do": subscribed or free}) == broken


@pytest.mark.parametrize(("attempts", "error"), [(3, "ValueError"), (1, "DeadLetter")])
def test_a_key_goes_on_once_its_event_is_given_up(attempts: int, error: str) -> None:
    history = History().emit("a", key="x").emit("b", key="x")
    for attempt in range(attempts):
        history.handle("start", "a", attempt, key="x", after=3.0).handle("error", "a", attempt, key="x", error=error)
    history.handle("start", "b", key="x").handle("ok", "b", key="x")
    assert history.judge(actions={"do": STEADY}, dead=(record("a", attempts - 1),)) == set()


def test_silence_after_a_fault_is_found_only_while_something_is_ready() -> None:
    history = History().emit("a")
    fault = kill(history.now + 0.1)
    history.handle("start", "a", pid=2, after=5.0).handle("ok", "a", pid=2)
    assert history.judge(faults=(fault,), recovery_s=1.0) == {"I4"}
    assert history.judge(faults=(fault,), recovery_s=6.0) == set()
    assert history.judge(faults=(kill(history.now + 1),), recovery_s=1.0) == set()


def test_a_subscription_that_is_silent_beside_a_busy_one_is_found() -> None:
    both = {**ACTIONS, "other": ACTIONS["do"]}
    history = History().emit("a")
    fault = Fault(at=history.now + 0.1, until=history.now + 0.2)
    history.handle("start", "a", after=0.5).handle("ok", "a")
    history.handle("start", "a", after=5.0, action="other").handle("ok", "a", action="other")
    assert history.judge(actions=both, faults=(fault,), recovery_s=1.0) == {"I4"}
    assert history.judge(actions=both, faults=(fault,), recovery_s=6.0) == set()


def test_recovery_is_not_judged_when_the_broker_goes_away_again_before() -> None:
    history = History().emit("a")
    first = Fault(at=history.now + 0.1, until=history.now + 0.2)
    again = Fault(at=history.now + 0.5, until=history.now + 4.8)
    history.handle("start", "a", after=5.0).handle("ok", "a")
    assert history.judge(faults=(first,), recovery_s=1.0) == {"I4"}
    assert history.judge(faults=(first, again), recovery_s=1.0) == set()


def test_a_process_that_died_gives_recovery_the_brokers_redelivery_time_more() -> None:
    history = History().emit("a")
    away = Fault(at=history.now + 0.1, until=history.now + 0.2)
    history.handle("start", "a", pid=2, after=3.0).handle("ok", "a", pid=2)
    died = kill(away.until)
    assert history.judge(faults=(away, died), recovery_s=1.0, redelivery_s=3.0) == set()
    assert history.judge(faults=(away, died), recovery_s=1.0, redelivery_s=0.5) == {"I4"}
    assert history.judge(faults=(away,), recovery_s=1.0, redelivery_s=3.0) == {"I4"}


def test_a_broker_may_forget_acknowledgements_only_as_far_back_as_it_says() -> None:
    history = History().emit("a").handle("start", "a").handle("ok", "a")
    outage: dict[str, Any] = {"at": history.now + 20.0, "until": history.now + 21.0}
    history.handle("start", "a", pid=2, after=22.0).handle("ok", "a", pid=2)
    assert history.judge(faults=(Fault(**outage, forgets_s=60.0),)) == set()
    assert history.judge(faults=(Fault(**outage, forgets_s=10.0),)) == {"I2", "I7"}


def test_what_was_forgotten_does_not_count_as_in_flight() -> None:
    history = History()
    for number in range(3):
        history.emit(str(number)).handle("start", str(number)).handle("ok", str(number))
    outage: dict[str, Any] = {"at": history.now + 0.1, "until": history.now + 0.2}
    for number in range(3):
        history.handle("start", str(number), pid=2, after=0.5).handle("ok", str(number), pid=2)
    assert history.judge(faults=(Fault(**outage),), settle_s=2.0, in_flight=1) == {"I3"}
    assert history.judge(faults=(Fault(**outage),), settle_s=2.0, in_flight=1, processes=3) == set()
    assert history.judge(faults=(Fault(**outage, forgets_s=60.0),), in_flight=1) == set()


def test_claims_may_be_lost_a_little_after_the_fault_where_that_is_said() -> None:
    history = History().emit("a")
    outage: dict[str, Any] = {"at": history.now - 5.0, "until": history.now}
    history.handle("start", "a").handle("ok", "a").handle("start", "a", pid=2).handle("ok", "a", pid=2)
    assert history.judge(faults=(Fault(**outage),)) == {"I2", "I7"}
    assert history.judge(faults=(Fault(**outage, lingers_s=1.0),)) == set()


def test_an_orderly_stop_explains_no_repeat() -> None:
    history = History().emit("a").handle("start", "a").handle("ok", "a")
    stopped = Fault(at=history.now + 0.1, until=history.now + 0.2)
    history.handle("start", "a", pid=2, after=1.0).handle("ok", "a", pid=2)
    assert history.judge(changes=(stopped,)) == {"I2", "I7"}


def _forked() -> tuple[History, Fault]:
    """Attempt 0 runs again after a kill; far from it both retries run, and fail for good."""
    history = History().emit("a").handle("start", "a").handle("error", "a", error="ValueError")
    fault = kill(history.now)
    history.handle("start", "a", pid=2).handle("error", "a", pid=2, error="ValueError")
    for _ in range(2):
        history.handle("start", "a", 1, pid=3, after=2.0).handle("error", "a", 1, pid=3, error="DeadLetter")
    return history, fault


def test_a_second_copy_of_a_retry_is_allowed_where_storing_and_acknowledging_are_two_steps() -> None:
    history, fault = _forked()
    letters = (record("a", 1), record("a", 1))
    assert history.judge(faults=(fault,), dead=letters, republishes=True) == set()
    assert history.judge(faults=(fault,), dead=letters) == {"I2", "I7"}
    assert history.judge(dead=letters, republishes=True) == {"I7"}


def test_no_more_copies_are_allowed_than_were_made() -> None:
    history, fault = _forked()
    history.handle("start", "a", 1, pid=3).handle("error", "a", 1, pid=3, error="DeadLetter")
    letters = (record("a", 1), record("a", 1))
    assert history.judge(faults=(fault,), dead=letters, republishes=True) == {"I7"}
    assert "I2" in history.judge(faults=(fault,), dead=letters * 3, republishes=True)


def test_each_copy_of_a_retry_may_be_repeated_by_each_later_kill() -> None:
    history, fault = _forked()
    later = kill(history.now, pid=3)
    for _ in range(2):
        history.handle("start", "a", 1, pid=4, after=2.0).handle("error", "a", 1, pid=4, error="ValueError")
    for _ in range(4):
        history.handle("start", "a", 2, pid=5, after=2.0).handle("ok", "a", 2, pid=5)
    assert history.judge(faults=(fault, later), republishes=True, settle_s=3.0) == set()
    assert history.judge(faults=(fault,), republishes=True, settle_s=3.0) == {"I7"}
    history.handle("start", "a", 2, pid=5).handle("ok", "a", 2, pid=5)
    assert history.judge(faults=(fault, later), republishes=True, settle_s=3.0) == {"I7"}


def test_an_event_may_be_stored_twice_only_when_the_broker_was_away_while_it_was_emitted() -> None:
    history = History().emit("a").line("emit_begin", pid=9, token="b", channel="in", payload="p", event="b")
    away = Fault(at=history.now, until=history.now + 2.0)
    history.line("emit_ok", pid=9, token="b", event="b", after=2.5)
    for event in "ab":
        for _ in range(2):
            history.handle("start", event, after=3.0).handle("ok", event)
    found = history.violations(faults=(away,), republishes=True)
    assert {one.event for one in found} == {"a"}
    assert {one.event for one in history.violations(faults=(away,))} == {"a", "b"}


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
