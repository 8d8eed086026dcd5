"""hexa-event's form, against records that the Go library wrote and read on a real Kafka node."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.lineage import (
    ATTEMPT,
    CORRELATION_ID,
    EVENT_ID,
    Origin,
    child_headers,
    lineage_of,
    origin_headers,
    origin_of,
)
from hexa_worker.core.message import Delivery, Headers, Message, header
from hexa_worker.core.outcome import DeadLetter, Raised
from hexa_worker.core.propagated import (
    GUEST,
    REPLY_TO,
    USER,
    User,
    carried_from,
    carried_headers,
    read_user,
    user_bytes,
)
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DeadLettered, RetryAt, Route, settle
from hexa_worker.record_formats.convert import from_wire, to_wire
from hexa_worker.record_formats.form import Form

GOLDEN = Path(__file__).parents[1] / "golden" / "hexa-event-kafka.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
RECORDS = [line for line in LINES if "headers_hex" in line]
KAFKA = Form("hexa", "kafka")
ROUTE = Route(action="go-action", retry_base="go-action", policy=RetryPolicy(maximum_retries=2))
NEEDED = ("_ctx_correlation_id", "_ctx_locale", "_ctx_user", "_payload_encoder")


def golden(record: dict[str, Any]) -> Delivery:
    topic = record["topic"]
    return Delivery(
        channel=topic,
        payload=bytes.fromhex(record["value_hex"]),
        key=bytes.fromhex(record["key_hex"]) if record["key_hex"] is not None else None,
        headers=tuple((name, bytes.fromhex(value)) for name, value in record["headers_hex"]),
        timestamp_ms=record["timestamp_ms"],
        source=f"{topic}-{record['partition']}",
        offset=record["offset"],
        attempt=int(topic.rsplit(".", 1)[1]) if ".retry." in topic else 0,
    )


def name_of(record: dict[str, Any]) -> str:
    return f"{record['topic']}-{record['offset']}"


def read(record: dict[str, Any]) -> Delivery:
    return from_wire(golden(record), KAFKA, ladder=record["case"] in ("go-retry", "go-dlq"))


def of(case: str, topic: str, offset: int) -> dict[str, Any]:
    return next(one for one in RECORDS if (one["case"], one["topic"], one["offset"]) == (case, topic, offset))


def again(message: Message, **place: Any) -> Delivery:
    """A message as a broker hands it over."""
    fields = {name: getattr(message, name) for name in Message.__struct_fields__}
    somewhere: dict[str, Any] = {"source": f"{message.channel}-0", "offset": 0}
    return Delivery(**fields, **(somewhere | place))


def test_the_golden_file_holds_every_kind_of_record() -> None:
    assert {one["case"] for one in RECORDS} >= {"go-emit", "go-retry", "go-dlq", "py-emit"}


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_a_golden_record_decodes_and_encodes_to_equal_headers(record: dict[str, Any]) -> None:
    original = golden(record)
    written = to_wire(read(record), KAFKA)
    assert written.headers == original.headers
    assert (written.payload, written.key) == (original.payload, original.key)


@pytest.mark.parametrize("record", [one for one in RECORDS if one["case"] in ("go-retry", "go-dlq")], ids=name_of)
def test_a_record_of_gos_ladder_keeps_the_id_of_its_event(record: dict[str, Any]) -> None:
    assert lineage_of(read(record)).event_id == f"orders-0-{record['offset']}"


def test_correlation_id_user_and_locale_come_from_gos_headers() -> None:
    delivery = read(of("go-emit", "orders", 0))
    assert header(delivery.headers, CORRELATION_ID) == b"cid-1"
    assert read_user(header(delivery.headers, USER)) == User(
        type="_regular",
        identifier="u-42",
        email="ada@example.test",
        phone="+4912345",
        name="Ada Łovelace <&>",
        username="ada",
        is_active=True,
        roles=("admin", "ops"),
    )


def test_of_a_repeated_correlation_id_the_last_one_wins() -> None:
    assert header(read(of("py-emit", "from-py", 2)).headers, CORRELATION_ID) == b"second-wins"


@pytest.mark.parametrize("record", [one for one in RECORDS if one["case"] == "go-emit"], ids=name_of)
def test_a_user_is_written_as_go_writes_it(record: dict[str, Any]) -> None:
    value = header(golden(record).headers, USER)
    user = read_user(value)
    assert user is not None
    assert user_bytes(user) == value


def test_python_fails_what_go_emitted_and_go_takes_it_over() -> None:
    outcome = Raised(ValueError("no"))
    done = settle(outcome, read(of("go-emit", "orders", 1)), ROUTE, now_ms=2_000_000_000_000)
    assert isinstance(done, RetryAt)
    written = to_wire(done.record, KAFKA)
    gos = golden(of("go-retry", "go-action.retry.1", 1))
    assert written.channel == "go-action.retry.1"
    assert [pair for pair in written.headers if not pair[0].startswith("hexa-")] == list(gos.headers)
    assert written.timestamp_ms == 2_000_000_000_000


def test_python_goes_on_where_go_failed() -> None:
    second = settle(Raised(ValueError("no")), read(of("go-retry", "go-action.retry.1", 0)), ROUTE, now_ms=1)
    assert isinstance(second, RetryAt)
    assert second.record.channel == "go-action.retry.2"
    back = from_wire(again(to_wire(second.record, KAFKA), attempt=2), KAFKA)
    assert lineage_of(back).event_id == "orders-0-0"
    assert header(back.headers, "hexa-origin-channel") == b"orders"
    last = settle(Raised(ValueError("no")), back, ROUTE, now_ms=2)
    assert isinstance(last, DeadLettered)
    letter = to_wire(last.record, KAFKA)
    gos = golden(of("go-dlq", "go-action.dlq", 0))
    assert [pair for pair in letter.headers if not pair[0].startswith("hexa-")] == list(gos.headers)


def test_an_event_with_an_id_of_its_own_keeps_it_and_go_knows_its_place() -> None:
    emitted = to_wire(Message(channel="orders", payload=b"1", headers=origin_headers("mine")), KAFKA)
    first = from_wire(again(emitted, source="orders-0", offset=7), KAFKA)
    done = settle(DeadLetter("no"), first, ROUTE, now_ms=1)
    assert isinstance(done, DeadLettered)
    letter = to_wire(done.record, KAFKA)
    assert header(letter.headers, "HEXA_ROOT_EVENT_ID") == b"orders-0-7"
    assert lineage_of(from_wire(again(letter), KAFKA, ladder=True)).event_id == "mine"


def test_what_is_emitted_has_all_that_a_go_consumer_needs() -> None:
    parent = lineage_of(read(of("go-emit", "orders", 0)))
    message = Message(channel="x", payload=b"{}", headers=child_headers("child", parent))
    headers = dict(to_wire(message, KAFKA).headers)
    assert headers["_ctx_correlation_id"] == b"orders-0-0"
    assert (headers["_ctx_locale"], headers["_reply_channel"], headers["_payload_encoder"]) == (b"", b"", b"json")
    assert json.loads(headers["_ctx_user"]) == json.loads(GUEST)
    assert header(golden(of("go-emit", "orders", 1)).headers, USER) == GUEST


def test_what_an_application_says_goes_into_gos_headers() -> None:
    user = User(type="_service", identifier="svc-7", name="billing", username="b", is_active=True, roles=("svc",))
    said = carried_headers(correlation_id="cid", user=user, locale="de")
    headers = to_wire(Message(channel="x", payload=b"{}", headers=origin_headers("e") + said), KAFKA).headers
    assert dict(headers)["_ctx_correlation_id"] == b"cid"
    assert dict(headers)["_ctx_locale"] == b"de"
    assert read_user(dict(headers)["_ctx_user"]) == user
    assert CORRELATION_ID not in dict(headers)
    assert len(headers) == len(dict(headers))


def test_a_root_id_on_a_first_record_is_no_more_than_a_claim() -> None:
    forged = again(Message(channel="orders", payload=b"", headers=(("HEXA_ROOT_EVENT_ID", b"orders-0-1"),)), offset=9)
    delivery = from_wire(forged, KAFKA)
    assert lineage_of(delivery).event_id == "orders-0-9"
    done = settle(Raised(ValueError()), delivery, ROUTE, now_ms=1)
    assert isinstance(done, RetryAt)
    assert header(to_wire(done.record, KAFKA).headers, "HEXA_ROOT_EVENT_ID") == b"orders-0-9"


def test_a_record_without_headers_is_a_plain_producers() -> None:
    delivery = again(Message(channel="orders", payload=b"\xff"))
    assert from_wire(delivery, KAFKA) is delivery


@pytest.mark.parametrize("line", [one for one in LINES if one["case"] == "go-raw-value"], ids=lambda one: one["user"])
@pytest.mark.parametrize("driver", ["nats", "pulsar"])
def test_a_golden_value_of_pulsar_and_nats_is_read_and_written_again(line: dict[str, Any], driver: str) -> None:
    value = line["text"]["value"].encode()
    form = Form("hexa", driver)
    delivery = from_wire(again(Message(channel="orders", payload=value)), form)
    assert json.loads(delivery.payload) == {"id": 0, "customer": "ada", "amount": 12.5}
    assert header(delivery.headers, CORRELATION_ID) == b"cid-1"
    assert read_user(header(delivery.headers, USER)) is not None
    written = to_wire(delivery, form)
    assert written.payload == value
    assert written.headers == ()


def test_in_a_value_our_control_headers_stay_the_brokers() -> None:
    message = Message(channel="orders", payload=b"\x00\xff", headers=(*origin_headers("e1"), ("own", b"\xfe")))
    written = to_wire(message, Form("hexa", "nats"))
    assert written.headers == origin_headers("e1")
    value = json.loads(written.payload)
    assert base64.b64decode(value["payload"]) == b"\x00\xff"
    assert base64.b64decode(value["header"]["own"]) == b"\xfe"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"{}",
        b'{"header":null}',
        b'{"header":{},"payload":"*"}',
        b'{"header":{"a":1},"payload":""}',
        b'{"header":{"a":"="},"payload":""}',
        b'{"header":{},"payload":"","more":1}',
        b'{"header":' * 100_000,
        b'{"header":{"\xff":""},"payload":""}',
    ],
)
def test_a_value_that_is_not_gos_stays_as_it_is(value: bytes) -> None:
    delivery = again(Message(channel="orders", payload=value))
    assert from_wire(delivery, Form("hexa", "pulsar")) is delivery


OTHERS = (
    *("_reply_channel", "HEXA_ROOT_EVENT_ID", "HEXA_ROOT_EVENT_HANDLER_ACTION_NAME", "traceparent"),
    *(EVENT_ID, ATTEMPT, CORRELATION_ID, "hexa-origin-id", "hexa-root-id"),
)
NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from([*NEEDED, *OTHERS]),
)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=8).map(tuple)


@given(HEADERS, st.binary(), st.integers(0, 3), st.sampled_from(["kafka", "nats", "pulsar"]))
def test_hostile_bytes_never_raise(headers: Headers, payload: bytes, attempt: int, driver: str) -> None:
    form = Form("hexa", driver)
    delivery = again(Message(channel="orders", payload=payload, headers=headers), attempt=attempt)
    read_back = from_wire(delivery, form)
    written = to_wire(read_back, form)
    lineage_of(from_wire(again(written, attempt=attempt), form))
    if driver == "kafka":
        assert set(dict(written.headers)) >= set(NEEDED)


OWN = st.lists(
    st.tuples(
        st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith(("hexa-", "_", "HEXA"))),
        st.binary(max_size=20),
    ),
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(tuple)


@given(OWN, st.binary(), st.text(max_size=10), st.sampled_from(["kafka", "nats", "pulsar"]))
def test_what_is_emitted_is_read_as_it_was(own: Headers, payload: bytes, correlation: str, driver: str) -> None:
    form = Form("hexa", driver)
    said = carried_headers(correlation_id=correlation, user=None, locale=None)
    message = Message(channel="orders", payload=payload, headers=origin_headers("e1") + said + own)
    delivery = from_wire(again(to_wire(message, form)), form)
    assert delivery.payload == payload
    assert lineage_of(delivery).event_id == "e1"
    assert header(delivery.headers, CORRELATION_ID) == (correlation.encode() or b"e1")
    assert {pair for pair in delivery.headers if pair[0] in dict(own)} == set(own)


@given(st.builds(User, email=st.text(), name=st.text(), roles=st.lists(st.text()).map(tuple), is_active=st.booleans()))
def test_any_user_survives_and_says_all_eight_keys_in_order(user: User) -> None:
    value = user_bytes(user)
    assert read_user(value) == user
    assert list(json.loads(value)) == sorted(json.loads(value))
    assert len(json.loads(value)) == 8
    assert not {b"<", b">", b"&"} & {bytes([byte]) for byte in value}


@given(st.binary())
def test_any_bytes_are_a_user_or_none(value: bytes) -> None:
    found = read_user(value)
    assert found is None or isinstance(found, User)


ONLY_PART = b'{"_user_identifier":"u-1","_user_is_active":true}'


@pytest.mark.parametrize(
    ("foreign", "identifier"),
    [
        (b"junk", "_guest_id"),
        (b"null", "_guest_id"),
        (b"", "_guest_id"),
        (b"[]", "_guest_id"),
        (b'{"_user_identifier":7}', "_guest_id"),
        (GUEST.replace(b"[]", b"null"), "_guest_id"),
        (b"[" * 100_000, "_guest_id"),
        (ONLY_PART, "u-1"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("driver", ["kafka", "nats", "pulsar"])
def test_what_go_would_not_read_as_a_user_is_not_handed_on(foreign: bytes, identifier: str, driver: str) -> None:
    form = Form("hexa", driver)
    carried = carried_from(((USER, foreign),))
    child = to_wire(Message(channel="x", payload=b"{}", headers=(*origin_headers("child"), *carried)), form)
    value = header(from_wire(again(child), form).headers, USER)
    assert value is not None
    said = json.loads(value)
    assert set(said) == set(json.loads(GUEST))
    assert said["_user_identifier"] == identifier
    assert said["_user_roles"] == []


def test_a_retry_names_its_group_as_go_does() -> None:
    done = settle(Raised(ValueError("no")), read(of("go-emit", "orders", 1)), ROUTE, now_ms=1)
    assert isinstance(done, RetryAt)
    written = to_wire(done.record, Form("hexa", "kafka", group="the-group"))
    assert header(written.headers, "HEXA_ROOT_EVENT_HANDLER_ACTION_NAME") == b"the-group"
    assert header(written.headers, "hexa-action") == ROUTE.action.encode()


def test_a_retry_that_go_wrote_tells_where_its_event_was_emitted() -> None:
    assert origin_of(read(of("go-retry", "go-action.retry.1", 0))) == Origin("orders", "orders-0-0", 0)


def test_where_an_answer_is_expected_is_told_in_gos_header_once() -> None:
    message = Message(channel="c", payload=b"1", headers=(*origin_headers("e"), (REPLY_TO, b"answers")))
    written = to_wire(message, KAFKA)
    assert [value for name, value in written.headers if name == "_reply_channel"] == [b"answers"]
    assert header(from_wire(again(written), KAFKA).headers, REPLY_TO) == b"answers"
