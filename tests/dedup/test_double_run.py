"""The double-run audit: every event is stored twice and processes are killed, yet each effect happens once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import psutil
import pytest

from hexa_worker import Event
from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.load import load_config
from hexa_worker.drivers.opening import make_driver, opened, specs
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.subscriptions.loader import load_plans
from tests.dedup.effects import EFFECTS
from tests.lab.base import Broker

EVENTS = 10_000
ACTIONS = ("work", "count")
BATCH = 500
KILLS = 8
MAILBOX = 50
PROCESSES = 2
WORKER_TOML = """
[worker]
name = "audit"
handlers = ["tests.dedup.effects"]
processes = {processes}
process_restart = {{ max_restarts = 1000, window_s = 60, initial_delay_s = 0.05, maximum_delay_s = 0.2 }}
maximum_crashes = 1000
log = {{ level = "error" }}
[broker]
driver = "embedded"
[dedup]
lease_s = 1
{dedup}
[subscriptions.work]
mailbox = {mailbox}
concurrency = 8
retry = {{ initial_interval_s = 0.1, maximum_retries = 3 }}
[subscriptions.count]
mailbox = {mailbox}
"""


class Effect(NamedTuple):
    """One line of the ledger that the handlers write."""

    root: str
    action: str
    fence: int
    pid: int


async def emit_twice(config_path: Path) -> None:
    config = load_config(config_path)
    events = [Event(channel="jobs", payload=number, id=f"job-{number}") for number in range(EVENTS)]
    async with opened(make_driver(config)) as driver:
        await driver.declare(specs(load_plans(config)))
        emitter = EventEncoder(driver, SystemClock(), encode)
        for start in range(0, EVENTS, BATCH):
            for _ in range(2):
                answers = await emitter.emit_many(events[start : start + BATCH])
                assert all(isinstance(one, str) for one in answers)


def kill_some(worker: psutil.Popen, chance: random.Random) -> set[int]:
    """Kill children while the worker runs; which."""
    killed = set[int]()
    while len(killed) < KILLS and worker.poll() is None:
        time.sleep(chance.uniform(0.3, 0.8))
        with suppress(psutil.NoSuchProcess):
            children = [one for one in worker.children() if one.is_running()]
            if children:
                victim = chance.choice(children)
                victim.send_signal(signal.SIGKILL)
                killed.add(victim.pid)
    return killed


def run_and_kill(folder: Path, config: Path, effects: Path) -> set[int]:
    """Run the worker until nothing is left to do, and kill its processes meanwhile; which."""
    environment = {**os.environ, EFFECTS: str(effects), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "hexa_worker", "run", str(config), "--until-idle"]
    with (folder / "log").open("wb") as log:
        worker = psutil.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            killed = kill_some(worker, random.Random(5))
            assert worker.wait(timeout=90) == 0, (folder / "log").read_text()
        finally:
            if worker.poll() is None:
                worker.kill()
    return killed


def judge(effects: Sequence[Effect], killed: set[int]) -> None:
    """Each effect once; twice only where the process that had it in hand was killed, and then the fence shows it."""
    by_effect: dict[tuple[str, str], list[Effect]] = defaultdict(list)
    for one in effects:
        by_effect[one.root, one.action].append(one)
    wanted = {(f"job-{number}", action) for number in range(EVENTS) for action in ACTIONS}
    assert set(by_effect) == wanted, "an event was lost"
    assert len(killed) >= 2
    earlier = [one for seen in by_effect.values() for one in seen[:-1]]
    repeats = Counter((one.pid, one.action) for one in earlier if one.pid in killed)
    assert repeats.total() == len(earlier), "more than what was in hand: its process lived on"
    assert all(count <= MAILBOX for count in repeats.values()), f"more than what was in hand: {repeats}"
    fences = ([one.fence for one in seen] for seen in by_effect.values())
    assert all(seen == sorted(set(seen)) for seen in fences), "a fence does not show who came later"


def audit(folder: Path, dedup: str) -> None:
    config, effects = folder / "worker.toml", folder / "effects"
    config.write_text(WORKER_TOML.format(processes=PROCESSES, dedup=dedup, mailbox=MAILBOX))
    anyio.run(emit_twice, config)
    killed = run_and_kill(folder, config, effects)
    lines = [line.split() for line in effects.read_text().splitlines()]
    judge([Effect(root, action, int(fence), int(pid)) for root, action, fence, pid in lines], killed)


@pytest.mark.slow
@pytest.mark.chaos
def test_each_effect_happens_once_with_claims_in_a_file(tmp_path: Path) -> None:
    audit(tmp_path, 'store = "embedded"')


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.redis
def test_each_effect_happens_once_with_claims_in_redis(
    tmp_path: Path, redis: Broker, unique_name: Callable[..., str]
) -> None:
    audit(tmp_path, f'store = "redis"\nnamespace = "{unique_name()}"\nurl = "{redis.address}"\ntimeout_s = 5')


@pytest.mark.slow
@pytest.mark.chaos
def test_the_audit_finds_a_worker_without_deduplication(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="more than what was in hand"):
        audit(tmp_path, 'store = "none"')
