"""Dead letters that are too large for their broker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core import lineage
from hexa_worker.core.cutting import smaller
from hexa_worker.core.message import Delivery, Headers, header
from hexa_worker.core.outcome import Raised, Undecodable
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import CUT_CHANNEL, CUT_ID, CUT_SIZE, REFUSED, DeadLettered, RetryAt, Route, settle

ROUTE = Route(action="act", retry_base="act", policy=RetryPolicy(maximum_retries=1))


def delivery_of(payload: bytes, headers: Headers = (), key: bytes | None = b"k", attempt: int = 1) -> Delivery:
    return Delivery(
        channel="events", payload=payload, key=key, headers=headers, source="events-0", offset=7, attempt=attempt
    )


def dead(delivery: Delivery) -> DeadLettered:
    found = settle(Undecodable(ValueError("no")), delivery, ROUTE, now_ms=5)
    assert isinstance(found, DeadLettered)
    return found


def again(settlement: RetryAt | DeadLettered) -> DeadLettered:
    found = smaller(settlement, ROUTE, "too large", 9)
    assert found is not None
    return found


def test_a_retry_that_is_too_large_becomes_a_whole_dead_letter_of_the_same_failure() -> None:
    retry = settle(Raised(ValueError("no")), delivery_of(b"x" * 99, attempt=0), ROUTE, now_ms=5)
    assert isinstance(retry, RetryAt)
    letter = again(retry)
    assert (letter.record.channel, letter.record.payload) == ("act.dlq", b"x" * 99)
    assert letter.failure == retry.failure
    assert header(letter.record.headers, REFUSED) == b"too large"
    assert header(letter.record.headers, CUT_SIZE) is None, "it is whole"


def test_a_cut_dead_letter_says_how_large_the_whole_is_and_where_it_lies() -> None:
    letter = again(dead(delivery_of(b"x" * 3_000_000)))
    assert letter.record.payload == b"x" * 16_384
    assert header(letter.record.headers, CUT_SIZE) == b"3000000"
    assert header(letter.record.headers, CUT_CHANNEL) == b"events"
    assert header(letter.record.headers, CUT_ID) == b"events-0-7"
    assert letter.delivery.payload == b"x" * 3_000_000, "the original is what is acknowledged"


def test_too_many_headers_are_left_out_but_none_that_tells_the_story() -> None:
    many = tuple((f"h{number}", b"x" * 100) for number in range(5000))
    letter = again(dead(delivery_of(b"small", (*many, (lineage.EVENT_ID, b"me")))))
    assert letter.record.payload == b"small"
    assert len(letter.record.headers) < 50
    assert header(letter.record.headers, lineage.EVENT_ID) == b"me"


def test_nobody_outside_can_say_that_a_dead_letter_is_cut() -> None:
    letter = dead(delivery_of(b"whole", ((CUT_SIZE, b"9"), (CUT_ID, b"a"), (CUT_CHANNEL, b"b"), (REFUSED, b"c"))))
    assert not {CUT_SIZE, CUT_ID, CUT_CHANNEL, REFUSED} & dict(letter.record.headers).keys()


@given(
    payload=st.sampled_from([b"", b"x", b"x" * 100_000]),
    key=st.sampled_from([None, b"", b"k", b"k" * 100_000]),
    headers=st.lists(
        st.tuples(
            st.one_of(st.text(min_size=1), st.sampled_from([lineage.EVENT_ID, lineage.ROOT_ID, "hexa-x", CUT_SIZE])),
            st.sampled_from([b"", b"v", b"v" * 10_000]),
        ),
        max_size=60,
    ),
)
def test_whatever_it_is_it_becomes_small_in_two_steps_and_no_smaller(
    payload: bytes, key: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    letter = again(dead(delivery_of(payload, tuple(headers), key)))
    letter = smaller(letter, ROUTE, "too large", 9) or letter
    record = letter.record
    assert record.payload == b""
    assert sum(len(name) + len(value) for name, value in record.headers) + len(record.key or b"") < 24_000
    assert header(record.headers, CUT_SIZE) == b"%d" % len(payload)
    assert smaller(letter, ROUTE, "too large", 9) is None


@pytest.mark.parametrize("key", [None, b"", b"k"])
def test_a_key_that_is_no_trouble_stays(key: bytes | None) -> None:
    assert again(dead(delivery_of(b"x", key=key))).record.key == key
