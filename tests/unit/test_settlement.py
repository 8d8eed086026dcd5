"""Every outcome has a settlement, and the records it writes carry the whole story."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hexa_worker.core import lineage, settlement, snoozes
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.outcome import (
    Ack,
    Crashed,
    DeadLetter,
    Drop,
    Interrupted,
    Outcome,
    Raised,
    Retry,
    Snooze,
    TimedOut,
    Undecodable,
)
from hexa_worker.core.retry import RetryPolicy, due_after
from hexa_worker.core.settlement import Acked, DeadLettered, Released, RetryAt, Route, counted, describe, settle
from hexa_worker.dead_letters.dead_letter import read_letter, redriven
from hexa_worker.errors import DecodeError, DriverRejected, DriverUnavailable, RecordTooLarge

NOW = 1_800_000_000_000
names = st.sampled_from(
    [lineage.EVENT_ID, lineage.ROOT_ID, lineage.ATTEMPT, lineage.FIRST_FAILED_AT, "own", "Own", "ü"]
)
headers = st.lists(st.tuples(names, st.binary(max_size=300)), max_size=6).map(tuple)
deliveries = st.builds(
    Delivery,
    channel=st.text(min_size=1, max_size=20),
    payload=st.binary(max_size=50),
    key=st.none() | st.binary(max_size=10),
    headers=headers,
    source=st.text(min_size=1, max_size=20),
    offset=st.integers(0, 2**62),
    attempt=st.integers(0, 12),
    snoozes=st.integers(0, 200),
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Ack),
    st.builds(Drop, st.text(max_size=20)),
    st.builds(DeadLetter, st.text(max_size=20)),
    st.builds(Retry, st.none() | st.floats(allow_nan=False), st.text(max_size=20)),
    st.builds(Snooze, st.floats(allow_nan=False), st.text(max_size=20)),
    st.builds(Raised, st.builds(ValueError, st.text(max_size=3000))),
    st.builds(TimedOut, st.floats(0, 100)),
    st.builds(Undecodable, st.builds(ValueError, st.text(max_size=20))),
    st.builds(Interrupted),
    st.builds(Crashed, st.integers(1, 9)),
)
routes = st.builds(
    Route,
    action=st.just("act"),
    retry_base=st.just("base"),
    policy=st.builds(RetryPolicy, maximum_retries=st.integers(0, 10), jitter=st.sampled_from([0.0, 0.5])),
)


def delivery(attempt: int = 0, own: Headers = ()) -> Delivery:
    return Delivery(channel="c", payload=b"p", key=b"k", headers=own, source="c", offset=7, attempt=attempt)


def route(**policy: float) -> Route:
    return Route(action="act", retry_base="base", policy=RetryPolicy(**policy))  # type: ignore[arg-type]  # ints too


@given(outcomes, deliveries, routes, st.floats(0, 0.999))
def test_settlement_is_total_and_keeps_the_event(outcome: Outcome, one: Delivery, way: Route, jitter: float) -> None:
    settled = settle(outcome, one, way, now_ms=NOW, jitter=jitter)
    assert settled.delivery is one
    if isinstance(settled, RetryAt | DeadLettered):
        record = settled.record
        assert (record.payload, record.key) == (one.payload, one.key)
        own = [pair for pair in one.headers if not pair[0].startswith(lineage.PREFIX)]
        assert [pair for pair in record.headers if not pair[0].startswith(lineage.PREFIX)] == own
        again = Delivery(channel=record.channel, payload=b"", headers=record.headers, source="r", offset=1)
        assert lineage.lineage_of(again) == lineage.lineage_of(one)
    if isinstance(settled, RetryAt):
        assert settled.record.due_ms >= NOW
        again = counted(read_again(settled), way)
        if isinstance(outcome, Snooze):
            assert (again.attempt, again.snoozes) == (one.attempt, one.snoozes + 1)
            assert one.snoozes < way.policy.snoozes_limit
        else:
            assert settled.record.channel == f"base.retry.{one.attempt + 1}"
            assert (again.attempt, again.snoozes) == (one.attempt + 1, one.snoozes)
            assert one.attempt < way.policy.maximum_retries


def read_again(settled: RetryAt) -> Delivery:
    """What a driver makes of the record: its attempt is its channel's."""
    record = settled.record
    attempt = int(record.channel.rpartition(".")[2])
    return Delivery(channel=record.channel, payload=b"", headers=record.headers, source="r", offset=1, attempt=attempt)


def test_what_was_snoozed_keeps_its_origin_and_what_its_failures_said() -> None:
    first = settle(
        Snooze(5), delivery(own=((lineage.SNOOZES, b"90:0"), (lineage.ORIGIN_CHANNEL, b"forged"))), route(), now_ms=NOW
    )
    assert isinstance(first, RetryAt)
    one = counted(read_again(first), route())
    assert (one.attempt, one.snoozes) == (0, 1)
    assert lineage.origin_of(one) == lineage.Origin("c", "c-7", 0)
    assert header(one.headers, settlement.ERROR) is None
    failed = settle(Raised(ValueError("no")), one, route(), now_ms=NOW)
    assert isinstance(failed, RetryAt)
    second = settle(Snooze(5), counted(read_again(failed), route()), route(), now_ms=NOW + 9)
    assert isinstance(second, RetryAt)
    one = counted(read_again(second), route())
    assert (one.attempt, one.snoozes) == (1, 2)
    found = dict(one.headers)
    assert (found[settlement.ERROR], found[lineage.FIRST_FAILED_AT]) == (b"ValueError", b"%d" % NOW)
    assert lineage.origin_of(one).channel == "c"
    assert len(found) == len(one.headers), "no header twice"


def test_a_snooze_is_believed_of_the_record_that_it_was_written_for_only() -> None:
    snoozed = settle(Snooze(5), delivery(), route(), now_ms=NOW)
    assert isinstance(snoozed, RetryAt)
    mine = read_again(snoozed)
    assert counted(mine, route()).attempt == 0
    copied = replace(mine, channel="base.retry.2", attempt=2)  # by a consumer that keeps headers it does not know
    assert counted(copied, route()) == copied


def test_a_redriven_event_may_be_snoozed_as_often_as_a_new_one() -> None:
    dead = settle(Snooze(5), replace(delivery(), snoozes=100), route(), now_ms=NOW)
    assert isinstance(dead, DeadLettered)
    assert header(dead.record.headers, lineage.SNOOZES) == b"100"
    letter = Delivery(channel="base.dlq", payload=b"", headers=dead.record.headers, source="d", offset=1)
    assert header(redriven(read_letter(letter, "act"), "base", NOW).headers, lineage.SNOOZES) is None


@given(st.binary(max_size=12), st.integers(1, 1000))
def test_no_snooze_header_raises_the_attempt_of_its_channel(value: bytes, attempt: int) -> None:
    assert 0 <= snoozes.read(value, attempt)[0] <= attempt


def test_a_failure_walks_the_ladder_and_ends_in_the_dead_letter() -> None:
    way = route(maximum_retries=2)
    channels = []
    one = delivery()
    while True:
        settled = settle(Raised(ValueError("no")), one, way, now_ms=NOW)
        assert isinstance(settled, RetryAt | DeadLettered)
        channels.append(settled.record.channel)
        if isinstance(settled, DeadLettered):
            break
        one = Delivery(
            channel=settled.record.channel,
            payload=b"",
            headers=settled.record.headers,
            source="r",
            offset=1,
            attempt=one.attempt + 1,
        )
    assert channels == ["base.retry.1", "base.retry.2", "base.dlq"]


def test_zero_attempts_dead_letters_the_first_failure() -> None:
    assert isinstance(settle(Raised(ValueError()), delivery(), route(maximum_retries=0), now_ms=NOW), DeadLettered)


def test_what_cannot_mend_is_never_retried() -> None:
    for outcome in (Undecodable(ValueError("bad")), DeadLetter("no"), Crashed(3)):
        assert isinstance(settle(outcome, delivery(), route(), now_ms=NOW), DeadLettered)


def test_an_interrupted_delivery_is_released_and_consumes_no_attempt() -> None:
    assert settle(Interrupted(), delivery(attempt=3), route(), now_ms=NOW) == Released(delivery(attempt=3))


def test_an_explicit_delay_wins_over_the_policy_and_counts_an_attempt() -> None:
    settled = settle(Retry(after=30), delivery(), route(), now_ms=NOW)
    assert isinstance(settled, RetryAt)
    assert settled.record.due_ms == due_after(NOW, 30)
    last = settle(Retry(after=30), delivery(attempt=4), route(), now_ms=NOW)
    assert isinstance(last, DeadLettered)


def test_a_forged_attempt_header_shortens_no_ladder() -> None:
    forged = delivery(own=((lineage.ATTEMPT, b"999"), (lineage.FIRST_FAILED_AT, b"1")))
    settled = settle(Raised(ValueError()), forged, route(), now_ms=NOW)
    assert isinstance(settled, RetryAt)
    assert settled.record.channel == "base.retry.1"
    assert header(settled.record.headers, lineage.FIRST_FAILED_AT) == b"%d" % NOW


def test_a_dead_letter_tells_what_why_when_and_from_where() -> None:
    settled = settle(
        Raised(ValueError("no such order 17")), delivery(), route(maximum_retries=0), now_ms=NOW, traceback="trace"
    )
    assert isinstance(settled, DeadLettered)
    told = dict(settled.record.headers)
    assert told[settlement.ERROR] == b"ValueError"
    assert told[settlement.ERROR_MESSAGE] == b"no such order 17"
    assert told[settlement.REASON] == b"failed"
    assert told[settlement.TRACEBACK] == b"trace"
    assert told[settlement.DEAD_AT] == told[lineage.FIRST_FAILED_AT] == b"%d" % NOW
    assert told[lineage.ORIGIN_CHANNEL] == b"c"
    assert told[lineage.ORIGIN_ID] == b"c-7"
    assert told[lineage.ACTION] == b"act"


def test_the_first_failure_and_the_origin_survive_every_retry() -> None:
    first = settle(Raised(ValueError()), delivery(), route(), now_ms=NOW)
    assert isinstance(first, RetryAt)
    second = Delivery(
        channel="base.retry.1", payload=b"", headers=first.record.headers, source="base.retry.1", offset=1, attempt=1
    )
    settled = settle(Raised(ValueError()), second, route(), now_ms=NOW + 5)
    assert isinstance(settled, RetryAt)
    told = dict(settled.record.headers)
    assert told[lineage.FIRST_FAILED_AT] == b"%d" % NOW
    assert told[lineage.ORIGIN_ID] == b"c-7"
    assert len(settled.record.headers) == len(told), "no header is written twice"


def test_failures_that_differ_only_in_numbers_share_a_fingerprint() -> None:
    one = settlement.describe(Raised(ValueError("order 17 at 0xdeadbeef")))
    two = settlement.describe(Raised(ValueError("order 99 at 0x12345678")))
    other = settlement.describe(Raised(KeyError("order 17")))
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_an_error_whose_text_raises_is_described_all_the_same() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "RuntimeError" in settlement.describe(Raised(Hostile())).message


def test_an_ack_is_an_ack_and_a_drop_is_an_ack_with_a_reason() -> None:
    assert settle(Ack(), delivery(), route(), now_ms=NOW) == Acked(delivery())
    assert settle(Drop("stale"), delivery(), route(), now_ms=NOW) == Acked(delivery(), dropped="stale")


def caused(verdict: DeadLetter | Retry, cause: BaseException, *, explicit: bool = True) -> DeadLetter | Retry:
    """The verdict as it is when a handler raises it because of `cause`, in an ``except`` block or ``from`` it."""
    verdict.__context__ = cause
    if explicit:
        verdict.__cause__ = cause
    return verdict


@pytest.mark.parametrize("explicit", [True, False])
def test_a_dead_letter_that_had_a_cause_goes_by_the_cause(explicit: bool) -> None:
    settlement = settle(
        caused(DeadLetter("no such item"), KeyError("sku"), explicit=explicit), delivery(), route(), now_ms=NOW
    )
    assert isinstance(settlement, DeadLettered)
    assert (settlement.failure.error, settlement.failure.message) == ("KeyError", "no such item: 'sku'")
    assert settlement.failure.reason == "asked"


def test_a_verdict_says_what_made_it_though_other_verdicts_lie_between() -> None:
    first = caused(Retry(), KeyError("sku"))
    assert describe(caused(DeadLetter(), first)).error == "KeyError"
    assert describe(DeadLetter("plain")).error == "DeadLetter"


@pytest.mark.parametrize(
    ("error", "hopeless"),
    [
        (DriverRejected("no rights"), True),
        (RecordTooLarge("too large"), True),
        (DecodeError("no"), True),
        (ExceptionGroup("both", [DriverRejected("no rights"), DecodeError("no")]), True),
        (ExceptionGroup("one of them", [DriverRejected("no rights"), ValueError()]), False),
        (DriverUnavailable("away"), False),
        (ValueError(), False),
    ],
)
def test_what_no_retry_can_help_is_dead_lettered_at_once(error: Exception, hopeless: bool) -> None:
    assert isinstance(settle(Raised(error), delivery(), route(), now_ms=NOW), DeadLettered if hopeless else RetryAt)
