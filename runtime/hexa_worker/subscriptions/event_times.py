"""When an event may be delivered, and until when it is of use: from what an emitter says to milliseconds. Pure."""

import math
from datetime import UTC, datetime, timedelta

from hexa_worker.core.retry import MAX_DELAY_S, due_after
from hexa_worker.errors import ConfigError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def due_ms(after: float | timedelta | None, at: datetime | None, now_ms: int) -> int:
    """When an event may be delivered, milliseconds since the epoch; 0: at once.

    Args:
        after: how long from now, seconds or a timedelta.
        at: when; a time that has passed is now.
        now_ms: wall clock.

    Raises:
        ConfigError: both are given, `at` has no time zone, or it is further away than `MAX_DELAY_S`.
    """
    if after is not None and at is not None:
        raise ConfigError("an event has after or at, not both")
    if after is not None:
        seconds = _seconds("after", after)
        _check_far("after", seconds)
        due = due_after(now_ms, seconds)
    elif at is not None:
        due = _milliseconds(at)
        _check_far("at", (due - now_ms) / 1000)
    else:
        return 0
    return due if due > now_ms else 0


def expires_ms(expires_in: float | timedelta | None, from_ms: int) -> int:
    """When an event expires, milliseconds since the epoch; 0: never.

    Args:
        expires_in: how long it is of use, seconds or a timedelta.
        from_ms: when it may be delivered first.

    Raises:
        ConfigError: that is no duration, or a longer one than `MAX_DELAY_S`.
    """
    if expires_in is None:
        return 0
    seconds = _seconds("expires_in", expires_in)
    _check_far("expires_in", seconds)
    return due_after(from_ms, seconds)


def _milliseconds(at: object) -> int:
    if not isinstance(at, datetime):
        raise ConfigError(f"at must be a datetime, not {type(at).__name__}")
    if at.utcoffset() is None:
        raise ConfigError("at has no time zone", hint="say which: datetime.now(UTC), or tzinfo=ZoneInfo(…)")
    return -((_EPOCH - at) // _MS)


def _seconds(name: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"{name} must be 0 or more seconds, not {seconds}")
    return seconds


def _check_far(name: str, seconds: float) -> None:
    if seconds > MAX_DELAY_S:
        days = round(MAX_DELAY_S / 86_400)
        raise ConfigError(f"{name} is {seconds / 86_400:.0f} days away; the limit is {days} days")
