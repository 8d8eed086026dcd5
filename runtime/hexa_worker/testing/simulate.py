"""Simulation: a user's handlers in several simulated processes that crash, stall and lose their broker.

Everything runs in one event loop, in virtual time, and follows from the seed: a failure is replayed by running
its seed again. Processes die at the fault points of the runtime (`hexa_worker.faults.POINTS`), leases are lost
while handlers run, the broker goes away and comes back. At the end the ledger is judged: nothing may be lost.

A handler is part of what is simulated: one that uses real time, real randomness or threads makes its own luck.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import anyio
import msgspec

from hexa_worker import faults
from hexa_worker.app import ServeOptions, serve
from hexa_worker.codecs import encode
from hexa_worker.core.lineage import EVENT_ID, read_id
from hexa_worker.core.message import Message
from hexa_worker.core.settlement import Settlement
from hexa_worker.drivers.base import Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore
from hexa_worker.drivers.opening import specs
from hexa_worker.errors import DriverError, DriverUnavailable, HexaWorkerError
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.api import Event, Next
from hexa_worker.telemetry.report import Report
from hexa_worker.testing.harness import complete, load_handlers
from hexa_worker.testing.judge import Expected, Fault, JudgedSubscription, Scan, Violation, check, stored
from hexa_worker.testing.ledger import LedgerEntry, LedgerLines, recording
from hexa_worker.testing.virtual import VirtualTime

LIMIT_S = 36_000.0
SETTLE_S = 3.0
STALL_S = 5.0
RECOVERY_S = 30.0


class FaultRates(msgspec.Struct, frozen=True, kw_only=True):
    """How much goes wrong.

    Attributes:
        crash: the probability that a process dies at a fault point that it passes.
        stall: the same for losing all leases and living on.
        away: the same for the broker going away, for up to `away_s`.
        away_s: the longest time the broker stays away, in seconds.
        most: when so many things have gone wrong, nothing more does.
    """

    crash: float = 0.05
    stall: float = 0.02
    away: float = 0.02
    away_s: float = 3.0
    most: int = 20


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one simulation.

    Attributes:
        seed: replays it.
        violations: what must not happen, and did.
        faults: what went wrong on purpose.
        entries: the ledger.
        lasted_s: virtual seconds.
    """

    seed: int
    violations: Sequence[Violation]
    faults: Sequence[Fault]
    entries: Sequence[LedgerEntry]
    lasted_s: float


class SimulationFailed(HexaWorkerError):
    """An invariant does not hold in a simulation; the seed in its text replays it."""


MakeSource = Callable[[MemoryStore, SubscriptionSpec], MemorySource]


def simulate(  # noqa: PLR0913 - one keyword per choice
    handlers: Sequence[ModuleType | Callable[..., Any]],
    events: Sequence[Event],
    *,
    seed: int,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    processes: int = 2,
    troubles: FaultRates = FaultRates(),  # noqa: B008 - a frozen value
    source: MakeSource = MemorySource,
) -> Simulated:
    """Run handlers over events while things go wrong, and judge the result.

    Args:
        handlers: modules that hold handlers, or handler functions themselves.
        events: what is emitted at the beginning.
        seed: decides all that goes wrong.
        settings: what worker.toml would say under ``[subscriptions]``, by action.
        processes: how many simulated processes run at once.
        troubles: how much goes wrong.
        source: makes the broker's side of a subscription; a broken one shows that it is found.

    Raises:
        SimulationFailed: an invariant of `hexa_worker.testing.judge` is violated.
        ConfigError: handlers or settings cannot work.
    """
    simulation = _Simulation(handlers, settings, seed, troubles, source)
    with _seeded(seed):
        simulation.time.run(simulation.run, events, processes)
    result = simulation.judge()
    if result.violations:
        listed = "\n".join(f"- {one.invariant} {one.action} {one.event}: {one.text}" for one in result.violations[:10])
        raise SimulationFailed(f"{len(result.violations)} violations, replay with seed={seed}:\n{listed}")
    return result


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Make the runtime's own randomness (jitter, backoff) follow from the seed."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


class _Lines(LedgerLines):
    """A simulated process's ledger: in memory, and silent after its death."""

    def __init__(self, pid: int, time: VirtualTime, entries: list[LedgerEntry]) -> None:
        super().__init__(pid, time.monotonic)
        self.dead = False
        self._entries = entries

    def _keep(self, entry: LedgerEntry) -> None:
        if not self.dead:
            self._entries.append(entry)


class _Driver(MemoryDriver):
    """A simulated process's driver; what it publishes is written into its ledger."""

    def __init__(self, store: MemoryStore, lines: _Lines, make_source: MakeSource = MemorySource) -> None:
        super().__init__(store)
        self._lines = lines
        self._make_source = make_source

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        if self._lines.dead:
            raise DriverUnavailable("the process of this driver is dead")  # it ends at its next step
        begun = [(self._begin(message), message) for message in messages]
        answers = await super().publish(messages)
        for (token, message), answer in zip(begun, answers, strict=True):
            event = read_id(message.headers, EVENT_ID)
            if isinstance(answer, str) and event is not None:
                self._lines.emit_ok(token, event)
            else:
                self._lines.emit_unknown(token)
        return answers

    def _begin(self, message: Message) -> str:
        key = None if message.key is None else message.key.decode(errors="replace")
        event = read_id(message.headers, EVENT_ID) or ""
        return self._lines.emit_begin(message.channel, message.payload, key, event)

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        del revoked
        self.store.require()
        source = self._make_source(self.store, spec)
        self._sources.append(source)
        if self._lines.dead:  # a worker that started just then gets here before its cancellation does
            source.crash()
        return source


class _Process:
    """One simulated process."""

    def __init__(self, lines: _Lines, driver: MemoryDriver) -> None:
        self.lines = lines
        self.driver = driver
        self.stop = StopSignals()
        self.scope = anyio.CancelScope()

    def die(self) -> None:
        self.lines.dead = True
        self.driver.crash()
        self.scope.cancel()


async def _pass_points(payload: Any, context: Any, call_next: Next) -> Any:
    """A middleware: handlers begin and end at fault points, too."""
    await faults.fault("before-handler")
    result = await call_next(payload, context)
    await faults.fault("after-handler")
    return result


_process: ContextVar[_Process] = ContextVar("simulated process")


class _Simulation:
    def __init__(
        self,
        handlers: Sequence[ModuleType | Callable[..., Any]],
        settings: Mapping[str, Mapping[str, Any]] | None,
        seed: int,
        troubles: FaultRates,
        make_source: MakeSource,
    ) -> None:
        self.time = VirtualTime()
        self._config, self._loaded = load_handlers(handlers, settings)
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._troubles = troubles
        self._make_source = make_source
        self._store = MemoryStore(self.time)
        self._entries: list[LedgerEntry] = []
        self._faults: list[Fault] = []
        self._running: dict[_Process, None] = {}
        self._pid = 0
        self._done = False
        for spec in specs(self._loaded):
            self._store.declare(spec)

    async def run(self, events: Sequence[Event], processes: int) -> None:
        await self._emit(events)
        self._done = self._idle
        before = faults.install(self._trouble)
        try:
            with anyio.move_on_after(LIMIT_S):
                async with anyio.create_task_group() as self._group:
                    for _ in range(processes):
                        self._group.start_soon(self._keep_running)
        finally:
            faults.install(before)

    async def _emit(self, events: Sequence[Event]) -> None:
        lines = self._new_lines()
        emitter = EventEncoder(_Driver(self._store, lines), self.time, encode)
        for event in events:
            await emitter.emit(event)

    def _new_lines(self) -> _Lines:
        self._pid += 1
        return _Lines(self._pid, self.time, self._entries)

    # -- processes

    async def _keep_running(self) -> None:
        """One slot: a process, and after its death another."""
        # Not done only: a handler that had lost its lease may have emitted while its process drained.
        while not (self._done and self._idle):
            lines = self._new_lines()
            process = _Process(lines, _Driver(self._store, lines, self._make_source))
            _process.set(process)
            self._running[process] = None
            with process.scope:
                await self._serve(process)
            del self._running[process]
            await anyio.sleep(0.1)

    async def _serve(self, process: _Process) -> None:
        middlewares = (recording(process.lines), _pass_points, *self._loaded.middlewares)
        await serve(
            self._config,
            msgspec.structs.replace(self._loaded, middlewares=middlewares),
            process.stop,
            ServeOptions(driver=process.driver, clock=self.time, record=self._record, report=self._look),
        )

    @property
    def _idle(self) -> bool:
        return all(self._store.backlog(plan.group).idle for plan in self._loaded.plans)

    def _record(self, _action: str, _settlements: Sequence[Settlement], _now_ms: int) -> None:
        self._look()

    def _look(self, _report: Report | None = None) -> None:
        if self._idle:
            self._done = True
            for process in self._running:
                process.stop.ask(1)

    # -- what goes wrong

    async def _trouble(self, _point: str) -> None:
        """Passed by every process at its fault points."""
        process, troubles = _process.get(None), self._troubles
        if process is None or self._done or len(self._faults) >= troubles.most or self._store.away:
            return
        if process.lines.dead:
            return  # the order in which its tasks end is the loop's, and no seed's
        luck = self._random.random()
        now = self.time.monotonic()
        if luck < troubles.crash:
            self._faults.append(Fault(at=now, until=now, pid=process.lines.pid))
            process.die()
            await anyio.sleep_forever()
        elif luck < troubles.crash + troubles.stall:
            # What waits in the mailbox is handled later, though it is somebody else's by now.
            self._faults.append(Fault(at=now, until=now + STALL_S, pid=process.lines.pid))
            process.driver.lose_leases()
        elif luck < troubles.crash + troubles.stall + troubles.away:
            until = now + self._random.uniform(0, troubles.away_s)
            self._faults.append(Fault(at=now, until=until))
            self._store.away = True
            self._group.start_soon(self._come_back, until - now)

    async def _come_back(self, after_s: float) -> None:
        await anyio.sleep(after_s)
        self._store.away = False

    # -- the end

    def judge(self) -> Simulated:
        """The verdict on what happened."""
        expected = Expected(
            actions={
                plan.action: JudgedSubscription(
                    channels=frozenset(self._store.groups[plan.group].positions),
                    policy=plan.retry,
                    order_by=plan.order_by.value,
                )
                for plan in self._loaded.plans
            },
            faults=self._faults,
            in_flight=max(plan.mailbox for plan in self._loaded.plans),
            settle_s=SETTLE_S,
            recovery_s=RECOVERY_S,
        )
        return Simulated(
            seed=self._seed,
            violations=check(self._entries, self._scan(), expected),
            faults=self._faults,
            entries=self._entries,
            lasted_s=self.time.monotonic(),
        )

    def _scan(self) -> Scan:
        self._store.away = False
        groups = {plan.action: self._store.backlog(plan.group) for plan in self._loaded.plans}
        backlog = {action: one.ready + one.delayed + one.leased for action, one in groups.items()}
        browse = MemoryDriver(self._store).browse
        found = [complete(browse(spec.dead_letter_channel, -1, sys.maxsize)) for spec in specs(self._loaded)]
        return Scan(dead=[stored(one) for records in found for one in records], backlog=backlog)
