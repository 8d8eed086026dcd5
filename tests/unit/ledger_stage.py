"""A stage for the ledger's judge: real workers on the memory driver in virtual time, killed and stopped at will."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from hexa_worker import Context, DeadLetter, Event, subscribe
from hexa_worker.app import ServeOptions, serve
from hexa_worker.codecs import encode
from hexa_worker.config.model import Config, File, Memory, WorkerConfig
from hexa_worker.config.model import Subscription as SubscriptionTable
from hexa_worker.core.retry import Retries, RetryPolicy
from hexa_worker.drivers.base import Revoked, SubscriptionSpec, nothing_revoked
from hexa_worker.drivers.memory import MemoryDriver, MemorySource, MemoryStore
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.stop import StopSignals
from hexa_worker.subscriptions.collect import Marked
from hexa_worker.subscriptions.merge import make_plan
from hexa_worker.subscriptions.plan import Loaded, Plan
from hexa_worker.testing.judge import Expected, Fault, JudgedSubscription, Scan, Violation, check, stored
from hexa_worker.testing.ledger import Ledger, read, recording
from hexa_worker.testing.virtual import VirtualTime

T = TypeVar("T", bound=msgspec.Struct)
MAILBOX = 20
POLICY = RetryPolicy(initial_interval_s=0.5, maximum_retries=3)


class MortalLedger(Ledger):
    """A ledger of a simulated process: nothing is written after its death."""

    dead = False

    def _write(self, what: Any, **fields: Any) -> None:
        if not self.dead:
            super()._write(what, **fields)


@subscribe("work", action="do", concurrency=4, order_by="none")
async def do(payload: dict[str, int], ctx: Context) -> None:
    """Succeed, fail once, fail always, give up or be slow, as the number says."""
    number = payload["n"]
    await anyio.sleep(0.3 if number % 7 == 0 else 0.01)
    if number % 5 == 0 and ctx.attempt == 0:
        raise ValueError("not yet")
    if number % 17 == 3:
        raise ValueError("never")
    if number % 23 == 4:
        raise DeadLetter("no")


MakeSource = Callable[[MemoryStore, SubscriptionSpec], MemorySource]


class StagedDriver(MemoryDriver):
    """A memory driver with a source of one's choice."""

    def __init__(self, store: MemoryStore, make_source: MakeSource) -> None:
        super().__init__(store)
        self._make_source = make_source

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        del revoked
        source = self._make_source(self.store, spec)
        self._sources.append(source)
        return source


class Stage:
    """One run: emits, processes that come and go, the ledger, and the verdict.

    Args:
        folder: for the ledger's files.
        make_source: the broker's side of a subscription; a mutant breaks it.
        order_by: the order that is asked for and judged.
        seed: decides when processes die.
    """

    def __init__(
        self, folder: Path, make_source: MakeSource = MemorySource, *, order_by: str = "none", seed: int = 1
    ) -> None:
        self.time = VirtualTime()
        self.store = MemoryStore(self.time)
        self._folder = folder
        self._make_source = make_source
        self._order_by = order_by
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._pid = 100
        table = SubscriptionTable(mailbox=MAILBOX, order_by=order_by, retry=Retries(initial_s=0.5, maximum=3))  # type: ignore[arg-type]
        file = File(worker=WorkerConfig(name="stage", handlers=()), broker=Memory(), subscriptions={"do": table})
        self._config = Config(path=Path("worker.toml"), file=file)
        self._plan: Plan = make_plan(self._config, Marked(do, do.__hexa_worker_subscriptions__[0]), ())  # type: ignore[attr-defined]

    def run(self, *, events: int = 120, kills: int = 0, stops: int = 0, absent_s: float = 0.0) -> list[Violation]:
        """Emit, run processes one after the other (some killed, some stopped), drain, and judge."""
        self.time.run(self._emit, events)
        ends = ["kill"] * kills + ["stop"] * stops
        self._random.shuffle(ends)
        for end in ends:
            self.time.run(self._process, end)
            self.time.pass_s(absent_s if end == "kill" else 0.0)
        self.time.run(self._process, "idle")
        scan = self.time.run(self._scan)
        entries = read(self._folder)
        expected = Expected(
            actions={
                "do": JudgedSubscription(channels=frozenset({"work"}), policy=POLICY, order_by=self._order_by)  # type: ignore[arg-type]
            },
            faults=self._faults,
            in_flight=MAILBOX,
            settle_s=0.2,
            recovery_s=1.0,
            finish_s=30.0,
        )
        return check(entries, scan, expected)

    async def _emit(self, count: int) -> None:
        ledger = Ledger(self._folder, pid=1, monotonic=self.time.monotonic)
        emitter = EventEncoder(MemoryDriver(self.store), self.time, encode)
        for number in range(count):
            payload = {"n": number}
            token = ledger.emit_begin("work", encode(payload), key=f"k{number % 5}")
            ledger.emit_ok(token, await emitter.emit(Event(channel="work", payload=payload, key=f"k{number % 5}")))
        ledger.close()

    async def _process(self, end: str) -> None:
        self._pid += 1
        ledger = MortalLedger(self._folder, pid=self._pid, monotonic=self.time.monotonic)
        driver = StagedDriver(self.store, self._make_source)
        stop = StopSignals()
        loaded = Loaded(plans=(self._plan,), middlewares=(recording(ledger),))
        async with anyio.create_task_group() as group:

            async def serve_it() -> None:
                options = ServeOptions(until_idle=end == "idle", driver=driver, clock=self.time)
                await serve(self._config, loaded, stop, options)

            group.start_soon(serve_it)
            if end == "idle":
                return
            await anyio.sleep(self._random.uniform(0.02, 0.6))
            if end == "kill":
                ledger.dead = True
                self._faults.append(Fault(at=self.time.monotonic(), until=self.time.monotonic(), pid=self._pid))
                driver.crash()
                group.cancel_scope.cancel()
            else:
                stop.ask()

    async def _scan(self) -> Scan:
        driver = MemoryDriver(self.store)
        spec = SubscriptionSpec(
            action="do", group="do", channels=("work",), retry_base="do", retry_count=POLICY.maximum_retries
        )
        waiting = [stored(one) for name in spec.retry_channels for one in await driver.browse(name, -1, 10_000)]
        dead = [stored(one) for one in await driver.browse(spec.dead_letter_channel, -1, 10_000)]
        backlog = await (await driver.subscribe(spec)).backlog()
        await driver.close()
        return Scan(dead=dead, waiting=waiting, backlog={"do": backlog.ready + backlog.leased + backlog.delayed})


def changed(record: T, **fields: Any) -> T:
    """A copy of a frozen record with other fields."""
    return msgspec.structs.replace(record, **fields)


def invariants(violations: Sequence[Violation]) -> set[str]:
    """Which invariants were violated."""
    return {one.invariant for one in violations}
