"""The chaos run: emit, break things by plan, wait until all is done, and let the ledger judge.

Everything is seen from outside: real processes started by the real command line, SIGKILL to children, to the
parent and to the broker, a proxy that spoils the network, a ledger written by handlers and emitter, and a scan of
the broker at the end.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec
from msgspec import structs

from hexa_worker.config.load import load_config
from hexa_worker.core.message import Delivery
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import make_driver, opened, specs
from hexa_worker.subscriptions.loader import load_plans
from hexa_worker.testing import judge
from hexa_worker.testing.ledger import VARIABLE, read
from tests.chaos.emitting import Emitting
from tests.chaos.operations import operations
from tests.chaos.plan import SIZES, Amounts, Blow, Round, expected_s, make_plan
from tests.chaos.stages import Stage
from tests.chaos.watch import Watch
from tests.chaos.worker_group import WorkerGroup

ACTIONS = ("work", "ordered", "spread")
MAILBOX = 200
RECOVERY_S = 10.0
"""Consuming again so soon after the broker is back."""
MAXIMUM_CRASHES = 3
KILLERS_S = 30.0
CALM_S = 2.0
"""A process that died so long ago has its successor."""
POLICY = RetryPolicy(initial_interval_s=0.1, backoff_coefficient=2, maximum_retries=3)
STEADY = structs.replace(POLICY, order="key")
WORKER_TOML = """
[worker]
name = "{name}"
handlers = ["tests.chaos.chaos_handlers"]
processes = {processes}
middlewares = ["hexa_worker.testing.ledger:middleware"]
backend = "{backend}"
shutdown_grace_s = 5
process_restart = {{ max_restarts = 1000, window_s = 60, initial_delay_s = 0.05, maximum_delay_s = 0.2 }}
log = {{ level = "{log}" }}

[broker]
{table}

[subscriptions.work]
channel = "{name}.jobs"
group = "{name}.work"
mailbox = 200
[subscriptions.work.retry]
initial_interval_s = 0.1
backoff_coefficient = 2
maximum_retries = 3
[subscriptions.ordered]
channel = "{name}.jobs"
group = "{name}.ordered"
mailbox = 200
[subscriptions.spread]
channel = "{name}.jobs"
group = "{name}.spread"
mailbox = 200
[subscriptions.steady]
channel = "{name}.jobs"
group = "{name}.steady"
enabled = {steady}
mailbox = 200
[subscriptions.steady.retry]
order = "key"
maximum_waiting_keys = 20
initial_interval_s = 0.1
backoff_coefficient = 2
maximum_retries = 3
"""


@dataclass
class Chaos:
    """One run.

    Args:
        folder: where everything is kept.
        stage: which broker.
        amounts: what is broken, and how often.
        events: how many are emitted, at least.
        killers: how many events kill the process of the handler that gets them.
        seed: makes the plan and the events repeatable (not the times).
        name: of the worker and its channels; nobody else on the broker has it.
        tell: called with a line about each round.
    """

    folder: Path
    stage: Stage
    amounts: Amounts
    events: int
    killers: int = 5
    seed: int = 0
    processes: int = 3
    backend: str = "asyncio"
    name: str = "chaos"
    log: str = "error"
    finish_s: float = 90.0
    tell: Callable[[str], None] = lambda _: None
    faults: list[judge.Fault] = field(default_factory=list)
    changes: list[judge.Fault] = field(default_factory=list)
    broken: list[judge.Violation] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> list[judge.Violation]:
        """Do it; the violations found."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = WORKER_TOML.format(
            name=self.name,
            processes=self.processes,
            backend=self.backend,
            table=self.stage.table,
            log=self.log,
            steady=str(self.stage.steady).lower(),
        )
        (self.folder / "worker.toml").write_text(text)
        plan = make_plan(self.seed, self.amounts)
        self._operations = operations(self.stage.broker, self.folder, self.name)
        self._rate = self.events / (expected_s(plan, self.stage.restart_s) + len(plan))
        self.emitting = emitting = Emitting(
            self.folder, f"{self.name}.jobs", self.events, self.killers, self.seed, self._rate
        )
        with ExitStack() as stack:
            self._proxy = None if self.stage.broker is None else stack.enter_context(self.stage.broker.open_proxy())
            pool = stack.enter_context(ThreadPoolExecutor(2, "chaos"))
            emitted = pool.submit(emitting.run)
            stack.callback(emitting.hurry.set)
            self._wait_declared(emitting, emitted)
            environment = {VARIABLE: str(self.folder / "ledger"), "HEXA_CHAOS_CHILDREN": f"{self.name}.children"}
            self._fleet = WorkerGroup(self.folder, self.processes, environment)
            stack.callback(self._fleet.end)
            self._storm(plan, pool)
            emitting.hurry.set()
            emitted.result(timeout=self.finish_s)
            self._finish()
            return [*self.broken, *self._judge()]

    @staticmethod
    def _wait_declared(emitting: Emitting, emitted: Future[None]) -> None:
        while not emitting.declared.wait(0.1):
            if emitted.done():
                emitted.result()

    # -- the storm

    def _storm(self, plan: list[Round], pool: ThreadPoolExecutor) -> None:
        self._watch = Watch(self.folder / "ledger")
        self._fleet.start()
        if self._watch.wait_consuming(self._actions, time.monotonic(), 60.0) is None:
            raise AssertionError(f"nothing was consumed at all, see {self._fleet.log}")
        for number, blows in enumerate(plan, start=1):
            self._strike(blows, pool)
            took_s = self._recover(blows)
            self.tell(f"{number}/{len(plan)} {', '.join(one.what for one in blows)}: consuming after {took_s:.1f} s")

    def _strike(self, blows: Round, pool: ThreadPoolExecutor) -> None:
        """One round: kills from here, everything else beside it."""
        begin = time.monotonic()
        others = []
        for blow in blows:
            time.sleep(max(begin + blow.at_s - time.monotonic(), 0.0))
            match blow.what:
                case "kill-child":
                    self._note_kill(blow, self._fleet.kill_child(blow.pick))
                case "kill-parent":
                    self._note_kill(blow, self._fleet.kill_parent())
                case _:
                    others.append(pool.submit(self._do, blow))
        for other in others:
            other.result()

    def _note_kill(self, blow: Blow, faults: list[judge.Fault]) -> None:
        self.faults += faults
        self.done[blow.what] += bool(faults)

    def _do(self, blow: Blow) -> None:
        at = time.monotonic()
        forgets_s = lingers_s = 0.0
        match blow.what:
            case "scale":
                self._scale(blow.seconds)
            case "roll":
                self._check(self._fleet.roll(), "the rolling restart did not end")
            case "bad-roll":
                wrong = self._fleet.bad_roll(blow.pick)
                self._check(not wrong, wrong)
            case "operate":
                self._operate(int(blow.pick), at)
                return
            case "outage":
                self._outage(blow.seconds)
                forgets_s = self.stage.forgets_s
            case _:
                self._spoil(blow)
        self.done[blow.what] += 1
        fault = judge.Fault(at=at, until=time.monotonic())
        if blow.what in ("scale", "roll", "bad-roll"):
            self.changes.append(fault)
            return
        lingers_s = self.stage.lingers_s
        self.faults.append(msgspec.structs.replace(fault, forgets_s=forgets_s, lingers_s=lingers_s))

    def _operate(self, number: int, at: float) -> None:
        operation = self._operations[number % len(self._operations)]
        operation.act()
        self.done["operate"] += 1
        self.tell(f"an operator did: {operation.name}")
        channels = frozenset({f"{self.name}.jobs"} if operation.destroys else ())
        self.faults.append(
            judge.Fault(
                at=at,
                until=time.monotonic(),
                forgets_s=operation.forgets_s,
                lingers_s=self.stage.lingers_s,
                destroys=channels,
            )
        )

    def _outage(self, seconds: float) -> None:
        broker = self.stage.broker
        assert broker is not None
        broker.kill()
        time.sleep(seconds)
        broker.start()

    def _spoil(self, blow: Blow) -> None:
        broker, proxy = self.stage.broker, self._proxy
        assert broker is not None
        assert proxy is not None
        match blow.what:
            case "freeze":
                broker.freeze()
                time.sleep(blow.seconds)
                broker.thaw()
            case "cut":
                proxy.cut()
            case "black-hole":
                proxy.black_hole()
                time.sleep(blow.seconds)
                proxy.heal()

    def _scale(self, pause_s: float) -> None:
        for count in (*SIZES, self.processes):
            self._check(self._fleet.scale(count), f"there were never {count} processes")
            time.sleep(pause_s)

    def _recover(self, blows: Round) -> float:
        """Wait until every subscription consumes; the judge finds out by itself whether that took too long.

        Returns:
            How long it took, infinite when it was not waited for any longer.
        """
        self._fleet.revive()
        since = max([one.until for one in (*self.faults, *self.changes)], default=time.monotonic())
        took = self._watch.wait_consuming(self._actions, since, RECOVERY_S + 2 * self.stage.redelivery_s + 1.0)
        kind = next((blow.what for blow in blows if not blow.what.startswith("kill")), "kill")
        took_s = float("inf") if took is None else took
        self.recoveries[kind].append(took_s)
        return took_s

    def _check(self, good: bool, text: str) -> None:
        if not good:
            self.broken.append(judge.Violation("I9", text))

    def _finish(self) -> None:
        """Stop the worker as an operator would, then run until idle."""
        self._outlive_killers()
        self.broken += [judge.Violation("I9", f"the worker ended by itself, code {one}") for one in self._fleet.ended]
        code = self._fleet.stop()
        self._check(code == 0, f"the drained worker ended with {code}")
        code = self._fleet.run_until_idle(self.finish_s)
        if code != 0:
            raise AssertionError(f"run --until-idle ended with {code}, see {self._fleet.log}")

    def require_all_done(self) -> None:
        """Fail if a blow of the plan was not struck, or almost nothing was handled: such a run proves nothing."""
        wanted = Counter(blow.what for blows in make_plan(self.seed, self.amounts) for blow in blows)
        assert self.done == wanted
        assert self.seen["handle_ok"] >= len(self._actions) * self.events / 2
        assert self.dead

    def _outlive_killers(self) -> None:
        """Let the killers be given up first, for a while: one that is handled in the drain would make it fail."""
        deadline = time.monotonic() + KILLERS_S
        while time.monotonic() < deadline:
            entries = read(self.folder / "ledger")
            starts = Counter(one.event for one in entries if one.what == "handle_start" and one.action == "work")
            last = max((one.at for one in entries if one.what == "dying"), default=0.0)
            over = all(starts[killer] >= MAXIMUM_CRASHES for killer in self.emitting.killers)
            if over and time.monotonic() - last > CALM_S:
                return
            time.sleep(0.5)

    # -- the judgement

    @property
    def _actions(self) -> tuple[str, ...]:
        return (*ACTIONS, "steady") if self.stage.steady else ACTIONS

    def _judge(self) -> list[judge.Violation]:
        entries = read(self.folder / "ledger")
        self.seen = Counter(entry.what for entry in entries)
        stage = self.stage
        channels = frozenset({f"{self.name}.jobs"})
        judged = {
            "work": judge.JudgedSubscription(channels=channels, policy=POLICY),
            "ordered": judge.JudgedSubscription(channels=channels, policy=RetryPolicy(), order_by="key"),
            "steady": judge.JudgedSubscription(channels=channels, policy=STEADY, order_by="key"),
            "spread": judge.JudgedSubscription(channels=channels, policy=RetryPolicy()),
        }
        expected = judge.Expected(
            actions={action: judged[action] for action in self._actions},
            faults=self.faults,
            changes=self.changes,
            in_flight=MAILBOX * len(self._actions),
            uncommitted_s=stage.uncommitted_s,
            processes=max(self.processes, *SIZES),
            recovery_s=None if stage.broker is None else RECOVERY_S,
            redelivery_s=stage.redelivery_s,
            republishes=stage.republishes,
            finish_s=self.finish_s,
        )
        return judge.check(entries, anyio.run(self._scan), expected)

    async def _scan(self) -> judge.Scan:
        config = load_config(self.folder / "worker.toml")
        dead: list[judge.Stored] = []
        waiting: list[judge.Stored] = []
        backlog: dict[str, int] = {}
        async with opened(make_driver(config)) as driver:
            for spec in specs(load_plans(config)):
                dead += [judge.stored(one) for one in await _all(driver, spec.dead_letter_channel)]
                for channel in () if self.stage.keeps_retries else spec.retry_channels:
                    waiting += [judge.stored(one) for one in await _all(driver, channel)]
                source = await driver.subscribe(spec)
                left = await source.backlog()
                backlog[spec.action] = left.ready + left.delayed + left.leased
                await source.close()
        self.dead = len(dead)
        return judge.Scan(dead=dead, waiting=waiting, backlog=backlog)


async def _all(driver: Driver, channel: str) -> list[Delivery]:
    found: list[Delivery] = []
    after = -1
    while page := await driver.browse(channel, after, 1000):
        found += page
        after = page[-1].offset
    return found
