"""What makes two deliveries the same effect."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.config.load import parse_config
from hexa_worker.core import lineage
from hexa_worker.core.idempotency import SHOWN_LIMIT, by_event, by_field, by_header
from hexa_worker.core.message import Delivery, Headers
from hexa_worker.core.outcome import Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import RetryAt, Route, settle
from hexa_worker.errors import ConfigError

ROUTE = Route(action="act", retry_base="act", policy=RetryPolicy())


def delivery(payload: bytes = b"{}", headers: Headers = (), offset: int = 18, **more: Any) -> Delivery:
    source = more.pop("source", "orders-3")
    return Delivery(channel="orders", payload=payload, headers=headers, source=source, offset=offset, **more)


def retry_of(one: Delivery) -> Delivery:
    settlement = settle(Raised(ValueError()), one, ROUTE, now_ms=1)
    assert isinstance(settlement, RetryAt)
    record = settlement.record
    return delivery(record.payload, record.headers, 77, attempt=one.attempt + 1)


event_ids = st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)


@given(
    event_id=event_ids,
    payload=st.binary(),
    source=st.text(min_size=1, max_size=300),
    at_ms=st.integers(-1, 3) | st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_every_retry_names_the_effect_of_its_first_attempt(
    event_id: str | None, payload: bytes, source: str, at_ms: int
) -> None:
    headers = () if event_id is None else ((lineage.EVENT_ID, event_id.encode()),)
    source = source if source.isprintable() and source.isascii() else "orders-3"
    first = delivery(payload, headers, source=source, timestamp_ms=at_ms)
    second = retry_of(first)
    assert by_event(first) == by_event(second) == by_event(retry_of(second))


def test_a_forged_id_does_not_suppress_the_record_at_that_place() -> None:
    forged = delivery(headers=((lineage.EVENT_ID, b"orders-3-18"),), offset=5)
    assert by_event(forged) != by_event(delivery())


def test_a_place_that_is_used_again_for_something_else_is_another_effect() -> None:
    assert by_event(delivery(b"old")) != by_event(delivery(b"new"))


def test_a_place_that_is_used_again_later_is_another_effect_though_the_payload_is_the_same() -> None:
    old, new = delivery(timestamp_ms=1_795_000_000_000), delivery(timestamp_ms=1_795_000_000_001)
    assert len({by_event(one) for one in (old, new, retry_of(old), retry_of(new))}) == 2
    assert by_event(old) == by_event(retry_of(old))


def test_a_first_record_that_claims_to_be_redriven_is_still_its_event() -> None:
    ids = ((lineage.EVENT_ID, b"event-1"),)
    forged = delivery(headers=(*ids, (lineage.REDRIVEN_FROM, b"x")))
    assert by_event(forged) == by_event(delivery(headers=ids))


def test_each_redrive_is_an_effect_of_its_own_and_its_retries_belong_to_it() -> None:
    ids = ((lineage.EVENT_ID, b"event-1"),)
    one = delivery(headers=(*ids, (lineage.REDRIVEN_FROM, b"act.dlq-1")), attempt=1)
    two = delivery(headers=(*ids, (lineage.REDRIVEN_FROM, b"act.dlq-2")), attempt=1)
    assert len({by_event(delivery(headers=ids)), by_event(one), by_event(two)}) == 3
    assert by_event(one) == by_event(retry_of(one))


def test_a_header_names_the_effect_and_without_it_the_event_does() -> None:
    key = by_header("idem")
    one = delivery(headers=((lineage.EVENT_ID, b"a"), ("idem", b"7")))
    two = delivery(headers=((lineage.EVENT_ID, b"b"), ("idem", b"7")))
    assert key(one) == key(two) == key(retry_of(one))
    assert key(delivery()) == by_event(delivery())
    assert key(delivery(headers=(("idem", b""),))) == by_event(delivery(headers=(("idem", b""),)))


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_field_of_the_payload_names_the_effect(codec: str) -> None:
    encode = msgspec.json.encode if codec == "json" else msgspec.msgpack.encode
    key = by_field("order.id", codec)
    one, two = (delivery(encode({"order": {"id": "A7", "n": n}}), offset=n) for n in (1, 2))
    assert key(one) == key(two)
    assert key(one) != key(delivery(encode({"order": {"id": "A8"}})))


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@given(payload=st.binary() | st.sampled_from([b"{}", b'{"id":null}', b"[1]", b'{"id":""}', b"[" * 100_000]))
def test_without_the_field_the_event_names_the_effect(codec: str, payload: bytes) -> None:
    one = delivery(payload)
    assert by_field("id", codec)(one) == by_event(one)


@given(value=st.binary(min_size=1, max_size=1000))
def test_a_name_is_short_and_printable_whatever_the_header_holds(value: bytes) -> None:
    key = by_header("idem")(delivery(headers=(("idem", value),)))
    assert len(key) <= SHOWN_LIMIT + 2
    assert key.isprintable()
    assert key.isascii()


HEAD = '[worker]\nname = "w"\nhandlers = ["h"]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[dedup]\nstore = "redis"', "needs a url"),
        ('[dedup]\nstore = "redis"\nurl = "http://u:pw-77@x"', "redis://"),
        ('[dedup]\nstore = "redis"\nurl = "redis://x"\ntls = {}', "rediss://"),
        ("[dedup]\nlease_s = 0", "lease_s"),
        ('[dedup]\nstore = "redis"\nsentinels = ["host"]', "sentinels"),
        ('[dedup]\nstore = "redis"\nsentinels = ["u:pw-77@h:1"]', "sentinels"),
        ('[dedup]\nstore = "redis"\nsentinels = ["h:1"]\ncluster = true', "a cluster has no sentinels"),
        ('[subscriptions.a]\nidempotency_key = "id"', "header:NAME"),
        ('[subscriptions.a]\nidempotency_key = "payload:id"\ncodec = "raw"', "codec"),
        ('[subscriptions.a]\nidempotency_key = "payload:a..b"', "no field"),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(text: str, says: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + text, tmp_path / "worker.toml")
    assert says in str(caught.value)
    assert "pw-77" not in str(caught.value)
