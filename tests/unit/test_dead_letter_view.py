"""Drawing dead letters: payloads byte for byte, nothing that a terminal would obey."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.cli.dead_letter_view import brief, payload_lines, show_human, whole
from hexa_worker.cli.init import project_name
from hexa_worker.cli.terminal import clean, iso, local, plural
from hexa_worker.config.model import Name
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import ERROR_MESSAGE
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter, read_letter


def letter(payload: bytes = b"{}", message: bytes = b"", key: bytes | None = None) -> StoredDeadLetter:
    headers = ((ERROR_MESSAGE, message), ("mine", b"\x1b[2J"))
    return read_letter(
        Delivery(channel="do.dlq", payload=payload, key=key, headers=headers, source="do.dlq", offset=0), "do"
    )


@given(st.binary(max_size=200))
def test_a_payload_that_is_no_json_is_dumped_byte_for_byte(payload: bytes) -> None:
    try:
        payload.decode()
        msgspec.json.decode(payload)
    except (UnicodeDecodeError, msgspec.DecodeError):
        lines = list(payload_lines(payload))
        assert b"".join(bytes.fromhex(line[10:57].strip()) for line in lines) == payload
        assert all(line.isascii() and line.isprintable() for line in lines)


def test_a_json_payload_is_indented_and_keeps_its_numbers() -> None:
    assert list(payload_lines(b'{"a":1.000}')) == ["{", '  "a": 1.000', "}"]


@given(st.text(), st.binary(max_size=50), st.binary(max_size=10))
def test_machines_get_json_whatever_the_letter_holds(message: str, payload: bytes, key: bytes) -> None:
    one = letter(payload, message.encode(errors="replace"), key)
    assert msgspec.json.decode(msgspec.json.encode(brief(one)))["key"] == key.decode(errors="replace")
    assert msgspec.json.decode(msgspec.json.encode(whole(one, with_payload=True)))["id"] == "do.dlq-0"


def test_nothing_in_a_letter_can_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_human(letter(b"\x1b[31m", b"\x1b]0;owned\x07", b"\x1b[A"), with_payload=True)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b]0;owned" in out


@given(st.text())
def test_clean_text_has_no_control_characters_but_tabs_and_newlines(text: str) -> None:
    assert all(letter in "\t\n" or not 0 <= ord(letter) < 32 for letter in clean(text))


@given(st.integers(-(10**20), 10**20))
def test_any_number_is_a_time_or_none(at_ms: int) -> None:
    assert local(at_ms)
    assert iso(at_ms) is None or str(iso(at_ms)).endswith("Z")


def test_times_for_machines_are_utc_to_the_millisecond() -> None:
    assert iso(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"


@given(st.text(max_size=300))
def test_any_folder_gives_a_name_that_worker_toml_takes(folder: str) -> None:
    name = project_name(folder)
    assert msgspec.convert(name, Name) == name


def test_nouns_are_counted() -> None:
    assert [plural(1, "event"), plural(0, "event"), plural(2000, "event")] == ["1 event", "0 events", "2,000 events"]
