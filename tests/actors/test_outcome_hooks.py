"""Outcome hooks are told what was decided about each delivery, once, and cannot change it."""

import logging
import types
from typing import Any

import anyio
import pytest

from hexa_worker import (
    BatchContext,
    ConfigError,
    Context,
    DeadLetter,
    Decision,
    Drop,
    Retries,
    Retry,
    Snooze,
    on_outcome,
    subscribe,
)
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend
from tests.actors.virtual_worker import VirtualWorker, in_place

once = Retries(maximum=1, initial_s=5)


def collecting() -> tuple[list[Decision], Any]:
    told: list[Decision] = []

    @on_outcome
    def report(decision: Decision) -> None:
        told.append(decision)

    return told, report


def test_a_hook_is_told_each_decision_with_the_error_behind_it(backend: Backend) -> None:
    told, report = collecting()

    @subscribe("orders", action="work", retry=once, timeout_s=2)
    async def work(order: str, ctx: Context) -> Any:
        match order, ctx.attempt, ctx.snoozes:
            case "fails", _, _:
                raise ValueError("no")
            case "late", 0, _:
                await anyio.sleep(9)
            case "asks", 0, _:
                return Retry(after=7, reason="later")
            case "snoozes", _, 0:
                raise Snooze(3, "closed")
            case "drops", _, _:
                return Drop("stale")
            case "gives up", _, _:
                raise DeadLetter("unknown") from KeyError("sku")
        return None

    orders = ("fine", "fails", "late", "asks", "snoozes", "drops", "gives up")
    with Harness([work, report], backend=backend) as h:
        ids = {h.emit("orders", order): order for order in orders}
        h.run_until_idle()
    by: dict[str, list[tuple[Any, ...]]] = {order: [] for order in orders}
    for one in told:
        error = None if one.error is None else type(one.error).__name__
        reason = None if one.failure is None else one.failure.reason
        by[ids[one.lineage.event_id]].append((one.what, one.delivery.attempt, error, reason, one.delay_s))
        assert (one.exc_info is None) == (one.error is None)
        assert one.action == "work"
    assert by == {
        "fine": [("acked", 0, None, None, None)],
        "fails": [("retried", 0, "ValueError", "failed", 5), ("dead-lettered", 1, "ValueError", "failed", None)],
        "late": [("retried", 0, None, "timeout", 5), ("acked", 1, None, None, None)],
        "asks": [("retried", 0, None, "asked", 7), ("acked", 1, None, None, None)],
        "snoozes": [("snoozed", 0, None, "snoozed", 3), ("acked", 0, None, None, None)],
        "drops": [("dropped", 0, None, None, None)],
        "gives up": [("dead-lettered", 0, "KeyError", "asked", None)],
    }
    (failed, *_) = [one for one in told if isinstance(one.error, ValueError)]
    assert failed.exc_info is not None
    assert failed.exc_info[2] is not None
    assert failed.exc_info[2].tb_next is not None


def test_a_hook_is_told_of_each_item_of_a_batch(backend: Backend) -> None:
    told, report = collecting()

    @subscribe("orders", batch=10)
    async def work(orders: list[str], ctx: BatchContext) -> Any:
        return [None, DeadLetter("no"), ValueError("no")] if len(orders) > 1 else None

    with Harness([work, report], backend=backend) as h:
        for text in ("a", "b", "c"):
            h.emit("orders", text)
        h.run_until_idle()
    assert [one.what for one in told] == ["acked", "dead-lettered", "retried", "acked"]


def test_a_hook_that_fails_fails_no_delivery_and_the_others_are_told(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    told, report = collecting()

    @on_outcome
    def broken(_decision: Decision) -> None:
        raise RuntimeError("the tracker is away")

    @subscribe("orders")
    async def work(order: str) -> None: ...

    with caplog.at_level(logging.ERROR, "hexa_worker.delivery"), Harness([broken, work, report], backend=backend) as h:
        h.emit("orders", "x")
        h.run_until_idle()
    assert len(h.acked) == len(told) == 1
    (line,) = [one for one in caplog.records if "outcome hook" in one.message]
    assert line.message == "an outcome hook failed: RuntimeError: the tracker is away"


def test_what_is_retried_in_its_place_is_told_once_per_attempt(backend: Backend) -> None:
    told, report = collecting()
    theatre = VirtualWorker(backend)
    theatre.emit("a1")
    theatre.run(in_place(theatre.failing({"a1": 2})), outcome_hooks=(report,))
    assert [(one.what, one.delivery.attempt) for one in told] == [("retried", 0), ("retried", 1), ("acked", 2)]


async def awaits(_decision: Decision) -> None: ...


def takes_two(_decision: Decision, _more: int) -> None: ...


@pytest.mark.parametrize(("hook", "text"), [(awaits, "a plain function"), (takes_two, "cannot be called")])
def test_a_hook_that_cannot_be_called_is_refused_with_its_place(hook: Any, text: str) -> None:
    @subscribe("orders")
    async def work(order: str) -> None: ...

    module = types.ModuleType("hooks_sample")
    vars(module).update(hook=on_outcome(hook), work=work)
    with pytest.raises(ConfigError, match=text) as raised:
        Harness([module])
    assert "test_outcome_hooks.py" in str(raised.value)
