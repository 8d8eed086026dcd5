"""When an event may be delivered: what an emitter may say, and what it may not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.event_times import due_ms

NOW = datetime(2026, 3, 29, 0, 59, 59, 500_000, tzinfo=UTC)
NOW_MS = 1_774_745_999_500
HOUR_MS = 3_600_000


def test_an_event_without_a_time_is_due_at_once() -> None:
    assert due_ms(None, None, NOW_MS) == 0


@pytest.mark.parametrize("after", [1.5, timedelta(seconds=1.5)])
def test_a_delay_is_counted_from_now_and_never_cut_short(after: Any) -> None:
    # The clock cuts its time to whole milliseconds: one more makes up for it.
    assert due_ms(after, None, NOW_MS) == NOW_MS + 1_501


def test_a_time_is_what_it_is_in_its_zone_also_across_a_change_to_summer_time() -> None:
    berlin = datetime(2026, 3, 29, 3, 0, tzinfo=ZoneInfo("Europe/Berlin"))  # an hour of clocks after 01:59:59
    assert due_ms(None, berlin, NOW_MS) == NOW_MS + 500
    assert due_ms(None, NOW + timedelta(hours=1), NOW_MS) == NOW_MS + HOUR_MS


@pytest.mark.parametrize("at", [NOW, NOW - timedelta(days=3650)])
def test_a_time_that_has_passed_is_now(at: datetime) -> None:
    assert due_ms(None, at, NOW_MS) == 0


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=300)), st.timezones())
def test_a_time_is_never_rounded_to_an_earlier_one(away: timedelta, zone: ZoneInfo) -> None:
    at = (NOW + away).astimezone(zone)
    due = due_ms(None, at, NOW_MS)
    assert datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=due) >= at
    assert datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=due - 1) < at


@pytest.mark.parametrize(
    ("after", "at", "why"),
    [
        (1, NOW, "not both"),
        (None, datetime(2026, 4, 1), "no time zone"),  # noqa: DTZ001 - what is refused
        (None, "tomorrow", "must be a datetime"),
        (-1, None, "0 or more"),
        (float("nan"), None, "0 or more"),
        (True, None, "must be seconds or a timedelta"),
        ("5", None, "must be seconds or a timedelta"),
        (timedelta(days=366), None, "366 days away; the limit is 365 days"),
        (None, NOW + timedelta(days=400), "400 days away; the limit is 365 days"),
    ],
)
def test_a_time_that_cannot_be_kept_is_refused(after: Any, at: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        due_ms(after, at, NOW_MS)
