"""Deliveries whose retry or dead-letter record the broker refuses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context
from hexa_worker.actors import parking
from hexa_worker.actors.worker import HURRIED_FLUSH_S
from hexa_worker.core.cutting import KEPT_PAYLOAD
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Message, header
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import CUT_SIZE, Acked, DeadLettered
from hexa_worker.drivers.memory import MemoryStore
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge
from hexa_worker.stop import CANCEL, StopSignals
from hexa_worker.testing.virtual import Backend, VirtualTime
from tests.actors.conftest import plan_of
from tests.actors.weak_drivers import RevokingDriver
from tests.actors.worker_fixture import WorkerFixture
from tests.deadlines import until

pytestmark = pytest.mark.anyio
NO_RETRY = RetryPolicy(maximum_retries=0)


class Refusing(MemoryStore):
    """A broker that refuses some records."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: Callable[[Message], DriverError | None] = lambda _message: None

    def append(self, message: Any) -> str:
        refusal = self.refuses(message)
        if refusal is not None:
            raise refusal
        return super().append(message)


def no_dead_letters(message: Message) -> DriverError | None:
    return DriverRejected("no rights") if message.channel.endswith(".dlq") else None


async def fail_the_long(payload: str, _ctx: Context) -> None:
    if len(payload) > 1:
        raise ValueError("too long")


def acked(stage: WorkerFixture) -> int:
    return sum(isinstance(one, Acked) and one.dropped is None for one in stage.settled)


def states(stage: WorkerFixture) -> list[WorkerState]:
    return [one.state for report in stage.reports for one in report.subscriptions]


def parked(stage: WorkerFixture) -> int:
    return stage.reports[-1].subscriptions[0].counters.parked


async def test_what_is_parked_does_not_stop_what_comes_behind_it() -> None:
    stage = WorkerFixture(store=Refusing())
    stage.store.refuses = no_dead_letters  # type: ignore[attr-defined]
    for _ in range(90):
        stage.emit("long")
    for _ in range(300):
        stage.emit("x")
    async with stage.running(plan_of(fail_the_long, retry=NO_RETRY, concurrency=2, mailbox=100)):
        await until(lambda: acked(stage) == 300)
    assert WorkerState.WAITING not in states(stage), "there was room"


async def test_when_the_room_of_the_parked_is_full_nothing_is_received_and_it_is_not_ready(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_RETRY_S", 0.05)
    stage = WorkerFixture(store=Refusing())
    stage.store.refuses = no_dead_letters  # type: ignore[attr-defined]
    for _ in range(500):
        stage.emit("long")
    async with stage.running(plan_of(fail_the_long, retry=NO_RETRY, concurrency=2, mailbox=40)):
        await until(lambda: WorkerState.WAITING in states(stage))
        full = next(one for one in stage.reports if one.subscriptions[0].state is WorkerState.WAITING).subscriptions[0]
        assert 40 <= full.counters.parked <= 80, "what was in hand came on top"
        assert "parked" in full.error
        assert not stage.reports[-1].ready
        stage.store.refuses = lambda _message: None  # type: ignore[attr-defined]
        await until(lambda: len(stage.settled) == 500)
        await until(lambda: stage.reports[-1].ready)
    assert len(await stage.dead()) == 500
    assert parked(stage) == 0
    said = [one for one in caplog.messages if "room for no more" in one]
    assert len(said) == 1


async def test_the_bytes_of_the_parked_are_bounded_too() -> None:
    stage = WorkerFixture(store=Refusing())
    stage.store.refuses = no_dead_letters  # type: ignore[attr-defined]
    for _ in range(100):
        stage.emit("x" * 1000)
    async with stage.running(plan_of(fail_the_long, retry=NO_RETRY, concurrency=1, mailbox_bytes=10_000)):
        await until(lambda: WorkerState.WAITING in states(stage))
        assert parked(stage) <= 25


async def test_a_run_until_idle_does_not_end_before_what_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_RETRY_S", 0.05)
    stage = WorkerFixture(store=Refusing())
    refused: list[Message] = []

    def refuse_some(message: Message) -> DriverError | None:
        refusal = no_dead_letters(message) if len(refused) < 3 else None
        refused.extend([message] if refusal else [])
        return refusal

    stage.store.refuses = refuse_some  # type: ignore[attr-defined]
    stage.emit("long")
    assert await stage.run(plan_of(fail_the_long, retry=NO_RETRY)) == 0
    assert stage.kinds() == ["DeadLettered"]


@pytest.mark.parametrize("attempts", [0, 1])
async def test_what_is_too_large_for_its_dead_letter_ends_cut(attempts: int) -> None:
    stage = WorkerFixture(store=Refusing())

    def small_ones_only(message: Message) -> DriverError | None:
        return RecordTooLarge("over 20000") if len(message.payload) > 20_000 and "." in message.channel else None

    stage.store.refuses = small_ones_only  # type: ignore[attr-defined]
    stage.emit("x" * 50_000)
    stage.emit("x")
    await stage.run(plan_of(fail_the_long, retry=RetryPolicy(initial_interval_s=0.0, maximum_retries=attempts)))
    (letter,) = await stage.dead()
    assert len(letter.payload) == KEPT_PAYLOAD
    assert header(letter.headers, CUT_SIZE) == b"50002"
    assert acked(stage) == 1
    assert parked(stage) == 0


async def test_a_retry_that_is_too_large_is_dead_lettered_whole_where_that_takes_more() -> None:
    stage = WorkerFixture(store=Refusing())

    def small_retries_only(message: Message) -> DriverError | None:
        return RecordTooLarge("over 20000") if ".retry." in message.channel else None

    stage.store.refuses = small_retries_only  # type: ignore[attr-defined]
    stage.emit("x" * 50_000)
    await stage.run(plan_of(fail_the_long))
    (letter,) = await stage.dead()
    assert msgspec.json.decode(letter.payload) == "x" * 50_000
    assert header(letter.headers, CUT_SIZE) is None
    assert stage.kinds() == ["DeadLettered"]


async def test_what_no_cutting_helps_is_parked() -> None:
    stage = WorkerFixture(store=Refusing())

    def nothing(message: Message) -> DriverError | None:
        return RecordTooLarge("over 0") if message.channel.endswith(".dlq") else None

    stage.store.refuses = nothing  # type: ignore[attr-defined]
    stage.emit("long")
    async with stage.running(plan_of(fail_the_long, retry=NO_RETRY)):
        await until(lambda: bool(stage.reports) and parked(stage) == 1)
    assert stage.kinds() == ["Released"]


async def test_once_the_broker_takes_one_the_others_are_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_RETRY_S", 0.5)
    monkeypatch.setattr(parking, "TRIED_AT_ONCE", 1)
    stage = WorkerFixture(store=Refusing())
    stage.store.refuses = no_dead_letters  # type: ignore[attr-defined]
    for _ in range(50):
        stage.emit("long")
    async with stage.running(plan_of(fail_the_long, retry=NO_RETRY)):
        await until(lambda: bool(stage.reports) and parked(stage) == 50)
        stage.store.refuses = lambda _message: None  # type: ignore[attr-defined]
        await until(lambda: len(stage.settled) == 50)  # one each 0.5 s would take too long
    assert {type(one) for one in stage.settled} == {DeadLettered}


def test_what_is_refused_at_the_last_moment_is_handed_back(backend: Backend) -> None:
    time, stop = VirtualTime(), StopSignals()
    store = Refusing()
    stage = WorkerFixture(store=store)

    def away_then_refusing(message: Message) -> DriverError | None:
        late = time.monotonic() > HURRIED_FLUSH_S + 0.1
        return no_dead_letters(message) if late else DriverUnavailable("a moment")

    async def stop_and_fail(_payload: str, _ctx: Context) -> None:
        stop.ask(CANCEL)
        raise ValueError("while it is asked to stop")

    stage.emit("long")
    store.refuses = away_then_refusing
    time.run(partial(stage.serve, [plan_of(stop_and_fail, retry=NO_RETRY)], stop, clock=time), backend=backend)
    assert stage.kinds() == ["Released"]


async def test_what_is_refused_while_its_source_is_revoked_is_handed_back() -> None:
    stage = WorkerFixture(store=Refusing())
    stage.store.refuses = no_dead_letters  # type: ignore[attr-defined]
    driver = RevokingDriver(stage.store)
    begun, revoking = anyio.Event(), anyio.Event()

    async def fail_late(_payload: str, _ctx: Context) -> None:
        begun.set()
        await revoking.wait()
        raise ValueError("while its source is revoked")

    stage.emit("long")
    async with stage.running(plan_of(fail_late, retry=NO_RETRY), driver=driver):
        await begun.wait()
        driver.keep_away()

        async def revoke() -> None:
            await driver.revoked(frozenset({"events"}))

        async with anyio.create_task_group() as group:
            group.start_soon(revoke)
            await anyio.wait_all_tasks_blocked()
            revoking.set()
        assert stage.kinds() == ["Released"]
