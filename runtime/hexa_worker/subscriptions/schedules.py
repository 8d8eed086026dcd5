"""Handlers that run by the clock: `every` and `cron`. The decorators only mark, as `subscribe` does.

When a schedule is due is a pure function of the schedule, so all processes agree on it without talking.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from hexa_worker.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
SCHEDULE_MARK = "__hexa_worker_schedule__"
Missed = Literal["run_once", "skip"]
MISSED = ("run_once", "skip")
SHORTEST_MS = 1_000
LONGEST_MS = 365 * 24 * 3_600_000
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_INTERVAL = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler of `every` or `cron` gets.

    Attributes:
        due: the time it runs for, in UTC.
        missed: it runs so late because nobody ran then; others may have been missed, too.
    """

    due: datetime
    missed: bool = False


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a handler runs.

    Attributes:
        text: names it; two schedules with one text are due at the same times.
        missed: what becomes of times at which nobody ran.
        action: the subscription's name; None: the function's.
        interval_ms: of `every`; 0: a cron expression.
        expression: of `cron`.
        zone: the time zone that the expression is meant in.
    """

    text: str
    missed: Missed
    action: str | None = None
    interval_ms: int = 0
    expression: str = ""
    zone: str = "UTC"

    def next_after(self, at_ms: int) -> int:
        """The first time after `at_ms` that it is due, both in milliseconds since the epoch."""
        if self.interval_ms:
            return (at_ms // self.interval_ms + 1) * self.interval_ms
        from cronsim import CronSim  # noqa: PLC0415 - only where there is a cron expression

        start = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(self.zone))
        return round(next(CronSim(self.expression, start)).timestamp() * 1000)


def every(
    interval: str | float | timedelta, *, missed: Missed = "run_once", action: str | None = None
) -> Callable[[F], F]:
    """Mark a function that runs again and again; it takes a `Tick`.

    Of all processes that share the broker and the worker's name one runs it each time.

    Args:
        interval: ``"30s"``, ``"15m"``, ``"1.5h"``, ``"1d"``, seconds, or a timedelta; at least a second. It is due at
            the multiples of this since 1970 (UTC): ``"15m"`` at each quarter of an hour.
        missed: what happens when nobody ran at a time it was due: ``run_once`` runs it once, late, ``skip`` waits for
            the next time. What is at most a minute late does not count as missed: each such time is made up for.
        action: the subscription's name, unique in a worker; default: the function's name with ``-`` for ``_``.

    Raises:
        ConfigError: that is no interval.
    """
    interval_ms = _interval_ms(interval)
    if not SHORTEST_MS <= interval_ms <= LONGEST_MS:
        raise ConfigError(f"@every({interval!r}): an interval is from 1 s to 365 days")
    return _marking(Schedule(text=f"every {interval_ms} ms", missed=missed, action=action, interval_ms=interval_ms))


def cron(
    expression: str, *, timezone: str = "UTC", missed: Missed = "run_once", action: str | None = None
) -> Callable[[F], F]:
    """Mark a function that runs by a cron expression; it takes a `Tick`. See `every`.

    Args:
        expression: minute, hour, day of the month, month, day of the week: ``"0 3 * * *"``.
        timezone: whose clock it is meant by: ``"Europe/Berlin"``. A time that the change to summer time leaves out is
            due right after the change; one that comes twice in autumn is due once. Expressions with ``*`` for the
            hour or the minute go by the time that passes.
        missed: as of `every`.
        action: as of `every`.

    Raises:
        ConfigError: it is no cron expression, there is no such time zone, or ``cronsim`` is not installed.
    """
    if find_spec("cronsim") is None:
        raise ConfigError("@cron needs cronsim", hint="pip install 'hexa-worker[cron]'")
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - as above

    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise ConfigError(f"@cron: there is no time zone {timezone!r}", hint='such as "Europe/Berlin"') from error
    try:
        next(CronSim(expression, datetime.now(zone)))
    except (CronSimError, StopIteration, TypeError, AttributeError, ValueError) as error:
        why = str(error) or "it is never due"
        raise ConfigError(f"@cron({expression!r}): {why}", hint='such as "0 3 * * *"') from error
    text = f"cron {expression} {timezone}"
    return _marking(Schedule(text=text, missed=missed, action=action, expression=expression, zone=timezone))


def _marking(schedule: Schedule) -> Callable[[F], F]:
    if schedule.missed not in MISSED:
        raise ConfigError(f"missed must be {' or '.join(MISSED)}, not {schedule.missed!r}")

    def mark(function: F) -> F:
        if schedule_of(function) is not None:
            raise ConfigError(f"{function.__name__} has two schedules", hint="mark a function for each")
        setattr(function, SCHEDULE_MARK, schedule)
        return function

    return mark


def schedule_of(function: Any) -> Schedule | None:
    """The schedule that a function is marked with."""
    try:
        found = getattr(function, SCHEDULE_MARK, None)
    except Exception:  # noqa: BLE001 - proxies and mocks answer oddly, or raise
        return None
    return found if isinstance(found, Schedule) else None


def _interval_ms(interval: object) -> int:
    if isinstance(interval, timedelta):
        return round(interval.total_seconds() * 1000)
    if isinstance(interval, str) and (found := _INTERVAL.fullmatch(interval.strip())):
        return round(float(found[1]) * _UNITS_MS[found[2]])
    if isinstance(interval, int | float) and not isinstance(interval, bool) and interval == interval:  # noqa: PLR0124 - NaN
        return round(min(interval, LONGEST_MS) * 1000)
    raise ConfigError(f'@every({interval!r}): write "30s", "15m", "2h", seconds or a timedelta')


def moment(at_ms: int) -> datetime:
    """A time in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)
