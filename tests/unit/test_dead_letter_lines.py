"""Dead letters as JSON lines: every byte comes back, and a bad line says what is wrong with it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.lineage import EVENT_ID
from hexa_worker.core.message import Delivery, Headers
from hexa_worker.core.settlement import DEAD_AT
from hexa_worker.dead_letters.dead_letter import read_letter
from hexa_worker.dead_letters.jsonl import identity, line_of, parse_line

BYTES = st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="replace"))
NAMES = st.sampled_from([EVENT_ID, DEAD_AT, "mine", "größe", "\udcff"])


def stored(payload: bytes, key: bytes | None = None, headers: Headers = ()) -> Delivery:
    return Delivery(channel="do.dlq", payload=payload, key=key, headers=headers, source="do.dlq", offset=3)


@given(BYTES, st.none() | BYTES, st.lists(st.tuples(NAMES, BYTES), max_size=5).map(tuple))
def test_every_byte_of_a_letter_comes_back(payload: bytes, key: bytes | None, headers: Headers) -> None:
    line = line_of(read_letter(stored(payload, key, headers), "do"))
    assert b"\n" not in line
    assert len(line) <= 1024 + 2 * (len(payload) + len(key or b"") + sum(len(value) for _, value in headers))
    action, record = parse_line(line)
    assert (action, record.payload, record.key, record.headers) == ("do", payload, key, headers)


def test_text_is_written_as_text_and_other_bytes_as_base64() -> None:
    line = msgspec.json.decode(line_of(read_letter(stored(b'{"id": 1}', b"\xff", (("a", b"\x00\x01"),)), "do")))
    assert (line["payload"], line["key"]) == ('{"id": 1}', {"base64": "/w=="})
    assert line["headers"] == [["a", {"base64": "AAE="}]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a dead letter"),
        (b'{"action": "do"}', "missing required field `payload`"),
        (b'{"action": "do", "payload": "x", "colour": 1}', "unknown field `colour`"),
        (b'{"action": "do", "payload": {"base64": "?"}}', "not base64"),
        (b'{"action": "do", "payload": "\xff"}', "not UTF-8: byte 30 is 0xff"),
        (b'{"action": "do", "payload": "x", "headers": [["a"]]}', "not a dead letter"),
        (b'{"action": "do", "payload": "x", "headers": ' + b"[" * 100_000, "not"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("`", ".")):
        parse_line(line)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_letter_or_a_bad_line(line: bytes) -> None:
    try:
        action, _ = parse_line(line)
    except ValueError as error:
        action = str(error)
    assert action


def test_a_letter_is_the_same_after_a_broker_that_reorders_or_adds_headers() -> None:
    headers = ((EVENT_ID, b"e-1"), (DEAD_AT, b"5"), ("mine", b"x"))
    name = identity(b"p", None, headers)
    assert name == identity(b"p", b"", (("_ctx_locale", b""), *reversed(headers)))
    assert name != identity(b"p", None, ((EVENT_ID, b"e-2"), *headers[1:]))
    assert name != identity(b"p", None, (headers[0], (DEAD_AT, b"6")))
    assert name != identity(b"q", None, headers)
