"""Reloads of a real worker under load, a third of them onto something broken: judged by what the handlers wrote down.

``HEXA_RELOADS=300`` is the long form.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hexa_worker.testing.ledger import read
from tests.processes.test_app import LIMIT_S, Project

RELOADS = int(os.environ.get("HEXA_RELOADS", "30"))
HANDLERS = """
import asyncio
from hexa_worker import subscribe

@subscribe("work", action="do", concurrency=8)
async def do(event: dict) -> None:
    await asyncio.sleep(0.02)
"""


def _mistakes(folder: Path, number: int) -> None:
    """Break the project in one of several ways."""
    toml, module = folder / "worker.toml", folder / "h.py"
    match number % 4:
        case 0:
            module.write_text(f"{HANDLERS}\ndef broken(:\n")
        case 1:
            module.write_text("import no_such_module\n")
        case 2:
            toml.write_text(toml.read_text().replace("processes", "proceses"))
        case 3:
            module.write_text(f"{HANDLERS}\nimport os\nos._exit(0)\n")


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_lost_or_done_twice_by_reloads_under_load(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    monkeypatch.setenv("HEXA_WORKER_LEDGER", str(ledger))
    worker = f'processes = {processes}\nmiddlewares = ["hexa_worker.testing.ledger:middleware"]'
    project = Project(tmp_path, worker)
    toml = tmp_path / "worker.toml"
    good = toml.read_text()
    (tmp_path / "h.py").write_text(HANDLERS)
    logs = tmp_path / "logs"
    emitted = 0
    reloads = RELOADS // processes**2
    with logs.open("wb") as out, subprocess.Popen(project.command("run"), cwd=tmp_path, stderr=out) as parent:
        try:
            _until(lambda: logs.read_text().count("process is ready") == processes, "a start")
            for number in range(reloads):
                if number % 3 == 0:
                    project.emit(*({"n": emitted + one} for one in range(400)))
                    emitted += 400
                broken = number % 3 == 2
                if broken:
                    _mistakes(tmp_path, number // 3)
                said = "reload failed" if broken else "reload done"
                before = logs.read_text().count(said)
                parent.send_signal(signal.SIGHUP)
                _until(lambda before=before, said=said: logs.read_text().count(said) > before, said)  # type: ignore[misc]
                toml.write_text(good)
                (tmp_path / "h.py").write_text(HANDLERS)
        finally:
            parent.send_signal(signal.SIGTERM)
            assert parent.wait(LIMIT_S) == 0, logs.read_text()
    run = project.call("run", "--until-idle")
    assert run.returncode == 0, run.stderr
    runs = Counter(entry.event for entry in read(ledger) if entry.what == "handle_ok")
    assert len(runs) == emitted, "events are lost"
    assert set(runs.values()) == {1}, "something ran twice"
    errors = [line for line in logs.read_text().splitlines() if '"level":"error"' in line]
    assert len(errors) == reloads // 3, errors
    assert project.dead() == []
