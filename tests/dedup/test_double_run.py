"""The double-run audit: every event is stored twice and processes are killed, yet each effect happens once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import anyio
import psutil
import pytest

from hexa_worker import Event
from hexa_worker.app import make_driver, opened, specs
from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.load import load_config
from hexa_worker.emitter import Emitter
from hexa_worker.handlers.loader import load_plans
from tests.brokers.base import Broker
from tests.dedup.effects import EFFECTS

EVENTS = 3_000
KILLS = 6
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
retry = {{ initial_interval_s = 0.1, maximum_attempts = 3 }}
"""


async def emit_twice(config_path: Path) -> None:
    config = load_config(config_path)
    events = [Event(channel="jobs", payload=number, id=f"job-{number}") for number in range(EVENTS)]
    async with opened(make_driver(config)) as driver:
        await driver.declare(specs(load_plans(config)))
        emitter = Emitter(driver, SystemClock(), encode)
        for start in range(0, EVENTS, 100):
            for _ in range(2):
                answers = await emitter.emit_many(events[start : start + 100])
                assert all(isinstance(one, str) for one in answers)


def kill_some(worker: psutil.Popen, chance: random.Random) -> int:
    """Kill children while the worker runs; how many."""
    killed = 0
    while killed < KILLS and worker.poll() is None:
        time.sleep(chance.uniform(0.3, 0.8))
        try:
            children = [one for one in worker.children() if one.is_running()]
            if children:
                chance.choice(children).send_signal(signal.SIGKILL)
                killed += 1
        except psutil.NoSuchProcess:
            continue
    return killed


def audit(folder: Path, dedup: str) -> None:
    path = folder / "worker.toml"
    path.write_text(WORKER_TOML.format(processes=PROCESSES, dedup=dedup, mailbox=MAILBOX))
    effects = folder / "effects"
    anyio.run(emit_twice, path)
    environment = {**os.environ, EFFECTS: str(effects), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "hexa_worker", "run", str(path), "--until-idle"]
    with (folder / "log").open("wb") as log:
        worker = psutil.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            killed = kill_some(worker, random.Random(5))
            assert worker.wait(timeout=90) == 0, (folder / "log").read_text()
        finally:
            if worker.poll() is None:
                worker.kill()
    fences: dict[int, list[int]] = defaultdict(list)
    for line in effects.read_text().splitlines():
        number, fence, _ = line.split()
        fences[int(number)].append(int(fence))
    assert sorted(fences) == list(range(EVENTS)), "an event was lost"
    repeated = {number: seen for number, seen in fences.items() if len(seen) > 1}
    assert killed >= 2
    assert sum(len(seen) - 1 for seen in repeated.values()) <= killed * MAILBOX, "more than what was in hand"
    assert all(seen == sorted(set(seen)) for seen in repeated.values()), "a fence does not show who came later"


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
