"""Retries that keep their place, and processes, leases and workers that do not last as long."""

from functools import partial
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context, Retry
from hexa_worker.actors import parking
from hexa_worker.core import lineage
from hexa_worker.core.message import Message, header
from hexa_worker.core.settlement import DeadLettered, Released, Settlement
from hexa_worker.drivers.memory import MemoryDriver
from hexa_worker.errors import DriverRejected
from hexa_worker.stop import StopSignals
from hexa_worker.testing.virtual import Backend
from tests.actors.virtual_worker import VirtualWorker, in_place, of_key
from tests.actors.weak_drivers import ForgetfulDriver, LosingDriver, RevokingDriver, SlowToStop


@pytest.mark.parametrize(
    ("driver", "attempts"), [(MemoryDriver, [0, 1, 2]), (ForgetfulDriver, [0, 0, 1, 2])], ids=["kept", "forgotten"]
)
def test_a_drain_hands_back_what_waits_and_the_next_process_goes_on_in_order(
    backend: Backend, driver: type[MemoryDriver], attempts: list[int]
) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1", "a2", "a3")
    plan = in_place(theatre.failing({"a1": 2}))

    async def first() -> None:
        how = {"clock": theatre.time, "driver": driver(theatre.stage.store)}
        async with theatre.stage.running(plan, **how) as stop:
            await anyio.sleep(0.5)
            stop.ask()

    theatre.play(first)
    assert theatre.runs == [("a1", 0)]
    assert theatre.stage.kinds() == ["Postponed", "Released", "Released", "Released"]
    assert theatre.stage.store.groups["act"].leased == 0
    theatre.run(plan, driver=driver(theatre.stage.store))
    assert [attempt for text, attempt in theatre.runs if text == "a1"] == attempts
    assert theatre.finished() == ["a1", "a2", "a3"]
    if driver is MemoryDriver:
        assert theatre.at("a1", 1) >= 1.0, "early"


def test_a_failure_during_a_drain_is_kept_and_released(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    stop = StopSignals()

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0 and text == "a1":
            stop.ask()
            await anyio.sleep(0.1)
            raise ValueError("while it is asked to stop")

    theatre.emit("a1", "a2")
    plan = in_place(handle)
    theatre.play(partial(theatre.stage.serve, [plan], stop, clock=theatre.time))
    assert sorted(theatre.stage.kinds()) == ["Postponed", "Released", "Released"]
    theatre.run(plan)
    assert theatre.runs == [("a1", 0), ("a1", 1), ("a2", 0)]


def test_nothing_overtakes_a_failure_between_the_wish_to_stop_and_the_end_of_receiving(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    stop = StopSignals()

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0 and text == "a1":
            stop.ask()
            await anyio.sleep(0.1)
            raise Retry(after=5)

    theatre.emit("a1", "a2")
    plan = in_place(handle)
    driver = SlowToStop(theatre.stage.store)
    theatre.play(partial(theatre.stage.serve, [plan], stop, clock=theatre.time, driver=driver))
    assert [text for text, attempt in theatre.runs if not attempt] == ["a1"]
    theatre.run(plan)
    assert theatre.finished() == ["a1", "a2"]


def test_a_stop_does_not_wait_for_a_retry_that_all_of_a_full_mailbox_waits_behind(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit(*[f"a{number}" for number in range(30)])

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        raise Retry(after=3600)

    async def scene() -> None:
        began = theatre.time.monotonic()
        async with theatre.stage.running(in_place(handle, mailbox=10), clock=theatre.time):
            await anyio.sleep(1)
        assert theatre.time.monotonic() - began < 5

    theatre.play(scene)
    assert theatre.runs == [("a0", 0)]


def test_when_a_process_dies_another_one_goes_on_in_order(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    theatre.emit("a1", "a2", "b1")
    plan = in_place(theatre.failing({"a1": 2}))
    doomed = MemoryDriver(theatre.stage.store)

    async def scene() -> None:
        async with theatre.stage.running(plan, driver=doomed, clock=theatre.time):
            await anyio.sleep(0.5)
            doomed.crash()
            async with theatre.stage.running(plan, driver=MemoryDriver(theatre.stage.store), clock=theatre.time):
                await anyio.sleep(10)

    theatre.play(scene)
    assert [run for run in theatre.runs if run[0] != "b1"] == [("a1", 0), ("a1", 1), ("a1", 2), ("a2", 0)]
    assert theatre.at("a1", 1) >= 1.0


def test_a_revocation_hands_back_what_waits_and_what_fails_meanwhile(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    driver = RevokingDriver(theatre.stage.store)
    settled: list[Settlement] = []

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0 and text == "b1":
            await anyio.sleep(0.7)
        if ctx.attempt == 0 and text in {"a1", "b1"}:
            raise ValueError("not yet")

    async def scene() -> None:
        async with theatre.stage.running(in_place(handle), driver=driver, clock=theatre.time):
            await anyio.sleep(0.5)
            await driver.revoke("events")
            settled.extend(theatre.stage.settled)
            await anyio.sleep(5)

    theatre.emit("a1", "b1", "a2", "b2")
    theatre.play(scene)
    assert [type(one).__name__ for one in settled].count("Released") == 4
    for key in "ab":
        assert of_key(key, theatre.finished()) == [f"{key}1", f"{key}2"]
        assert theatre.at(f"{key}1", 1) >= 1.0, "early"


def test_what_stood_behind_a_revoked_retry_goes_on_at_once(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    driver = RevokingDriver(theatre.stage.store)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if text == "a1":
            raise ValueError("not yet")

    async def scene() -> None:
        plan = in_place(handle, channels=("events", "others"))
        async with theatre.stage.running(plan, driver=driver, clock=theatre.time):
            await anyio.sleep(0.3)
            theatre.stage.emit("a2", "others", key=b"a")
            await anyio.sleep(0.3)
            driver.keep_away()
            await driver.revoked(frozenset({"events"}))
            await anyio.sleep(5)

    theatre.emit("a1")
    theatre.play(scene)
    assert theatre.runs == [("a1", 0), ("a2", 0)]


def test_what_was_postponed_with_a_lost_lease_is_not_run_again_here(backend: Backend) -> None:
    theatre = VirtualWorker(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if len(theatre.seen) == 1:
            raise ValueError("somebody else has it by now")

    theatre.emit("a1")
    theatre.run(in_place(handle), driver=LosingDriver(theatre.stage.store))
    assert theatre.runs == [("a1", 0), ("a1", 0)]
    counters = theatre.stage.reports[-1].subscriptions[0].counters
    assert (counters.lost, counters.waiting_keys, counters.held_back) == (1, 0, 0)
    assert theatre.stage.reports[-1].subscriptions[0].held == 0


class Cells:
    """A crash journal that remembers what is in hand."""

    def __init__(self) -> None:
        self.hands: dict[int, tuple[str, int]] = {}

    def cells(self, _action: str, lane: int, count: int) -> Any:
        journal = self

        class Cell:
            def begin(self, source: str, offset: int) -> None:
                journal.hands[lane] = (source, offset)

            def end(self) -> None:
                journal.hands.pop(lane, None)

        return (Cell(),) * count


def test_what_waits_is_not_in_flight_when_its_process_dies(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    cells = Cells()
    hands: list[dict[int, tuple[str, int]]] = []

    async def scene() -> None:
        plan = in_place(theatre.failing({"a1": 1}))
        async with theatre.stage.running(plan, clock=theatre.time, journal=cells):
            await anyio.sleep(0.5)
            hands.append(dict(cells.hands))

    theatre.emit("a1")
    theatre.play(scene)
    assert theatre.runs == [("a1", 0)]
    assert hands == [{}]


def test_claims_of_others_in_the_headers_of_a_resumed_delivery_are_not_believed(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    forged = (
        (lineage.EVENT_ID, b"a1"),
        (lineage.ORIGIN_CHANNEL, b"somewhere"),
        (lineage.FIRST_FAILED_AT, b"1"),
        (lineage.ATTEMPT, b"999"),
    )
    theatre.stage.store.append(Message(channel="events", payload=b'"a1"', key=b"a", headers=forged))
    plan = in_place(theatre.failing({"a1": 99}), attempts=2)

    async def first() -> None:
        async with theatre.stage.running(plan, clock=theatre.time):
            await anyio.sleep(0.5)

    theatre.play(first)
    theatre.run(plan)
    (letter,) = theatre.time.run(theatre.stage.dead)
    assert header(letter.headers, lineage.ORIGIN_CHANNEL) == b"events"
    assert int(header(letter.headers, lineage.FIRST_FAILED_AT) or 0) > 1_000_000
    assert header(letter.headers, lineage.ATTEMPT) == b"2"
    assert theatre.runs == [("a1", 0), ("a1", 1), ("a1", 2)]


def test_released_is_what_becomes_of_all_that_waits_when_its_worker_breaks(backend: Backend) -> None:
    theatre = VirtualWorker(backend)
    driver = MemoryDriver(theatre.stage.store)
    theatre.emit("a1", "a2")
    plan = in_place(theatre.failing({"a1": 1}))

    async def scene() -> None:
        async with theatre.stage.running(plan, driver=driver, clock=theatre.time):
            await anyio.sleep(0.5)
            for source in driver._sources:
                source.receive = None  # type: ignore[method-assign, assignment]  # the next call breaks the pump
            theatre.emit("b1")
            await anyio.sleep(5)

    theatre.play(scene)
    assert of_key("a", theatre.finished()) == ["a1", "a2"]
    assert any(isinstance(one, Released) for one in theatre.stage.settled)
    assert theatre.stage.reports[-1].subscriptions[0].counters.restarts == 1


def test_what_was_refused_once_is_tried_again_though_other_refusals_go_on(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PARKED_RETRY_S", 3.0)
    theatre = VirtualWorker(backend)
    refused = ["a", "b"]
    append = theatre.stage.store.append

    def append_or_refuse(message: Message) -> str:
        if message.channel.endswith(".dlq") and (message.key or b"").decode() in refused:
            raise DriverRejected("no rights, or too large")
        return append(message)

    theatre.stage.store.append = append_or_refuse  # type: ignore[method-assign]

    async def scene() -> None:
        async with theatre.stage.running(in_place(theatre.failing({"a1": 9, "b1": 9}), attempts=0), clock=theatre.time):
            await anyio.sleep(1)
            refused.remove("a")
            for _ in range(12):
                theatre.stage.emit("b1", key=b"b")
                await anyio.sleep(1)
            assert dead() == ["a1"]

    def dead() -> list[str]:
        letters = [one for one in theatre.stage.settled if isinstance(one, DeadLettered)]
        return [msgspec.json.decode(one.delivery.payload) for one in letters]

    theatre.emit("a1")
    theatre.play(scene)
