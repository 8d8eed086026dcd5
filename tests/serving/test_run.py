"""`hexa_worker.run`: the command's worker, called by a script."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hexa_worker import ConfigError, run

SCRIPT = """
import sys
from hexa_worker import Event, SyncEmitter, run, subscribe

@subscribe("work")
def do(number: int) -> None:
    print("handled", number, flush=True)

if __name__ == "__main__":
    with SyncEmitter.from_config("worker.toml") as emitter:
        emitter.emit("work", 7)
    sys.exit(run("worker.toml", processes=1, until_idle=True))
"""
WORKER = 'worker = { name = "w", handlers = ["script"] }\nbroker = { driver = "embedded", path = "hexa.db" }\n'


def test_a_script_emits_runs_a_worker_and_ends_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "worker.toml").write_text(WORKER)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.count("handled 7")) == (0, 1), done.stderr


def test_a_thread_is_told_that_it_cannot_take_signals() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="main thread"):
        pool.submit(run, "worker.toml").result()
