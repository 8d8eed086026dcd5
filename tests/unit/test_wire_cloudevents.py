"""CloudEvents in both modes, against the official sdk."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.lineage import CORRELATION_ID, EVENT_ID, Lineage, child_headers, lineage_of, origin_headers
from hexa_worker.core.message import Delivery, Headers, Message, header
from hexa_worker.core.outcome import Raised
from hexa_worker.core.propagated import carried_headers
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import RetryAt, Route, settle
from hexa_worker.record_formats.convert import from_wire, to_wire
from hexa_worker.record_formats.form import Form

BINARY = Form("cloudevents", "kafka", "shop")
STRUCTURED = Form("cloudevents-structured", "kafka", "shop")
MODES = [BINARY, STRUCTURED]
FORMS = [
    Form(wire, driver, "shop")
    for wire in ("cloudevents", "cloudevents-structured")
    for driver in ("kafka", "nats", "pulsar")
]
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def emitted(payload: bytes = b'{"id":1}', *, own: Headers = (), key: bytes | None = b"ada") -> Message:
    said = carried_headers(correlation_id="cid-1", user=None, locale=None)
    headers = origin_headers("e1") + said + own
    return Message(channel="orders.created", payload=payload, key=key, headers=headers, timestamp_ms=1_795_412_214_239)


def again(message: Message, **place: Any) -> Delivery:
    fields = {name: getattr(message, name) for name in Message.__struct_fields__}
    somewhere: dict[str, Any] = {"source": f"{message.channel}-0", "offset": 0}
    return Delivery(**fields, **(somewhere | place))


def read_by_sdk(message: Message) -> Any:
    return from_kafka_event(KafkaMessage(headers=dict(message.headers), key=message.key, value=message.payload))


def written_by_sdk(mode: Form, data: Any, **more: Any) -> Delivery:
    attributes = {"id": "A-1", "source": "/their/shop", "type": "com.example.order", "specversion": "1.0"} | more
    event = CloudEvent(attributes=attributes, data=data)
    message = (to_binary_event if mode is BINARY else to_structured_event)(event)
    headers = tuple((name, value) for name, value in message.headers.items())
    key = message.key.encode() if isinstance(message.key, str) else message.key
    return again(Message(channel="orders", payload=message.value, key=key, headers=headers))


@pytest.mark.parametrize("form", MODES)
def test_the_official_sdk_reads_what_we_emit(form: Form) -> None:
    event = read_by_sdk(to_wire(emitted(own=(("traceparent", TRACE),)), form))
    assert (event.get_id(), event.get_source(), event.get_type()) == ("e1", "shop", "orders.created")
    assert event.get_specversion() == "1.0"
    assert event.get_data() == {"id": 1}
    assert event.get_datacontenttype() == "application/json"
    assert event.get_time() == datetime.fromtimestamp(1_795_412_214.239, UTC)
    assert event.get_extension("correlationid") == "cid-1"
    assert event.get_extension("traceparent") == TRACE.decode()


@pytest.mark.parametrize("form", MODES)
@pytest.mark.parametrize(("payload", "data"), [(b"\xff\x00", b"\xff\x00"), (b"gr\xc3\xbcn", "grün"), (b"[1]", [1])])
def test_the_official_sdk_reads_any_payload(form: Form, payload: bytes, data: Any) -> None:
    assert read_by_sdk(to_wire(emitted(payload), form)).get_data() == data


@pytest.mark.parametrize("mode", MODES)
def test_we_read_what_the_official_sdk_writes(mode: Form) -> None:
    delivery = written_by_sdk(
        mode,
        {"id": 1},
        subject="o/1",
        datacontenttype="application/json",
        correlationid="theirs",
        traceparent=TRACE.decode(),
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )
    found = from_wire(delivery, BINARY)
    assert json.loads(found.payload) == {"id": 1}
    assert lineage_of(found).event_id == "/their/shop#A-1"
    assert header(found.headers, CORRELATION_ID) == b"theirs"
    assert header(found.headers, "traceparent") == TRACE
    assert header(found.headers, "ce_subject") == b"o/1"
    assert header(found.headers, "content-type") == b"application/json"


@pytest.mark.parametrize("mode", MODES)
def test_a_foreign_event_leaves_as_it_came(mode: Form) -> None:
    delivery = written_by_sdk(mode, {"id": 1}, datacontenttype="application/json", correlationid="theirs")
    written = to_wire(from_wire(delivery, mode), mode)
    if mode is BINARY:
        assert dict(written.headers) == dict(delivery.headers)
        assert written.payload == delivery.payload
    else:
        assert json.loads(written.payload) == json.loads(delivery.payload)


@pytest.mark.parametrize("mode", MODES)
def test_a_retry_of_a_foreign_event_is_still_that_event(mode: Form) -> None:
    delivery = from_wire(written_by_sdk(mode, {"id": 1}, datacontenttype="application/json"), mode)
    route = Route(action="check", retry_base="check", policy=RetryPolicy())
    done = settle(Raised(ValueError("no")), delivery, route, now_ms=1)
    assert isinstance(done, RetryAt)
    record = to_wire(done.record, mode)
    event = read_by_sdk(record)
    assert (event.get_id(), event.get_source(), event.get_type()) == ("A-1", "/their/shop", "com.example.order")
    back = from_wire(again(record, attempt=1), mode)
    assert lineage_of(back) == lineage_of(delivery)
    assert header(back.headers, "hexa-error-message") == b"no"


def test_equal_ids_of_two_sources_are_two_events() -> None:
    ids = {lineage_of(from_wire(written_by_sdk(BINARY, None, source=name), BINARY)).event_id for name in ("/a", "/b c")}
    assert ids == {"/a#A-1", "%2Fb%20c%23A-1"}


def test_a_child_names_its_cause() -> None:
    message = Message(channel="x", payload=b"1", headers=child_headers("e2", Lineage("e1", "e0", None)))
    assert read_by_sdk(to_wire(message, BINARY)).get_extension("causationid") == "e1"
    assert lineage_of(from_wire(again(to_wire(message, BINARY)), BINARY)) == Lineage("e2", "e0", "e1")


def test_on_nats_attributes_are_percent_encoded() -> None:
    form = Form("cloudevents", "nats", "a shöp")
    written = to_wire(emitted(), form)
    headers = dict(written.headers)
    assert headers["ce-source"] == b"a%20sh%C3%B6p"
    assert headers["ce-datacontenttype"] == b"application/json"
    assert headers["ce-partitionkey"] == b"ada"
    found = from_wire(again(written), form)
    assert header(found.headers, "ce_source") == "a shöp".encode()


def test_on_nats_a_value_alone_is_an_event() -> None:
    value = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"id":1},"partitionkey":"ada"}'
    found = from_wire(again(Message(channel="orders", payload=value)), Form("cloudevents", "nats"))
    assert (found.payload, found.key) == (b'{"id":1}', b"ada")
    assert lineage_of(found).event_id == "/s#1"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"specversion":"1.0","id":"1","source":"/s"}',
        b'{"specversion":"1.0","id":"","source":"/s","type":"t"}',
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"*"}',
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":1}',
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":1}',
        b'{"a":' * 100_000,
        b"\xff",
    ],
)
def test_a_value_that_only_claims_to_be_an_event_stays_as_it_is(value: bytes) -> None:
    headers = (("content-type", b"application/cloudevents+json"),)
    delivery = again(Message(channel="orders", payload=value, headers=headers))
    assert from_wire(delivery, BINARY) is delivery


SAID = ("ce_id", "ce_source", "ce_type", "ce_specversion", "ce_time", "ce-id", "ce-datacontenttype", "content-type")
OURS = (EVENT_ID, CORRELATION_ID, "traceparent", "hexa-origin-channel", "hexa-parent-id")
NAMES = st.one_of(st.text(max_size=6), st.sampled_from([*SAID, *OURS]))
VALUES = st.one_of(st.binary(max_size=12), st.just(b"application/cloudevents+json"), st.just(b"text/plain"))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
MEMBERS = st.sampled_from(["specversion", "id", "source", "type", "data", "data_base64", "datacontenttype", "x"])


@given(
    HEADERS,
    st.binary() | st.dictionaries(MEMBERS, JSON).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(FORMS),
    st.none() | st.binary(),
)
def test_hostile_bytes_never_raise(headers: Headers, payload: bytes, form: Form, key: bytes | None) -> None:
    found = from_wire(again(Message(channel="orders", payload=payload, headers=headers, key=key)), form)
    lineage_of(from_wire(again(to_wire(found, form)), form))


@given(st.binary() | JSON.map(lambda value: json.dumps(value, indent=1).encode()), st.sampled_from(FORMS))
def test_payloads_come_back_byte_for_byte(payload: bytes, form: Form) -> None:
    own = (("x-own", b"\xfe"),)
    found = from_wire(again(to_wire(emitted(payload, own=own), form)), form)
    assert found.payload == payload
    assert lineage_of(found).event_id == "e1"
    assert header(found.headers, CORRELATION_ID) == b"cid-1"
    assert header(found.headers, "x-own") == b"\xfe"
    second = from_wire(again(to_wire(found, form)), form)
    assert (second.payload, set(second.headers)) == (payload, set(found.headers))
