"""What a log line looks like: one line whatever it holds, short, without secrets, with all that was said."""

import json
import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.telemetry.format import LOOKED_AT, MESSAGE_LIMIT, JsonFormatter, TextFormatter
from hexa_worker.telemetry.log import FIELDS, DeliveryLogger

TEXT = TextFormatter(None, colours=False)
JSON = JsonFormatter(1)

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=[]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def record(text: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("app", logging.INFO, "where.py", 7, text, arguments, None)
    made.__dict__.update(extra)
    return made


def as_json(one: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(JSON.format(one))
    return found


class Deep:
    """An object whose text has a secret."""

    def __str__(self) -> str:
        return "redis://u:hunter2@h"


@pytest.mark.parametrize("text", ["a." * 500_000 + "://", "x" * 1_000_000, "://a:b " * 150_000, "ä" * 3_000_000])
def test_a_long_line_is_cut_says_so_and_takes_a_moment(text: str) -> None:
    one = record("got %s", text, field=text, **{FIELDS: {"again": text}})
    began = time.process_time()
    for line in (TEXT.format(one), JSON.format(one)):
        assert len(line) < 4 * MESSAGE_LIMIT
        assert f"… (cut, {len(text) + 4:,} characters)" in line
    assert time.process_time() - began < 4.0  # 0.1 to 0.5 s; it was minutes


def test_a_login_at_the_cut_is_not_shown_in_part() -> None:
    for before in range(MESSAGE_LIMIT - 30, MESSAGE_LIMIT + 5):
        one = record(" " * before + "redis://user:hunter2@host")
        assert "hunter" not in TEXT.format(one)
    one = record("x" * (LOOKED_AT - 20) + "redis://user:hunter2@host")
    assert "hunter" not in JSON.format(one)


def test_what_any_logger_says_with_extra_is_kept_in_both_styles() -> None:
    one = record("paid", order=17, tags=["a", "b"], by={"who": "me"}, none=None)
    found = as_json(one)
    assert (found["order"], found["tags"], found["by"]) == (17, ["a", "b"], {"who": "me"})
    assert "none" not in found
    assert TEXT.format(one).endswith('INFO    paid order=17 tags="[\\"a\\",\\"b\\"]" by="{\\"who\\":\\"me\\"}"')


def test_extra_does_not_hide_what_a_line_is() -> None:
    found = as_json(record("paid", level="x", time="y", slot=9))
    assert (found["level"], found["slot"]) == ("info", 1)
    assert (found["extra_level"], found["extra_time"], found["extra_slot"]) == ("x", "y", 9)


def test_a_bound_loggers_own_fields_and_extra_stand_beside_each_other(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        DeliveryLogger(logging.getLogger("bound"), {"action": "do"}).info("x", extra={"order": 17})
    found = as_json(caplog.records[0])
    assert (found["action"], found["order"]) == ("do", 17)


def test_secrets_are_hidden_wherever_they_stand() -> None:
    url = "redis://u:hunter2@h"
    one = record("at %s", url, url=url, deep={"a": [url, {"b": url}], "password": "hunter2"}, token="hunter2", o=Deep())
    one.exc_info = (ValueError, ValueError(url), None)
    for line in (TEXT.format(one), JSON.format(one)):
        assert "hunter2" not in line
        assert line.count("redis://***@h") >= 5


class Textless:
    """An object that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_what_has_no_text_and_what_is_no_character_takes_no_line_with_it() -> None:
    one = record("\ud800 %s", "\udfff", bad=Textless(), huge=10**5_000, deep={"\ud800": b"\xff"}, good=1)
    for line in (TEXT.format(one), JSON.format(one)):
        line.encode()
        assert "Textless without a text: RuntimeError" in line
        assert "int without a text: ValueError" in line
    found = as_json(one)
    assert (found["message"], found["good"], found["deep"]) == ("\\ud800 \\udfff", 1, {"\\ud800": "b'\\xff'"})


@given(ANY_TEXT, st.dictionaries(ANY_TEXT, VALUES))
def test_anything_that_is_logged_is_one_line_of_json(text: str, extra: dict[str, Any]) -> None:
    one = record("%s", text, **{FIELDS: extra})
    line = JSON.format(one)
    assert "\n" not in line
    json.loads(line)
    assert TEXT.format(one).count("\n") == (1 + str(extra["traceback"]).count("\n") if extra.get("traceback") else 0)
