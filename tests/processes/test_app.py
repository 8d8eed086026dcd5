"""The real app in real processes, on the embedded broker."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from hexa_worker.processes.state_files import StateFiles
from hexa_worker.processes.suspects import CrashCounter

LIMIT_S = 60.0

HANDLERS = """
import anyio, asyncio, ctypes, os, signal, threading, time
from hexa_worker import Context, subscribe

@subscribe("work", action="do", concurrency=4, timeout_s=0.5)
async def do(event: dict, ctx: Context) -> None:
    what = event.get("what", "")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(0)
    elif what == "block":
        time.sleep(3600)
    elif what == "thread" and not os.path.exists("ended"):
        open("ended", "w").close()
        (broker,) = [one for one in threading.enumerate() if one.name == "hexa-worker-broker"]
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(broker.ident), ctypes.py_object(SystemExit))
        await asyncio.sleep(0.4)
    elif what == "wait":
        print("waiting", flush=True)
        await anyio.sleep(0.3)
    with open("handled", "a") as out:
        out.write(f"{event['n']}\\n")
"""


class Project:
    """A folder with a worker, and its command."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder = folder
        (folder / "worker.toml").write_text(f'[worker]\nname = "real"\nhandlers = ["h"]\n{worker}\n')
        (folder / "h.py").write_text(HANDLERS)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hexa_worker", *arguments]

    def call(self, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            check=False,
            cwd=self.folder,
            input=lines,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def emit(self, *events: dict[str, Any]) -> None:
        lines = "".join(json.dumps({"channel": "work", "payload": event}) + "\n" for event in events)
        assert self.call("emit", "--file", "-", lines=lines).returncode == 0

    def handled(self) -> list[int]:
        return [int(line) for line in (self.folder / "handled").read_text().split()]

    def dead(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.call("dlq", "list", "--json").stdout)
        return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killers_are_dead_lettered_and_everything_around_them_is_handled(tmp_path: Path, backend: str) -> None:
    restart = "[worker.process_restart]\nmax_restarts = 100\ninitial_delay_s = 0.01\nmaximum_delay_s = 0.1"
    project = Project(tmp_path, f"processes = 2\nwatchdog_s = 1.0\n{restart}")
    killers = {20: "kill", 40: "exit", 60: "block"}
    project.emit(*({"n": n, "what": killers.get(n, "")} for n in range(80)))
    run = project.call("run", "--until-idle", "--backend", backend)
    assert run.returncode == 0, run.stderr
    assert set(project.handled()) == set(range(80)) - set(killers)
    dead = project.dead()
    assert [(one["reason"], one["error_class"]) for one in dead] == [("crashed", "ProcessCrashed")] * 3
    assert {one["origin_id"] for one in dead} == {f"work-{n}" for n in killers}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_process_whose_broker_thread_ends_is_replaced(tmp_path: Path, backend: str) -> None:
    restart = "[worker.process_restart]\nmax_restarts = 100\ninitial_delay_s = 0.01\nmaximum_delay_s = 0.1"
    project = Project(tmp_path, f"processes = 1\n{restart}")
    project.emit(*({"n": n, "what": "thread" if n == 5 else ""} for n in range(20)))
    run = project.call("run", "--until-idle", "--backend", backend)
    assert run.returncode == 0, run.stderr
    assert set(project.handled()) == set(range(20))
    assert "the embedded broker's thread ended: SystemExit" in run.stderr
    assert project.dead() == []


def test_what_is_settled_is_no_suspect_any_more(tmp_path: Path) -> None:
    project = Project(tmp_path, "processes = 1")
    project.emit(*({"n": n, "what": "kill" if n == 5 else ""} for n in range(20)))
    run = project.call("run", "--until-idle")
    assert run.returncode == 0, run.stderr
    assert [one["origin_id"] for one in project.dead()] == ["work-5"]
    assert CrashCounter(StateFiles.of(tmp_path / "var", "real").folder).suspicions == {}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_only_the_delivery_that_blocks_the_loop_is_blamed_and_its_dead_letter_says_why(
    tmp_path: Path, loop: str
) -> None:
    uvloop = json.dumps(loop == "uvloop")
    project = Project(tmp_path, f"processes = 1\nwatchdog_s = 1.0\nmaximum_crashes = 2\nuvloop = {uvloop}")
    kinds = {3: "block"}
    project.emit(*({"n": n, "what": kinds.get(n, "wait")} for n in range(8)))
    run = project.call("run", "--until-idle", "--backend", "trio" if loop == "trio" else "asyncio")
    assert run.returncode == 0, run.stderr
    deaths = [json.loads(line) for line in run.stderr.splitlines() if "worker process died: " in line]

    assert [(one["message_id"], one["crashes"]) for one in deaths] == [("work-3", number) for number in (1, 2)]
    (dead,) = project.dead()
    assert dead["origin_id"] == "work-3"
    assert "the last time: its loop was blocked" in dead["error"]
    assert set(project.handled()) == set(range(8)) - {3}


def test_a_mistake_in_a_handler_module_ends_the_run_with_2_and_one_message(tmp_path: Path) -> None:
    project = Project(tmp_path, "processes = 2")
    (tmp_path / "h.py").write_text("import no_such_module\n")
    run = project.call("run")
    assert run.returncode == 2
    assert run.stderr.count("no_such_module") == 1, run.stderr


def test_a_fault_that_does_not_exist_ends_the_run_with_2_and_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEXA_WORKER_FAULTS", "nowhere:kill")
    run = Project(tmp_path, "processes = 2").call("run")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "unknown fault point 'nowhere'" in line


def test_a_stop_lets_running_handlers_end(tmp_path: Path) -> None:
    project = Project(tmp_path, "processes = 1")
    project.emit({"n": 1, "what": "wait"})
    with subprocess.Popen(project.command("run"), cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(LIMIT_S) == 0
    assert project.handled() == [1]


def test_the_parent_stays_small_and_imports_no_event_loop(tmp_path: Path) -> None:
    project = Project(tmp_path, "processes = 1\n[worker.http]\nport = 0")
    project.emit({"n": 1, "what": "wait"})
    with subprocess.Popen(project.command("run"), cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        sizes = [psutil.Process(pid).memory_info().rss / 2**20 for pid in (parent.pid, child.pid)]
        maps = Path(f"/proc/{parent.pid}/maps").read_text()
        os.kill(parent.pid, signal.SIGTERM)
        assert parent.wait(LIMIT_S) == 0
    assert sizes[0] <= 25, sizes
    assert sizes[1] <= 45, sizes
    for library in ("uvloop", "_sqlite3", "_asyncio", "_ssl"):
        assert library not in maps
