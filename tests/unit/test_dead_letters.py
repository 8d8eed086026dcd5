"""Dead letters as values: whatever is in a dead-letter channel can be read, chosen and sent round again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.lineage import EVENT_ID, ROOT_ID, lineage_of
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.outcome import Outcome, Raised, Retry, Undecodable
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DEAD_AT, ERROR, FAILURE_HEADERS, DeadLettered, Route, settle
from hexa_worker.dead_letters.dead_letter import REDRIVEN_FROM, StoredDeadLetter, read_letter, redriven
from hexa_worker.dead_letters.filters import Filters, count_into
from hexa_worker.dead_letters.parse import parse_duration, parse_rate

NAMES = st.sampled_from([EVENT_ID, ROOT_ID, ERROR, DEAD_AT, REDRIVEN_FROM, "hexa-attempt", "mine", "hexa-origin-id"])
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=30)), max_size=8).map(tuple)


def stored(headers: Headers = (), offset: int = 17, payload: bytes = b"{}") -> Delivery:
    """A record as a dead-letter channel holds it."""
    return Delivery(
        channel="do.dlq", payload=payload, key=b"k", headers=headers, timestamp_ms=5_000, source="do.dlq", offset=offset
    )


def died(outcome: Outcome, attempt: int = 0, retries: int = 0) -> StoredDeadLetter:
    """The letter that the runtime itself writes."""
    delivery = Delivery(
        channel="work" if not attempt else f"do.retry.{attempt}",
        payload=b'{"n": 1}',
        key=b"k",
        headers=((EVENT_ID, b"e-1"), (ROOT_ID, b"r-1"), ("mine", b"\xff")),
        source="work-3",
        offset=9,
        attempt=attempt,
    )
    route = Route(action="do", retry_base="do", policy=RetryPolicy(maximum_retries=retries))
    settlement = settle(outcome, delivery, route, now_ms=5_000)
    assert isinstance(settlement, DeadLettered)
    return read_letter(stored(settlement.record.headers, payload=settlement.record.payload), "do")


def test_a_letter_says_where_it_came_from_and_why_it_died() -> None:
    letter = died(Raised(ValueError("no\nstock")))
    assert letter.id == "do.dlq-17"
    assert (letter.event_id, letter.root_id) == ("e-1", "r-1")
    assert (letter.channel, letter.origin_id) == ("work", "work-3-9")
    assert (letter.error, letter.reason, letter.attempts) == ("ValueError: no stock", "failed", 1)
    assert letter.dead_at_ms == letter.first_failed_at_ms == 5_000
    assert letter.user_headers == (("mine", b"\xff"),)


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_attempts_count_every_delivery(retries: int) -> None:
    assert died(Retry(), attempt=retries, retries=retries).attempts == retries + 1
    assert died(Undecodable(ValueError("?")), retries=retries).attempts == 1


@given(HEADERS, st.binary(max_size=20))
def test_any_record_is_a_letter_and_can_be_sent_round_again(headers: Headers, payload: bytes) -> None:
    delivery = stored(headers, payload=payload)
    letter = read_letter(delivery, "do")
    message = redriven(letter, "do", now_ms=9_000)
    assert message.channel == "do.retry.1"
    assert (message.payload, message.key) == (payload, b"k")
    assert message.due_ms == 9_000
    assert not FAILURE_HEADERS & {name for name, _ in message.headers}
    assert header(message.headers, REDRIVEN_FROM) == b"do.dlq-17"
    again = Delivery(**{**{f: getattr(message, f) for f in message.__struct_fields__}, "source": "x", "offset": 1})
    assert lineage_of(again) == lineage_of(delivery)
    assert [pair for pair in message.headers if pair[0] == "mine"] == [pair for pair in headers if pair[0] == "mine"]


def test_a_redriven_letter_that_dies_again_remembers_its_first_failure_and_its_redrive() -> None:
    message = redriven(died(Raised(ValueError())), "do", now_ms=9_000)
    delivery = Delivery(
        channel=message.channel, payload=b"", headers=message.headers, source="do.retry.1", offset=1, attempt=1
    )
    settlement = settle(
        Raised(KeyError()),
        delivery,
        Route(action="do", retry_base="do", policy=RetryPolicy(maximum_retries=1)),
        now_ms=9_500,
    )
    assert isinstance(settlement, DeadLettered)
    letter = read_letter(stored(settlement.record.headers, offset=18), "do")
    assert (letter.first_failed_at_ms, letter.dead_at_ms, letter.redriven_from) == (5_000, 9_500, "do.dlq-17")
    assert (letter.channel, letter.root_id, letter.attempts) == ("work", "r-1", 2)


@pytest.mark.parametrize(
    ("filters", "meant"),
    [
        (Filters(), True),
        (Filters(action="do", error="ValueError", reason="failed", root_id="r-1"), True),
        (Filters(root_id="e-1"), True),
        (Filters(error="KeyError"), False),
        (Filters(reason="timeout"), False),
        (Filters(action="other"), False),
        (Filters(older_than_ms=1_000), True),
        (Filters(older_than_ms=2_000), False),
        (Filters(newer_than_ms=2_001), True),
        (Filters(newer_than_ms=2_000), False),
        (Filters(ids=frozenset({"do.dlq-17"})), True),
        (Filters(ids=frozenset({"do.dlq-1"})), False),
    ],
)
def test_filters_let_pass_what_matches_all_of_them(filters: Filters, meant: bool) -> None:
    assert filters.match(died(Raised(ValueError("x"))), now_ms=7_000) is meant


def test_letters_that_look_alike_are_counted_together() -> None:
    groups: dict[tuple[str, str], object] = {}
    for number in range(5):
        count_into(groups, died(Raised(ValueError(f"order {number} is bad"))))  # type: ignore[arg-type]
    count_into(groups, died(Raised(KeyError("order 1 is bad"))))  # type: ignore[arg-type]
    assert sorted(group.count for group in groups.values()) == [1, 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2h", 7200), ("1h30m", 5400), ("7d", 604_800), ("250ms", 0.25), ("12", 12), ("1.5h", 5400)],
)
def test_durations_are_written_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "2 parsecs", "-1h", "1h?", "1e9s", "nan"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


def test_rates_are_per_second_or_per_minute() -> None:
    assert [parse_rate(text) for text in ("50/s", "600/m", "0.5")] == pytest.approx([50, 10, 0.5])
    for text in ("0", "-1/s", "fast", "5/x", "inf", "nan"):
        with pytest.raises(ValueError, match="is no rate"):
            parse_rate(text)
