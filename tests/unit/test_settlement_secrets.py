"""What a failure says in logs and dead letters has no secret that can be told from its place."""

import pytest

from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import DeadLetter, Outcome, Raised, Retry
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DeadLettered, RetryAt, Route, settle
from hexa_worker.telemetry.tracebacks import format_error

URL = "redis://user:hunter2/x@host:1 refused, password=hunter2"


def raised() -> ConnectionError:
    error = ConnectionError(URL)
    error.__cause__ = ValueError(URL)
    return error


@pytest.mark.parametrize("outcome", [Raised(raised()), DeadLetter(URL), Retry(reason=URL)])
@pytest.mark.parametrize("attempts", [0, 1])
def test_no_record_of_a_failure_has_a_secret(outcome: Outcome, attempts: int) -> None:
    delivery = Delivery(channel="jobs", payload=b"x", source="jobs", offset=7)
    route = Route(action="work", retry_base="work", policy=RetryPolicy(maximum_retries=attempts))
    settlement = settle(outcome, delivery, route, now_ms=0, traceback=format_error(raised()))
    assert isinstance(settlement, RetryAt | DeadLettered)
    said = repr(settlement.record.headers) + repr(settlement.failure)
    assert "hunter2" not in said
    assert "redis://***@host:1 refused, password=***" in said
