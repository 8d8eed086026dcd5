"""Handlers that run by the clock, in virtual time: once each time, whatever happened to the processes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker import ConfigError, Context, Tick, cron, every, subscribe
from hexa_worker.subscriptions.schedules import Schedule, schedule_of
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


def schedule(mark: Any) -> Schedule:
    """The schedule that a decorator marks a function with."""

    def function(tick: Tick) -> None: ...

    found = schedule_of(mark(function))
    assert found is not None
    return found


def times(one: Schedule, after: datetime, count: int) -> list[datetime]:
    """The next times in UTC."""
    at_ms, found = round(after.timestamp() * 1000), []
    for _ in range(count):
        at_ms = one.next_after(at_ms)
        found.append(datetime.fromtimestamp(at_ms / 1000, UTC))
    return found


@pytest.mark.parametrize("interval", ["15m", "900s", "0.25h", 900, 900.0, timedelta(minutes=15)])
def test_an_interval_is_due_at_its_multiples_so_that_all_processes_agree(interval: Any) -> None:
    start = datetime(2026, 1, 1, 0, 7, 3, tzinfo=UTC)
    found = times(schedule(every(interval)), start, 2)
    assert found == [start.replace(minute=15, second=0), start.replace(minute=30, second=0)]


@given(st.integers(0, 4 * 10**12), st.sampled_from(["1s", "15m", "1d"]))
def test_the_next_time_comes_strictly_after(at_ms: int, interval: str) -> None:
    one = schedule(every(interval))
    assert at_ms < one.next_after(at_ms) <= at_ms + one.interval_ms


def test_a_cron_time_goes_with_the_clocks_of_its_zone() -> None:
    zone = ZoneInfo("Europe/Berlin")
    one = schedule(cron("30 2 * * *", timezone="Europe/Berlin"))
    spring = [at.astimezone(zone).isoformat() for at in times(one, datetime(2026, 3, 28, 1, tzinfo=UTC), 3)]
    assert spring == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    autumn = [at.astimezone(zone).isoformat() for at in times(one, datetime(2026, 10, 24, 12, tzinfo=UTC), 2)]
    assert autumn == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]  # the hour that comes twice: once


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        (lambda: every("soon"), "write"),
        (lambda: every(0.5), "from 1 s to 365 days"),
        (lambda: every(float("nan")), "write"),
        (lambda: every("400d"), "from 1 s to 365 days"),
        (lambda: every("1h", missed="never"), "missed must be"),  # type: ignore[arg-type]
        (lambda: cron("61 * * * *"), "Bad minute"),
        (lambda: cron("0 3 31 2 *"), "Bad day-of-month"),
        (lambda: cron("0 3 * * *", timezone="Europe/Atlantis"), "no time zone"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused_where_it_is_written(mark: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        mark()


def test_a_handler_runs_once_at_each_time_and_takes_its_tick(backend: Backend) -> None:
    ran: list[tuple[datetime, float]] = []

    @every("15m")
    async def refresh(tick: Tick, ctx: Context) -> None:
        assert not tick.missed
        assert ctx.root_id == ctx.event_id
        ran.append((tick.due, h.now.timestamp()))

    h = Harness([refresh], backend=backend)
    start = h.now
    h.run_for(3600)
    assert [due for due, _ in ran] == [start + timedelta(minutes=15 * number) for number in (1, 2, 3, 4)]
    assert all(0 <= at - due.timestamp() < 0.1 for due, at in ran)
    assert h.idle  # what waits for its next time is nothing left to do
    h.run_for(86_400 * 3)
    assert len(ran) == 4 + 3 * 96


def test_a_schedule_at_a_subscription_emits_into_its_channel() -> None:
    seen: list[str] = []

    @cron("0 3 * * *", timezone="Europe/Berlin")
    @subscribe("reports", action="report", concurrency=1)
    async def report(tick: Tick, ctx: Context) -> None:
        seen.append(ctx.channel)

    @subscribe("reports", action="audit")
    async def audit(tick: Tick) -> None: ...

    h = Harness([report, audit])
    h.run_for(86_400)
    assert seen == ["reports"]
    assert sorted(one.action for one in h.acked if one.action != "hexa-schedules") == ["audit", "report"]


@pytest.mark.parametrize("missed", ["run_once", "skip"])
def test_times_at_which_nobody_ran_are_made_up_for_as_told(missed: Any) -> None:
    ran: list[Tick] = []

    @every("1h", missed=missed)
    async def do(tick: Tick) -> None:
        ran.append(tick)

    h = Harness([do])
    start = h.now
    h.advance(5.5 * 3600)  # nobody runs
    h.run_until_idle()
    assert ran == ([Tick(due=start + timedelta(hours=1), missed=True)] if missed == "run_once" else [])
    ran.clear()
    h.run_for(3600)
    assert ran == [Tick(due=start + timedelta(hours=6))]


def test_times_that_are_less_than_a_minute_late_are_all_made_up_for() -> None:
    ran: list[Tick] = []

    @every("10s", missed="skip")
    async def do(tick: Tick) -> None:
        ran.append(tick)

    h = Harness([do])
    start = h.now
    h.advance(35)
    h.run_until_idle()
    assert sorted(ran, key=lambda tick: tick.due) == [Tick(due=start + timedelta(seconds=at)) for at in (10, 20, 30)]


def test_many_processes_that_start_make_no_second_tick() -> None:
    ran: list[datetime] = []

    @every("1m")
    async def do(tick: Tick) -> None:
        ran.append(tick.due)

    h = Harness([do])
    for _ in range(10):
        h.run_for(61)  # each run is a process that starts anew, and emits the next event as all do
    assert len(ran) == len(set(ran)) == 10


def test_a_handler_that_fails_is_retried_and_the_next_time_comes_all_the_same() -> None:
    ran: list[tuple[datetime, int]] = []

    @every("10s")
    async def do(tick: Tick, ctx: Context) -> None:
        ran.append((tick.due, ctx.attempt))
        if ctx.attempt == 0:
            raise ValueError("not yet")

    h = Harness([do])
    h.run_for(25)
    assert [attempt for _, attempt in ran] == [0, 1, 0, 1]
    assert len({due for due, _ in ran}) == 2
