"""The chaos run: emit, kill at random, wait until all is done, and let the ledger judge.

Everything is seen from outside: real processes started by the real command line, SIGKILL to children and to
the parent, a ledger written by handlers and emitter, and a scan of the broker at the end.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec
import psutil

from hexa_worker import Event
from hexa_worker.app import make_driver, opened, specs
from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.load import load_config
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.emitter import Emitter
from hexa_worker.errors import DriverUnavailable
from hexa_worker.handlers.loader import load_plans
from hexa_worker.testing import check as judge
from hexa_worker.testing.ledger import VARIABLE, Ledger, read

MAILBOX = 200
BATCH = 100
KEYS = 50
MIX = [("ok", 880), ("fail-once", 40), ("slow", 50), ("later", 20), ("fail", 5), ("hopeless", 5)]
POLICY = RetryPolicy(initial_interval_s=0.1, backoff_coefficient=2, maximum_attempts=3)
WORKER_TOML = """
[worker]
name = "chaos"
handlers = ["tests.chaos.crew"]
processes = {processes}
middlewares = ["hexa_worker.testing.ledger:middleware"]
backend = "{backend}"
shutdown_grace_s = 5
process_restart = {{ max_restarts = 1000, window_s = 60, initial_delay_s = 0.05, maximum_delay_s = 0.2 }}
log = {{ level = "error" }}

[broker]
driver = "embedded"
path = "var/hexa.db"
durability = "{durability}"

[subscriptions.work]
mailbox = 200
[subscriptions.work.retry]
initial_interval_s = 0.1
backoff_coefficient = 2
maximum_attempts = 3
[subscriptions.ordered]
mailbox = 200
[subscriptions.spread]
mailbox = 200
"""


@dataclass
class Chaos:
    """One run.

    Args:
        folder: where everything is kept.
        events: how many are emitted.
        kills: how many processes are killed, about one in ten a parent.
        killers: how many events kill the process of the handler that gets them.
        seed: makes the choices repeatable (not the times).
    """

    folder: Path
    events: int
    kills: int
    killers: int = 5
    seed: int = 0
    processes: int = 3
    backend: str = "asyncio"
    durability: str = "normal"
    pause_s: float = 0.4
    finish_s: float = 90.0
    faults: list[judge.Fault] = field(default_factory=list)

    def run(self) -> list[judge.Violation]:
        """Do it; the violations found."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "worker.toml").write_text(
            WORKER_TOML.format(processes=self.processes, backend=self.backend, durability=self.durability)
        )
        self._random = random.Random(self.seed)
        load_config(self.folder / "worker.toml")
        with ThreadPoolExecutor(1, "emitter") as pool, self._worker() as first:
            emitted = pool.submit(anyio.run, self._emit_all)
            last = self._kill_at_random(first)
            emitted.result(timeout=self.finish_s)
            self._finish(last)
        return self._judge()

    # -- the emitter

    async def _emit_all(self) -> None:
        config = load_config(self.folder / "worker.toml")
        ledger = Ledger(self.folder / "ledger")
        chance = random.Random(self.seed + 1)
        names, weights = zip(*MIX, strict=True)
        killers = set(chance.sample(range(self.events), self.killers))
        clock = SystemClock()
        pace = self.kills * self.pause_s / self.events
        async with opened(make_driver(config)) as driver:
            await driver.declare(specs(load_plans(config)))
            emit = Emitter(driver, clock, encode).emit_many
            for start in range(0, self.events, BATCH):
                events = []
                for number in range(start, min(start + BATCH, self.events)):
                    does = "kill" if number in killers else chance.choices(names, weights)[0]
                    events.append(
                        Event(
                            channel="jobs",
                            payload={"number": number, "does": does},
                            key=f"k{number % KEYS}",
                            id=f"job-{number}",
                        )
                    )
                tokens = [
                    ledger.emit_begin("jobs", msgspec.json.encode(one.payload), str(one.key), one.id or "")
                    for one in events
                ]
                try:
                    for token, answer in zip(tokens, await emit(events), strict=True):
                        ledger.emit_ok(token, str(answer))
                except DriverUnavailable:
                    for token in tokens:
                        ledger.emit_unknown(token)
                await anyio.sleep(pace * BATCH * 0.8)

    # -- the worker and its end

    @contextmanager
    def _worker(self) -> Iterator[psutil.Popen]:
        worker = self._start("run")
        try:
            yield worker
        finally:
            for process in self._family(worker.pid):
                process.kill()

    def _start(self, *arguments: str) -> psutil.Popen:
        environment = {**os.environ, VARIABLE: str(self.folder / "ledger"), "PYTHONPATH": str(Path.cwd())}
        log = (self.folder / "worker.log").open("ab")
        return psutil.Popen(
            [sys.executable, "-m", "hexa_worker", *arguments], cwd=self.folder, env=environment, stderr=log, stdout=log
        )

    @staticmethod
    def _family(pid: int) -> list[psutil.Process]:
        try:
            parent = psutil.Process(pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _kill_at_random(self, worker: psutil.Popen) -> psutil.Popen:
        done = 0
        while done < self.kills:
            time.sleep(self._random.uniform(0.2, 1.8) * self.pause_s)
            family = self._family(worker.pid)
            if len(family) < 2:
                continue
            victim = family[0] if self._random.random() < 0.1 else self._random.choice(family[1:])
            doomed = family if victim is family[0] else [victim]
            at = time.monotonic()
            try:
                victim.send_signal(signal.SIGKILL)
                for one in doomed:
                    one.wait(timeout=5)
            except psutil.NoSuchProcess:
                continue
            self.faults += [judge.Fault(at=at, until=time.monotonic(), pid=one.pid) for one in doomed]
            done += 1
            if victim is family[0]:
                worker.wait()
                worker = self._start("run")
        return worker

    def _finish(self, worker: psutil.Popen) -> None:
        """Stop the worker as an operator would, then run until idle."""
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)
        last = self._start("run", "--until-idle")
        try:
            code = last.wait(timeout=self.finish_s)
        finally:
            for process in self._family(last.pid):
                process.kill()
        if code != 0:
            raise AssertionError(f"run --until-idle ended with {code}, see {self.folder / 'worker.log'}")

    # -- the judgement

    def _judge(self) -> list[judge.Violation]:
        entries = read(self.folder / "ledger")
        self.seen = Counter(entry.what for entry in entries)
        expected = judge.Expected(
            actions={
                "work": judge.Subscribed(channels=frozenset({"jobs"}), policy=POLICY),
                "ordered": judge.Subscribed(channels=frozenset({"jobs"}), policy=RetryPolicy(), order_by="key"),
                "spread": judge.Subscribed(channels=frozenset({"jobs"}), policy=RetryPolicy()),
            },
            faults=self.faults,
            in_hand=MAILBOX * 3,
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
                for channel in spec.retry_channels:
                    waiting += [judge.stored(one) for one in await _all(driver, channel)]
                source = await driver.subscribe(spec)
                left = await source.backlog()
                backlog[spec.action] = left.ready + left.delayed + left.leased
                await source.close()
        self.dead = len(dead)
        return judge.Scan(dead=dead, waiting=waiting, backlog=backlog)


async def _all(driver: object, channel: str) -> list:  # type: ignore[type-arg]  # deliveries
    found: list = []  # type: ignore[type-arg]  # as above
    after = -1
    while page := await driver.browse(channel, after, 1000):  # type: ignore[attr-defined]  # a Driver
        found += page
        after = page[-1].offset
    return found
