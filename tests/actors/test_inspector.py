"""What a driver finds wrong is said once, soon after the start, and holds nobody up."""

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from hexa_worker import Context
from hexa_worker.actors import inspector
from hexa_worker.drivers.base import Finding, SubscriptionSpec
from hexa_worker.drivers.memory import MemoryDriver, MemoryStore
from hexa_worker.errors import DriverRejected, DriverUnavailable
from hexa_worker.telemetry.log import FIELDS
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio

EXPIRES = Finding(kind="retry channel", name="act.retry.1", exists=True, warning="messages expire after 30 s")
FORBIDDEN = Finding(kind="dead letter", name="act.dlq", exists=True, problem="this login has no right to write")
FINE = Finding(kind="channel", name="events", exists=True, note="3 partitions")


class Preflighted(MemoryDriver):
    """Finds what it is told to, or is asked in vain."""

    def __init__(self, store: MemoryStore, *found: Finding | Exception | None) -> None:
        super().__init__(store)
        self.found = found
        self.asked = anyio.Event()

    async def preflight(self, spec: SubscriptionSpec) -> Sequence[Finding]:
        self.asked.set()
        if None in self.found:
            await anyio.sleep_forever()
        for one in self.found:
            if isinstance(one, Exception):
                raise one
        return [one for one in self.found if isinstance(one, Finding)]


async def succeed(_payload: Any, _ctx: Context) -> None: ...


async def said_by(caplog: pytest.LogCaptureFixture, *found: Finding | Exception | None) -> list[tuple[str, str]]:
    """Run two subscriptions; the level and text of each line about the broker."""
    stage = WorkerFixture()
    driver = Preflighted(stage.store, *found)
    with caplog.at_level(logging.INFO):
        async with stage.running(plan_of(succeed, "act"), plan_of(succeed, "other"), driver=driver, preflight=True):
            await driver.asked.wait()
            for _ in range(5):  # what was found is said before anything else happens
                await anyio.lowlevel.checkpoint()
            if None in found:
                await anyio.sleep(inspector.LIMIT_S * 2)
    lines = [one for one in caplog.records if one.name == inspector.log.name]
    assert all(getattr(one, FIELDS)["action"] == "act" for one in lines if one.levelno == logging.WARNING)
    return [(one.levelname, one.getMessage()) for one in lines]


async def test_each_warning_and_problem_is_said_once_whoever_shares_it(caplog: pytest.LogCaptureFixture) -> None:
    assert await said_by(caplog, EXPIRES, FINE, FORBIDDEN) == [
        ("WARNING", "retry channel act.retry.1: messages expire after 30 s"),
        ("WARNING", "dead letter act.dlq: this login has no right to write"),
    ]


async def test_a_broker_that_does_not_tell_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert await said_by(caplog, DriverRejected("no rights")) == [("INFO", "not told by the broker: no rights")] * 2
    caplog.clear()
    assert await said_by(caplog, DriverUnavailable("away")) == []


async def test_a_slow_broker_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "LIMIT_S", 0.02)
    [(level, text)] = await said_by(caplog, None)
    assert level == "INFO"
    assert text.startswith("0 of 2 subscriptions were looked at")


async def test_nobody_looks_who_was_not_asked_to(caplog: pytest.LogCaptureFixture) -> None:
    stage = WorkerFixture()
    driver = Preflighted(stage.store, EXPIRES)
    await stage.run(plan_of(succeed), driver=driver)
    assert not driver.asked.is_set()
    assert caplog.records == []
