"""Retries that keep their place: an event of a key waits, what follows in the key waits behind it, others go on."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest

from hexa_worker import Context, DeadLetter, Retry, subscribe
from hexa_worker.config.dedup import Dedup
from hexa_worker.core import lineage, settlement
from hexa_worker.core.effects import by_event
from hexa_worker.core.message import Delivery, Message, header
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import DUPLICATE, Acked, Postponed, Released, Settlement
from hexa_worker.dedup.memory import MemoryClaims
from hexa_worker.drivers.base import Capabilities, Revoked, SubscriptionSpec, Unsettled, nothing_revoked
from hexa_worker.drivers.memory import CAPABILITIES, MemoryDriver, MemorySource, MemoryStore
from hexa_worker.errors import LeaseLost
from hexa_worker.handlers.plan import Plan
from hexa_worker.lineage.entries import entry_of
from hexa_worker.stop import StopSignals
from hexa_worker.testing import Harness
from hexa_worker.testing.virtual import Backend, VirtualTime
from tests.actors.conftest import plan_of
from tests.actors.stage import Stage


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


def in_place(function: Callable[..., Any], *, limit: int | None = None, attempts: int = 3, **settings: Any) -> Plan:
    policy = RetryPolicy(initial_interval_s=1.0, maximum_attempts=attempts, order="key", maximum_waiting_keys=limit)
    return plan_of(function, **{"order_by": OrderBy.KEY, "retry": policy, "timeout_s": 60.0, **settings})


class Theatre:
    """A stage in virtual time, and what its handler saw."""

    def __init__(self, backend: Backend, **stage: Any) -> None:
        self.time = VirtualTime()
        self.stage = Stage(store=MemoryStore(self.time), **stage)
        self.seen: list[tuple[float, str, int]] = []
        self._backend = backend

    def emit(self, *texts: str) -> None:
        """Events like ``a1``: key ``a``, number 1."""
        for text in texts:
            headers = ((lineage.EVENT_ID, text.encode()),)
            message = Message(
                channel="events", payload=msgspec.json.encode(text), key=text[:1].encode(), headers=headers
            )
            self.stage.store.append(message)
        self.stage.store.wake()

    def note(self, text: str, ctx: Context) -> None:
        self.seen.append((round(self.time.monotonic(), 2), text, ctx.attempt))

    def failing(self, failures: dict[str, int]) -> Callable[..., Any]:
        """A handler that fails each named event so many times."""

        async def handle(text: str, ctx: Context) -> None:
            self.note(text, ctx)
            if ctx.attempt < failures.get(text, 0):
                raise ValueError("not yet")

        return handle

    @property
    def runs(self) -> list[tuple[str, int]]:
        return [(text, attempt) for _, text, attempt in self.seen]

    def at(self, text: str, attempt: int = 0) -> float:
        """When an attempt began."""
        return next(at for at, other, number in self.seen if (other, number) == (text, attempt))

    def finished(self) -> list[str]:
        """Events in the order of their successes."""
        done = [one for one in self.stage.settled if isinstance(one, Acked) and one.dropped is None]
        return [msgspec.json.decode(one.delivery.payload) for one in done]

    def run(self, *plans: Plan, **how: Any) -> None:
        assert self.time.run(partial(self.stage.run, clock=self.time, **how), *plans, backend=self._backend) == 0

    def play(self, scene: Callable[[], Any]) -> None:
        self.time.run(scene, backend=self._backend)


def of_key(key: str, texts: Iterable[str]) -> list[str]:
    return [text for text in texts if text.startswith(key)]


def test_while_an_event_waits_its_key_waits_behind_it_and_the_other_keys_go_on(backend: Backend) -> None:
    theatre = Theatre(backend)
    theatre.emit("a1", "b1", "a2", "b2", "a3")
    theatre.run(in_place(theatre.failing({"a1": 2}), concurrency=1))
    assert theatre.runs == [
        ("a1", 0),
        ("b1", 0),
        ("b2", 0),
        ("a1", 1),
        ("a1", 2),
        ("a2", 0),
        ("a3", 0),
    ]
    assert theatre.at("b2") == 0.0
    assert theatre.at("a1", 1) == pytest.approx(1.0, abs=0.05)
    assert theatre.at("a1", 2) == pytest.approx(3.0, abs=0.05)
    assert theatre.stage.kinds().count("Postponed") == 2


def test_a_retry_is_never_early_and_takes_the_delay_its_handler_asked_for(backend: Backend) -> None:
    theatre = Theatre(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0:
            raise Retry(after=7)

    theatre.emit("a1", "a2")
    theatre.run(in_place(handle))
    assert 7.0 <= theatre.at("a1", 1) < 7.1


def test_after_the_last_failure_the_event_is_dead_lettered_with_its_story_and_its_key_goes_on(
    backend: Backend,
) -> None:
    theatre = Theatre(backend)
    theatre.emit("a1", "a2")
    theatre.run(in_place(theatre.failing({"a1": 99}), attempts=2))
    assert theatre.runs == [("a1", 0), ("a1", 1), ("a1", 2), ("a2", 0)]
    assert theatre.stage.kinds() == ["Postponed", "Postponed", "DeadLettered", "Acked"]
    (letter,) = theatre.time.run(theatre.stage.dead)
    assert letter.payload == b'"a1"'
    found = dict(letter.headers)
    assert found[lineage.ATTEMPT] == b"2"
    assert found[lineage.ORIGIN_CHANNEL] == b"events"
    assert found[lineage.EVENT_ID] == b"a1"
    assert int(found[settlement.DEAD_AT]) - int(found[lineage.FIRST_FAILED_AT]) in range(3000, 3200)


def test_an_event_that_is_given_up_at_once_does_not_hold_its_key_up(backend: Backend) -> None:
    theatre = Theatre(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if text == "a1":
            raise DeadLetter("hopeless")

    theatre.emit("a1", "a2")
    theatre.run(in_place(handle))
    assert theatre.at("a2") == 0.0


def test_late_handlers_and_blocking_handlers_wait_in_their_place_too(backend: Backend) -> None:
    theatre = Theatre(backend)

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt == 0 and text == "a1":
            await anyio.sleep(100)

    theatre.emit("a1", "a2")
    theatre.run(in_place(handle, timeout_s=1.0))
    assert theatre.runs == [("a1", 0), ("a1", 1), ("a2", 0)]

    blocking = Theatre(backend)

    def block(text: str, ctx: Context) -> None:
        blocking.note(text, ctx)
        if ctx.attempt == 0 and text == "a1":
            raise ValueError("not yet")

    blocking.emit("a1", "a2")
    blocking.run(in_place(block, style="sync"))
    assert blocking.runs == [("a1", 0), ("a1", 1), ("a2", 0)]


def test_no_lane_is_occupied_by_waiting(backend: Backend) -> None:
    theatre = Theatre(backend)
    keys = [chr(ord("A") + number) for number in range(40)]
    theatre.emit(*[f"{key}1" for key in keys], "z1")
    theatre.run(in_place(theatre.failing({f"{key}1": 1 for key in keys}), concurrency=1))
    assert theatre.at("z1") == 0.0
    assert len(theatre.finished()) == 41


def test_what_waits_does_not_take_the_place_of_what_could_run(backend: Backend) -> None:
    theatre = Theatre(backend)
    waiting = [f"{key}{number}" for key in "abcdefgh" for number in range(1, 11)]
    others = [f"z{number}" for number in range(1, 201)]
    theatre.emit(*waiting, *others)
    plan = in_place(theatre.failing({f"{key}1": 1 for key in "abcdefgh"}), concurrency=1, mailbox=100)
    theatre.run(plan)
    assert max(theatre.at(other) for other in others) < 1.0
    for key in "abcdefgh":
        assert of_key(key, theatre.finished()) == of_key(key, waiting)


def test_more_keys_than_may_wait_press_back_and_nothing_is_lost_or_overtaken(backend: Backend) -> None:
    theatre = Theatre(backend)
    keys = "abcdefghij"
    texts = [f"{key}{number}" for number in range(1, 6) for key in keys]

    async def handle(text: str, ctx: Context) -> None:
        theatre.note(text, ctx)
        if ctx.attempt < 2 and text.endswith("1"):
            raise ValueError("not yet")

    theatre.emit(*texts)
    theatre.run(in_place(handle, limit=2, mailbox=10, concurrency=3))
    for key in keys:
        assert of_key(key, theatre.finished()) == of_key(key, texts)
    assert len(theatre.finished()) == len(texts)
    waiting = [one.counters.waiting_keys for report in theatre.stage.reports for one in report.subscriptions]
    assert max(waiting) == 2
    assert theatre.stage.reports[-1].subscriptions[0].counters.waiting_keys == 0
    assert theatre.stage.reports[-1].subscriptions[0].counters.held_back == 0


def test_events_without_a_key_keep_no_order_and_use_retry_channels(backend: Backend) -> None:
    theatre = Theatre(backend)
    theatre.stage.store.append(Message(channel="events", payload=b'"n1"'))
    theatre.run(in_place(theatre.failing({"n1": 1})))
    assert theatre.stage.kinds() == ["RetryAt", "Acked"]


def test_what_was_read_from_a_retry_channel_goes_on_there(backend: Backend) -> None:
    theatre = Theatre(backend)
    theatre.stage.store.declare(_spec())
    theatre.stage.store.append(Message(channel="act.retry.1", payload=b'"a1"', key=b"a"))
    theatre.run(in_place(theatre.failing({"a1": 2})))
    assert theatre.stage.kinds() == ["RetryAt", "Acked"]
    assert theatre.runs == [("a1", 1), ("a1", 2)]


def _spec() -> SubscriptionSpec:
    return SubscriptionSpec(action="act", group="act", channels=("events",), retry_base="act", retry_count=3)


def test_by_channel_everything_of_the_channel_waits(backend: Backend) -> None:
    theatre = Theatre(backend)
    theatre.emit("a1", "b1")
    theatre.stage.store.append(Message(channel="others", payload=b'"c1"', key=b"c"))
    theatre.run(
        in_place(theatre.failing({"a1": 1}), order_by=OrderBy.CHANNEL, channels=("events", "others"), concurrency=2)
    )
    assert theatre.at("c1") == 0.0
    assert theatre.at("b1") >= theatre.at("a1", 1) >= 1.0


class ForgetfulDriver(MemoryDriver):
    """A driver that cannot keep attempts, and says so."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(CAPABILITIES, keeps_attempts=False)

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        settle = source.settle

        async def checked(settlements: Any) -> Any:
            assert not any(isinstance(one, Postponed) for one in settlements), "not the business of this driver"
            return await settle(settlements)

        source.settle = checked  # type: ignore[method-assign]
        return source


@pytest.mark.parametrize(
    ("driver", "attempts"), [(MemoryDriver, [0, 1, 2]), (ForgetfulDriver, [0, 0, 1, 2])], ids=["kept", "forgotten"]
)
def test_a_drain_hands_back_what_waits_and_the_next_process_goes_on_in_order(
    backend: Backend, driver: type[MemoryDriver], attempts: list[int]
) -> None:
    theatre = Theatre(backend)
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
    theatre = Theatre(backend)
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


class SlowToStop(MemoryDriver):
    """A driver whose last call of receive ends late."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        receive = source.receive

        async def late(max_count: int, max_bytes: int) -> list[Delivery]:
            batch = await receive(max_count, max_bytes)
            if not batch:
                await anyio.sleep(2)
            return batch

        source.receive = late  # type: ignore[method-assign]
        return source


def test_nothing_overtakes_a_failure_between_the_wish_to_stop_and_the_end_of_receiving(backend: Backend) -> None:
    theatre = Theatre(backend)
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


def test_when_a_process_dies_another_one_goes_on_in_order(backend: Backend) -> None:
    theatre = Theatre(backend)
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


class RevokingDriver(MemoryDriver):
    """A driver that takes a source away for a while."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self._revoked: Revoked = nothing_revoked
        self._revoking = False

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        self._revoked = revoked
        source = await super().subscribe(spec)
        take = source._take
        source._take = lambda *room: [] if self._revoking else take(*room)  # type: ignore[method-assign]
        return source

    async def revoke(self, source: str) -> None:
        self._revoking = True
        await self._revoked(frozenset({source}))
        self._revoking = False
        self.store.wake()


def test_a_revocation_hands_back_what_waits_and_what_fails_meanwhile(backend: Backend) -> None:
    theatre = Theatre(backend)
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


class LosingDriver(MemoryDriver):
    """A driver that loses everything when the first delivery is postponed."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        settle = source.settle
        lost: list[Settlement] = []

        async def losing(settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
            postponed = [one for one in settlements if isinstance(one, Postponed)]
            if lost or not postponed:
                return await settle(settlements)
            lost.extend(postponed)
            self.lose_leases()
            return [Unsettled(one, LeaseLost("somebody else has it")) for one in settlements]

        source.settle = losing  # type: ignore[method-assign]
        return source


def test_what_was_postponed_with_a_lost_lease_is_not_run_again_here(backend: Backend) -> None:
    theatre = Theatre(backend)

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


def dedup_theatre(backend: Backend, lease_s: float = 5.0) -> Theatre:
    theatre = Theatre(backend, dedup=Dedup(store="memory", lease_s=lease_s))
    theatre.stage.claims = MemoryClaims(lease_s=lease_s, clock=theatre.time)
    return theatre


def with_dedup(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, effect_key=lambda delivery: "act:" + by_event(delivery))


def test_a_waiting_retry_is_not_its_own_duplicate_and_its_copy_is(backend: Backend) -> None:
    theatre = dedup_theatre(backend, lease_s=1.0)
    theatre.emit("a1", "a2", "a1")
    theatre.run(with_dedup(in_place(theatre.failing({"a1": 3}), attempts=3)))
    assert [run for run in theatre.runs if run[0] == "a1"] == [("a1", number) for number in range(4)]
    assert theatre.finished() == ["a1", "a2"]
    assert sum(isinstance(one, Acked) and one.dropped == DUPLICATE for one in theatre.stage.settled) == 1


@pytest.mark.parametrize("driver", [MemoryDriver, ForgetfulDriver])
def test_a_retry_that_was_handed_back_is_not_taken_for_a_duplicate(
    backend: Backend, driver: type[MemoryDriver]
) -> None:
    theatre = dedup_theatre(backend)
    theatre.emit("a1", "a2")
    plan = with_dedup(in_place(theatre.failing({"a1": 3})))

    async def first() -> None:
        async with theatre.stage.running(plan, driver=driver(theatre.stage.store), clock=theatre.time):
            await anyio.sleep(2)  # attempt 1 has failed, too

    theatre.play(first)
    theatre.run(plan, driver=driver(theatre.stage.store))
    assert theatre.finished() == ["a1", "a2"]


class AmnesiacDriver(MemoryDriver):
    """A driver whose notes of attempts are lost: all that it hands out is a first attempt again."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        receive = source.receive

        async def forgetting(max_count: int, max_bytes: int) -> list[Delivery]:
            return [msgspec.structs.replace(one, attempt=0, due_ms=0) for one in await receive(max_count, max_bytes)]

        source.receive = forgetting  # type: ignore[method-assign]
        return source


def test_a_retry_that_was_handed_back_and_whose_attempts_were_forgotten_is_not_lost(backend: Backend) -> None:
    theatre = dedup_theatre(backend)
    theatre.emit("a1", "a2")
    plan = with_dedup(in_place(theatre.failing({"a1": 2})))

    async def for_a_while(driver: MemoryDriver) -> None:
        async with theatre.stage.running(plan, driver=driver, clock=theatre.time):
            await anyio.sleep(0.5)

    theatre.play(partial(for_a_while, MemoryDriver(theatre.stage.store)))  # attempt 0 fails
    theatre.play(partial(for_a_while, MemoryDriver(theatre.stage.store)))  # attempt 1 is not due yet
    theatre.run(plan, driver=AmnesiacDriver(theatre.stage.store))
    assert theatre.finished() == ["a1", "a2"]


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


def test_what_waits_is_not_in_hand_when_its_process_dies(backend: Backend) -> None:
    theatre = Theatre(backend)
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


def test_lineage_tells_the_attempts_of_a_retry_in_its_place(backend: Backend) -> None:
    theatre = Theatre(backend)
    theatre.emit("a1")
    theatre.run(in_place(theatre.failing({"a1": 2})))
    entries = [entry_of("act", one, 0) for one in theatre.stage.settled]
    assert [(one.event_id, one.attempt, one.outcome, one.delay_s, one.next) for one in entries] == [
        ("a1", 0, "retried", 1.0, "events"),
        ("a1", 1, "retried", 2.0, "events"),
        ("a1", 2, "acked", None, None),
    ]
    assert entries[0].error == "ValueError: not yet"


def test_claims_of_others_in_the_headers_of_a_resumed_delivery_are_not_believed(backend: Backend) -> None:
    theatre = Theatre(backend)
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


def test_the_harness_shows_what_waits_in_its_place_among_the_retries(backend: Backend) -> None:
    @subscribe("orders", action="check", order_by="key")
    async def check(order: int, ctx: Context) -> None:
        if ctx.attempt == 0:
            raise ValueError("once")

    with Harness([check], settings={"check": {"retry": {"order": "key"}}}, backend=backend) as h:
        h.emit("orders", 1, key="ada")
        h.emit("orders", 2, key="ada")
        h.run_until_idle()
    assert [(one.payload, one.attempt, one.delay_s, one.channel) for one in h.retried] == [
        (1, 0, 1.0, "orders"),
        (2, 0, 1.0, "orders"),
    ]
    assert [one.payload for one in h.acked] == [1, 2]


def test_released_is_what_becomes_of_all_that_waits_when_its_worker_breaks(backend: Backend) -> None:
    theatre = Theatre(backend)
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
