"""``status`` and ``ctl`` with a worker that runs: the real command line, real processes, real signals."""

import json
import signal
import socket
import threading
from pathlib import Path

import psutil
import pytest

from tests.deadlines import wait_until
from tests.e2e.on_brokers import free_port
from tests.e2e.project import Project

WORKER = """
[worker]
name = "sample"
handlers = ["h"]
processes = 2

[broker]
driver = "embedded"
path = "var/hexa.db"
"""
HANDLERS = """
from hexa_worker import Context, subscribe


@subscribe("work", action="do", order_by="key")
async def do(e: dict, ctx: Context) -> None:
    with open("done.txt", "a") as file:
        file.write(f"{e['id']}\\n")


@subscribe("work", action="sibling")
async def sibling(e: dict, ctx: Context) -> None:
    with open("sibling.txt", "a") as file:
        file.write(f"{e['id']}\\n")
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project").write(WORKER, HANDLERS)


def emit(project: Project, *numbers: int, key: str = "k") -> None:
    lines = [{"channel": "work", "key": key, "payload": {"id": number}} for number in numbers]
    project("emit", "--file", "-", given="\n".join(map(json.dumps, lines)).encode())


def handled(project: Project, name: str = "done") -> list[int]:
    path = project.folder / f"{name}.txt"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def lag(project: Project) -> int:
    (found,) = (one for one in project.json("lag") if one["action"] == "do")
    return int(found["ready"] + found["leased"])


def subscription(project: Project, action: str = "do") -> dict[str, object]:
    return next(one for one in project.json("status")["subscriptions"] if one["action"] == action)


def test_a_pause_reaches_every_process_outlives_them_all_and_loses_nothing(project: Project) -> None:
    with project.running("run") as worker:
        worker.hear_all("worker process is ready", "worker process is ready")
        accepted, result = project("ctl", "pause", "do", "--json").stdout.splitlines()
        assert (json.loads(accepted)["type"], json.loads(result)["ok"]) == ("accepted", True)
        emit(project, *range(20))
        wait_until(lambda: len(handled(project, "sibling")) == 20)
        assert (subscription(project)["paused"], subscription(project, "sibling")["paused"]) == (True, False)
        assert "do: PAUSED" in project("status").stdout
        (victim, _) = psutil.Process(worker.pid).children()
        victim.kill()
        worker.hear("worker process is ready")
        assert (handled(project), lag(project)) == ([], 20)
        worker.signal(signal.SIGKILL)
        worker.ended()
    with project.running("run") as worker:
        worker.hear("do is paused, since before this start")
        worker.hear_all("worker process is ready", "worker process is ready")
        assert (handled(project), lag(project)) == ([], 20)
        assert "do is paused, see ctl resume" in project("lag").stderr
        project("ctl", "resume", "do")
        wait_until(lambda: len(handled(project)) == 20)
        assert not subscription(project)["paused"]
        assert [one["request"] for one in project.json("ctl", "history")] == ["pause do", "resume do"]
        assert project("ctl", "drain").stdout == "drained\n"
        assert worker.ended() == 0
    assert handled(project) == list(range(20))


def test_a_paused_key_waits_while_all_others_go_on(project: Project) -> None:
    with project.running("run") as worker:
        worker.hear_all("worker process is ready", "worker process is ready")
        project("ctl", "pause", "do", "--key", "k")
        emit(project, 1, 2, 3)
        emit(project, 4, 5, 6, key="other")
        wait_until(lambda: handled(project) == [4, 5, 6])
        wait_until(lambda: subscription(project)["kept"] == 3)
        assert "1 key PAUSED (3 kept)" in project("status").stdout
        project("ctl", "resume", "do", "--key", "k")
        wait_until(lambda: handled(project) == [1, 2, 3, 4, 5, 6])
        worker.stop()


def test_a_pause_is_done_everywhere_in_a_quarter_of_a_second(project: Project) -> None:
    with project.running("run") as worker:
        worker.hear_all("worker process is ready", "worker process is ready")
        took: list[float] = []
        for command in ("pause", "resume") * 3:
            project("ctl", command, "do")
        for one in project.json("ctl", "history"):
            began, ended = (_seconds(one[name]) for name in ("at", "ended_at"))
            took.append(ended - began)
        worker.stop()
    assert sorted(took)[len(took) // 2] <= 0.25, took


def _seconds(at: str) -> float:
    clock = at.partition("T")[2].removesuffix("Z").split(":")
    return int(clock[0]) * 3600 + int(clock[1]) * 60 + float(clock[2])


def test_what_cannot_be_asked_is_one_line(project: Project) -> None:
    for command in (("status",), ("ctl", "pause", "do"), ("ctl", "drain"), ("ctl", "history")):
        assert "no worker listens on" in project.refusal(*command, code=1)
    with project.running("run") as worker:
        worker.hear("worker process is ready")
        assert project.refusal("ctl", "pause", "dp", code=1) == "there is no subscription 'dp', there is do, sibling"
        worker.stop()


def test_health_tells_ready_and_alive_apart_by_its_exit_code(project: Project) -> None:
    assert "no worker listens on" in project.refusal("health", code=1)
    project.write(WORKER.replace("processes = 2", "processes = 1"), HANDLERS.replace("do(e: dict", "do(e: int"))
    with project.running("run") as worker:
        worker.hear("worker process is ready")
        assert project("health").stdout == "ready\n"
        emit(project, 1)
        wait_until(lambda: subscription(project)["last_failure"] is not None)
        assert "last failure" in project("status").stdout
        worker.stop()
    nowhere = f'driver = "nats"\nservers = ["nats://127.0.0.1:{free_port()}"]'
    project.write(WORKER.replace('driver = "embedded"\npath = "var/hexa.db"', nowhere), HANDLERS)
    with project.running("run") as worker:
        worker.hear("broker is away")
        assert "not ready" in project.refusal("health", code=1)
        assert project("health", "--live").stdout == "alive\n"
        worker.stop()


def test_a_worker_of_another_version_is_named_as_that(project: Project) -> None:
    (project.folder / "var").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(project.folder / "var/sample.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = json.loads(connection.makefile("rb").readline())
                assert asked == {"do": "status", "version": 1}
                reply = {"type": "refused", "version": 2, "code": "version", "message": "no", "versions": [2, 3]}
                connection.sendall(json.dumps(reply).encode() + b"\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        text = project.refusal("status", code=1)
        thread.join(10)
    assert text == "the worker speaks version 2, 3 of the control socket, this command speaks 1: use its release"


def test_a_worker_is_restarted_scaled_and_made_to_say_more_by_hand(project: Project) -> None:
    with project.running("run") as worker:
        worker.hear_all("worker process is ready", "worker process is ready")
        project("ctl", "pause", "do")
        assert project("ctl", "scale", "1").stdout == "1 ready\n"
        assert "do runs 3 at once" in project("ctl", "concurrency", "do", "3").stdout
        assert subscription(project)["concurrency"] == 3
        assert project("ctl", "log-level", "debug").stdout == "logging from debug on\n"
        assert project("ctl", "restart").stdout == "every process was replaced\n"
        assert subscription(project)["paused"], "a process that comes later knows what is paused"
        (project.folder / "h.py").write_text("nonsense(")
        assert "h.py" in project("ctl", "restart", code=1).stderr
        assert "the latest reload failed: " in project("status").stdout
        worker.stop()


def test_a_status_that_is_watched_goes_on_until_the_worker_ends(project: Project) -> None:
    with project.running("run") as worker:
        worker.hear_all("worker process is ready", "worker process is ready")
        with project.running("status", "--watch", "--json") as status:
            assert json.loads(status.hear("sample"))["ready"]
            assert json.loads(status.hear("sample"))["ready"]
            worker.stop()
            status.hear("error: ")
            assert status.ended() == 1


BUSY = """
import time
from pathlib import Path

import anyio
from hexa_worker import subscribe


def gone() -> bool:
    return Path("go").exists()


async def wait_async() -> None:
    while not gone():
        await anyio.sleep(0.02)


def wait_in_thread() -> None:
    while not gone():
        time.sleep(0.02)


@subscribe("busy", action="async")
async def handle(e: dict) -> None:
    print("async begun", flush=True)
    await wait_async()


@subscribe("busy", action="plain")
def plain(e: dict) -> None:
    print("plain begun", flush=True)
    wait_in_thread()


@subscribe("blocking", action="blocking")
async def block(e: dict) -> None:
    print("blocking begun", flush=True)
    wait_in_thread()
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_dump_shows_where_each_handler_is_also_in_a_thread_or_while_it_blocks_the_loop(
    project: Project, backend: str
) -> None:
    project.write(WORKER.replace("processes = 2", "processes = 1"), BUSY)
    with project.running("run", "--backend", backend) as worker:
        worker.hear("worker process is ready")
        event = project("emit", "busy", "--key", "ada", "--payload", '{"secret": "canary"}').stdout.strip()
        worker.hear_all("async begun", "plain begun")
        project("emit", "blocking", "--payload", "{}")
        worker.hear("blocking begun")
        shown = project("ctl", "dump").stdout
        (process,) = project.json("ctl", "dump")
        (project.folder / "go").touch()
        worker.stop()
    assert "canary" not in shown
    lanes = {one["action"]: one for one in process["lanes"]}
    assert set(lanes) == {"async", "plain", "blocking"}
    assert {lanes[name]["event_id"] for name in ("async", "plain")} == {event}
    assert (lanes["async"]["key"], lanes["async"]["attempt"], lanes["async"]["state"]) == ("ada", 0, "running")
    for name, function in (("async", "wait_async"), ("plain", "wait_in_thread")):
        assert any(frame.endswith(f" {function}") and "h.py:" in frame for frame in lanes[name]["stack"]), lanes[name]
    assert any(frame.endswith(" block") for frame in process["loop"]), "the loop is where it is blocked"


def test_a_disabled_subscription_shows_everywhere_with_its_backlog_and_dead_letters(project: Project) -> None:
    failing = HANDLERS.replace("        file.write", "        assert e['id']\n        file.write")
    once = "".join(f"\n[subscriptions.{name}.retry]\nmaximum_retries = 0\n" for name in ("do", "sibling"))
    project.write(f"{WORKER}{once}", failing)
    emit(project, 0)
    project("run", "--until-idle")
    project.write(f"{WORKER}{once}\n[subscriptions.do]\nenabled = false\n", failing)
    emit(project, 1, 2)
    (left,) = (one for one in project.json("lag") if one["action"] == "do")
    assert (left["ready"], left["dead_letters"]) == (2, 1)
    assert [one["action"] for one in project.json("dlq", "list")] == ["do", "sibling"]
    for command in ("lag", "check"):
        shown = project(command).stderr
        assert "do is disabled in worker.toml" in shown
        assert "nobody reads" not in shown
    with project.running("run") as worker:
        worker.hear("worker process is ready")
        assert project.json("status")["off"] == {"do": "disabled in worker.toml"}
        worker.stop()


def test_some_subscriptions_can_be_run_alone(project: Project) -> None:
    emit(project, 1, 2)
    project("run", "--until-idle", "--only", "sibling")
    assert (handled(project, "sibling"), handled(project)) == ([1, 2], [])
    assert "there is no subscription dp" in project.refusal("run", "--only", "sibling,dp", code=2)
    project("run", "--until-idle")
    assert handled(project) == [1, 2]
