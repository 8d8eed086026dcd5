"""How a subscription's failures are told without flooding whoever reads the log."""

import logging
from typing import Any

import pytest

from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import DeadLetter
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DeadLettered, Route, settle
from hexa_worker.errors import DriverUnavailable
from hexa_worker.telemetry.log import FIELDS, SubscriptionLog


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return round(self.seconds * 1000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def log(clock: HandClock) -> SubscriptionLog:
    return SubscriptionLog("work", clock, repeat_s=1.0)


def failed(reason: str = "bad") -> DeadLettered:
    delivery = Delivery(channel="jobs", payload=b"x", source="jobs", offset=7)
    route = Route(action="work", retry_base="work", policy=RetryPolicy())
    settlement = settle(DeadLetter(reason), delivery, route, now_ms=0)
    assert isinstance(settlement, DeadLettered)
    return settlement


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    return [(one.getMessage(), getattr(one, FIELDS).get("repeated")) for one in caplog.records]


def test_a_burst_is_one_line_and_a_later_one_that_counts_the_rest(
    log: SubscriptionLog, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        log.failure(failed())
    log.tell_repeats()
    assert told(caplog) == [("handler failed: bad", None)]
    clock.seconds = 1.0
    log.tell_repeats()
    log.tell_repeats()
    assert told(caplog)[1:] == [("handler failed: bad (and more like it)", 499)]
    assert caplog.records[1].levelno == logging.ERROR
    assert getattr(caplog.records[1], FIELDS)["action"] == "work"


def test_the_next_line_counts_what_was_kept_quiet_before_it(
    log: SubscriptionLog, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.failure(failed())
    clock.seconds = 1.5
    log.failure(failed())
    log.tell_repeats(at_end=True)
    assert told(caplog) == [("handler failed: bad", None), ("handler failed: bad", 2)]


def test_at_the_end_nothing_that_was_kept_quiet_is_forgotten(
    log: SubscriptionLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        log.failure(failed())
    log.tell_repeats(at_end=True)
    assert told(caplog)[-1] == ("handler failed: bad (and more like it)", 1)


def test_an_outage_is_said_once_for_each_reason_however_long_it_takes(
    log: SubscriptionLog, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for second in range(20):
            clock.seconds = second
            log.broker_away(DriverUnavailable(f"no word from the coordinator for {second} s"))
            log.broker_away(DriverUnavailable("127.0.0.1:9092 cannot be reached: connection refused"))
        clock.seconds = 31
        log.broker_away(DriverUnavailable("no word from the coordinator for 31 s"))
    told = [record.getMessage().removeprefix("broker is away, trying again: ") for record in caplog.records]
    assert told == [
        "no word from the coordinator for 0 s",
        "127.0.0.1:9092 cannot be reached: connection refused",
        "no word from the coordinator for 31 s",
    ]
