"""Signals that reach a child from others than its parent, and what its handlers fork."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.processes.conftest import MakeStage
from tests.processes.test_app import LIMIT_S, Project

FORKING = """
import multiprocessing, os, signal, time
from hexa_worker import Context, subscribe

forks = multiprocessing.get_context("fork")

HANDLED = os.path.abspath("handled")

def note(text):
    with open(HANDLED, "a") as out:
        out.write(f"{text}\\n")

def terminated():
    helper = forks.Process(target=time.sleep, args=(60,))
    helper.start()
    helper.terminate()
    helper.join(10)
    assert helper.exitcode == -signal.SIGTERM, helper.exitcode

def pooled():
    with forks.Pool(2) as pool:
        assert pool.map(abs, [1, -2]) == [1, 2]

def returning():
    pid = os.fork()
    if not pid:
        raise SystemExit
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

def unruly():
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.umask(0)
    os.chdir("/")
    for descriptor in (0, 1, 2):
        os.close(descriptor)

def told():
    os.kill(os.getpid(), signal.SIGTERM)

@subscribe("work", action="do", concurrency=4)
async def do(event: dict, ctx: Context) -> None:
    what = event.get("what")
    if what and event.get("thread") is None:
        globals()[what]()
    note(event["n"])

@subscribe("sync", action="sync", concurrency=4)
def sync(event: dict) -> None:
    if event.get("what"):
        globals()[event["what"]]()
    note(event["n"])
"""


def _project(folder: Path, worker: str = "processes = 1") -> Project:
    project = Project(folder, worker)
    (folder / "h.py").write_text(FORKING)
    return project


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("channel", ["work", "sync"])
def test_what_a_handler_forks_is_no_worker(tmp_path: Path, loop: str, channel: str) -> None:
    project = _project(tmp_path, f"processes = 1\nuvloop = {json.dumps(loop == 'uvloop')}")
    kinds = {3: "terminated", 7: "pooled", 11: "returning"}
    if channel == "sync":
        del kinds[11]  # there it would return into a thread that is not there
    lines = [{"channel": channel, "payload": {"n": n, "what": kinds.get(n)}} for n in range(30)]
    assert project.call("emit", "--file", "-", lines="\n".join(map(json.dumps, lines))).returncode == 0
    run = project.call("run", "--until-idle", "--backend", "trio" if loop == "trio" else "asyncio")
    assert run.returncode == 0, run.stderr
    assert sorted(project.handled()) == list(range(30)), run.stderr
    assert project.dead() == []
    assert ("a fork must not return" in run.stderr) is (channel == "work")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_until_idle_goes_on_after_a_stop_signal_that_nobody_asked_for(tmp_path: Path, backend: str) -> None:
    project = _project(tmp_path)
    project.emit(*({"n": n, "what": "told" if n == 3 else ""} for n in range(30)))
    run = project.call("run", "--until-idle", "--backend", backend)
    assert run.returncode == 0, run.stderr
    assert sorted(project.handled()) == list(range(30))
    assert "ended though nobody asked it to: it got a stop signal" in run.stderr


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_handler_that_changes_what_belongs_to_the_whole_process_disturbs_nothing(tmp_path: Path, loop: str) -> None:
    project = _project(tmp_path, f"processes = 1\nuvloop = {json.dumps(loop == 'uvloop')}")
    project.emit(*({"n": n, "what": "unruly" if n == 3 else ""} for n in range(30)))
    run = project.call("run", "--until-idle", "--backend", "trio" if loop == "trio" else "asyncio")
    assert run.returncode == 0, run.stderr
    assert sorted(project.handled()) == list(range(30)), run.stderr
    assert project.dead() == []


def test_a_process_that_was_told_to_stop_by_others_drains_and_is_replaced(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    (first,) = stage.hear("running")
    os.kill(first.pid, signal.SIGTERM)
    stage.hear("drained")
    assert "nobody asked it to" in stage.log("worker process ended")["message"]
    assert stage.hear("running", 2)[1].pid != first.pid
    assert stage.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_to_the_whole_group_counts_once(make_stage: MakeStage, number: signal.Signals) -> None:
    stage = make_stage("ignore", worker="processes = 2")
    stage.start()
    children = [one.pid for one in stage.hear("running", 2)]
    stage.signal(number)
    for pid in children:
        os.kill(pid, number)
    stage.hear("ignoring", 2)
    for pid in children:
        os.kill(pid, number)
    stage.log("draining")
    stage.signal(signal.SIGTERM)
    stage.hear("cancelled", 2)
    assert stage.ended() == 0
    assert [one.text for one in stage.said].count("cancelled") == 2
    assert "cancelling" in "\n".join(stage.logs)


def test_handlers_keep_their_grace_when_the_whole_group_is_stopped(tmp_path: Path) -> None:
    project = Project(tmp_path, "processes = 1")
    project.emit({"n": 1, "what": "wait"})
    with subprocess.Popen(project.command("run"), cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGTERM)
        for child in children:
            child.send_signal(signal.SIGTERM)
        assert parent.wait(LIMIT_S) == 0
    assert project.handled() == [1]
