"""How long a reload waits for a successor, in made-up time."""

from types import SimpleNamespace
from typing import Any

import pytest

from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.restart import RestartPolicy
from hexa_worker.processes.rolling import READY_LIMIT_S, GiveUp, Replace, Rolling
from hexa_worker.processes.slot import Slot, SlotPhase
from hexa_worker.telemetry.report import Report, SubscriptionReport

RULES: Any = SimpleNamespace(restart=RestartPolicy())


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        (SlotPhase.BOOTING, "it has not started to consume"),
        (SlotPhase.UP, "do is waiting: broker away"),
    ],
)
def test_a_successor_that_is_not_ready_in_time_is_given_up_with_what_it_waits_for(
    phase: SlotPhase, reason: str
) -> None:
    slots = {number: Slot(number, RULES, 0.0) for number in (0, 1)}
    waiting = SubscriptionReport(
        action="do", state=WorkerState.WAITING, error="broker away", destination="work", mailbox=10
    )
    slots[1].phase, slots[1].report = phase, Report(system="embedded", booted=True, subscriptions=(waiting,))
    rolling = Rolling()
    rolling.begin([0])
    assert isinstance(rolling.step(slots, 0.0), Replace)
    rolling.started(1, 0.0)
    assert rolling.step(slots, READY_LIMIT_S - 1) is None
    assert rolling.step(slots, READY_LIMIT_S) == GiveUp(1, f"not ready after 120 s: {reason}")
