"""JSON lines: exact payloads, exact line numbers, flat memory, resumable."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.cli.jsonl import BATCH, CHUNK, LINE_OVERHEAD, BadLine, event_lines, parse_line
from hexa_worker.subscriptions.api import Event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def parse(line: bytes, channel: str | None = "work", max_payload: int = 1000) -> Event:
    return parse_line(line, 7, channel, max_payload)


@given(JSON, st.text(max_size=10), st.dictionaries(st.from_regex(r"[a-g]{1,8}", fullmatch=True), st.text(max_size=10)))
def test_an_event_keeps_what_its_line_says(payload: object, key: str, headers: dict[str, str]) -> None:
    line = msgspec.json.encode({"channel": "orders", "key": key, "headers": headers, "payload": payload})
    event = parse(line, max_payload=100_000)
    assert (event.channel, event.key, dict(event.headers)) == ("orders", key, headers)
    assert msgspec.json.decode(event.payload) == payload


def test_numbers_keep_their_text() -> None:
    assert parse(b'{"payload": {"amount": 1.000, "big": 123456789012345678901234567890}}').payload == (
        b'{"amount": 1.000, "big": 123456789012345678901234567890}'
    )


def test_a_line_may_name_its_own_channel_and_id() -> None:
    event = parse(b'{"channel": "other", "id": "e-1", "payload": null}')
    assert (event.channel, event.id, event.payload) == ("other", "e-1", b"null")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"[1]", "not an event"),
        (b'{"payload": 1} 2', "not JSON"),
        (b'{"payload": "\xff"}', "not UTF-8: byte 14 is 0xff"),
        (b'{"key": "a"}', "missing required field `payload`"),
        (b'{"payload": 1, "Key": "a"}', "unknown field `Key`"),
        (b'{"payload": 1, "key": 2}', "Expected `str | null`, got `int` - at `$.key`"),
        (b'{"payload": 1, "headers": {"a": 1}}', "Expected `str`, got `int`"),
        (b'{"payload": 1, "headers": {"Hexa-Root-Id": "x"}}', "reserved"),
        (b'{"payload": 1, "channel": ""}', "names no channel"),
        (b'{"payload": 1, "id": "two words"}', "visible ASCII"),
        (b'{"payload": "' + b"x" * 999 + b'"}', "over the broker's limit of 1,000"),
        (b'{"payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"payload": NaN}', "not JSON"),
    ],
)
def test_a_bad_line_says_its_number_and_what_is_wrong(line: bytes, reason: str) -> None:
    with pytest.raises(BadLine) as caught:
        parse(line)
    assert caught.value.number == 7
    assert reason in caught.value.reason


@given(st.binary(max_size=60))
def test_any_bytes_are_an_event_or_a_bad_line(line: bytes) -> None:
    try:
        event = parse(line)
    except BadLine as bad:
        found: int | bytes = bad.number
    else:
        found = event.payload
    assert found == 7 or isinstance(found, bytes)


def read_all(path: Path, first: int = 1, max_payload: int | None = None) -> tuple[list[int], BadLine | None, int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        reader = event_lines(descriptor, "work", max_payload, first)
        numbers: list[int] = []
        while (batch := reader.read_batch()) is not None:
            assert len(batch.items) == len(batch.numbers) <= BATCH
            numbers += batch.numbers
            if batch.bad is not None:
                return numbers, batch.bad, batch.read_to
        return numbers, None, reader.number
    finally:
        os.close(descriptor)


def test_blank_lines_count_but_are_no_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"payload": 1}\r\n\n  \n{"payload": 2}')
    assert read_all(path) == ([1, 4], None, 4)


def test_everything_before_a_bad_line_is_handed_over_and_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"payload": 1}\n' * 6999 + b"{\n" + b'{"payload": 2}\n' * 10)
    numbers, bad, read_to = read_all(path)
    assert numbers == list(range(1, 7000))
    assert bad is not None
    assert (bad.number, read_to) == (7000, 6999)


def test_a_resumed_reading_goes_on_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"{\n" * 99 + b'{"payload": 1}\n' * 3)
    assert read_all(path, first=100) == ([100, 101, 102], None, 102)


def test_lines_longer_than_a_chunk_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"payload": "' + b"x" * (2 * CHUNK) + b'"}\n{"payload": 2}\n')
    assert read_all(path) == ([1, 2], None, 2)


def test_an_endless_line_is_an_error_and_not_a_buffer(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        file.write(b'{"payload": 1}\n{"payload": "')
        file.truncate(LINE_OVERHEAD + 8 * CHUNK)
    numbers, bad, _ = read_all(path, max_payload=1000)
    assert numbers == [1]
    assert bad is not None
    assert (bad.number, "longer than" in bad.reason) == (2, True)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with suppress(OSError):
            os.close(descriptor)


def test_a_pipe_that_pauses_is_not_kept_waiting_for_a_full_batch(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    reader = event_lines(reading, "work", None)
    os.write(writing, b'{"payload": 1}\n{"payload": 2}\n{"pay')
    batch = reader.read_batch()
    assert batch is not None
    assert batch.numbers == [1, 2]
    os.write(writing, b'load": 3}\n')
    os.close(writing)
    rest = reader.read_batch()
    assert rest is not None
    assert rest.numbers == [3]
    assert reader.read_batch() is None
