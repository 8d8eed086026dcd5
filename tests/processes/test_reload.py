"""SIGHUP: new processes before the old ones go, and what becomes of a reload onto something broken."""

import json
import os
import signal
import urllib.error
import urllib.request

import pytest

from tests.processes.conftest import MakeStage
from tests.processes.stage import Stage, wait_gone

FAILED = "reload failed, what runs stays: "


def ready(stage: Stage, times: int) -> None:
    """Wait until so many processes were said to be ready."""
    stage.until(lambda: sum("process is ready" in line for line in stage.logs) == times, f"{times} to be ready")


def reload(stage: Stage, times: int = 1) -> None:
    stage.signal(signal.SIGHUP)
    stage.until(lambda: sum("reload done" in line for line in stage.logs) == times, f"reload {times}")


def failed(stage: Stage, times: int = 1) -> str:
    """Wait until a reload has failed; why the last one did."""

    def lines() -> list[str]:
        return [line for line in stage.logs if FAILED in line]

    stage.until(lambda: len(lines()) == times, "a failed reload")
    text: str = json.loads(lines()[-1])["message"]
    return text.removeprefix(FAILED)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_process_is_replaced_by_one_that_was_ready_before_it_drained(
    make_stage: MakeStage, processes: int
) -> None:
    stage = make_stage(worker=f"processes = {processes}")
    stage.start()
    old = {one.pid for one in stage.hear("running", processes)}
    ready(stage, processes)
    reload(stage)
    stage.hear("drained", processes)
    order = [one.text for one in stage.said if one.text in ("ready", "drained")][processes:]
    assert order == ["ready", "drained"] * processes
    new = {one.pid for one in stage.said if one.text == "ready"} - old
    assert len(new) == processes
    reload(stage, 2)
    assert stage.stop() == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_reload_onto_a_broken_configuration_changes_nothing(make_stage: MakeStage, processes: int) -> None:
    stage = make_stage(worker=f"processes = {processes}")
    stage.start()
    old = {one.pid for one in stage.hear("running", processes)}
    ready(stage, processes)
    toml = stage.folder / "worker.toml"
    good = toml.read_text()
    toml.write_text(f"{good}handler = 1\n")
    stage.signal(signal.SIGHUP)
    assert "handler" in failed(stage)
    toml.write_text(good)
    (stage.folder / "broken").touch()  # found by the new process only
    stage.signal(signal.SIGHUP)
    assert "mailbox is no number" in failed(stage, 2)
    for pid in old:
        os.kill(pid, 0)
    assert not stage._who("drained")
    (stage.folder / "broken").unlink()
    reload(stage)
    assert stage.stop() == 0, "every failed reload was survived"
    assert len([line for line in stage.logs if '"level":"error"' in line]) == 2


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("die 70", "the new process died: exit code 70"),
        ("exit 1", "the new process died: exit code 1"),
        ("failed", "do is failed: no rights"),
    ],
)
def test_a_successor_that_is_never_ready_leaves_the_old_one(make_stage: MakeStage, order: str, reason: str) -> None:
    stage = make_stage()
    stage.start()
    (old,) = stage.hear("running")
    ready(stage, 1)
    stage.order("early", order)
    stage.signal(signal.SIGHUP)
    assert failed(stage) == reason
    os.kill(old.pid, 0)
    assert stage.stop() == 0
    assert [one.pid for one in stage._who("drained")].count(old.pid) == 1


def test_a_successor_that_is_not_ready_in_time_ends_and_leaves_the_old_one(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start(env={**os.environ, "READY_LIMIT_S": "0.5"})  # counts for successors only
    (old,) = stage.hear("running")
    ready(stage, 1)
    stage.order("early", "waiting")  # when it says so depends on the machine; it is not ready anyway
    stage.signal(signal.SIGHUP)
    assert failed(stage).startswith("not ready after 0.5 s: ")
    os.kill(old.pid, 0)
    assert stage.stop() == 0
    assert [one.pid for one in stage._who("drained")].count(old.pid) == 1


@pytest.mark.parametrize(("kills", "errors"), [(2, 0), (3, 1)])
def test_a_successor_that_somebody_kills_is_started_again_a_few_times(
    make_stage: MakeStage, kills: int, errors: int
) -> None:
    stage = make_stage()
    stage.start()
    stage.hear("running")
    ready(stage, 1)
    stage.order("early", *(f"once kill{number} die -9" for number in range(kills)), "run")
    stage.signal(signal.SIGHUP)
    stage.hear("loading", 1 + 3)
    if errors:
        assert "which its parent did not send" in failed(stage)
    else:
        stage.log("reload done")
    assert stage.stop() == 0


def test_the_pages_stay_ready_and_alive_during_a_reload_and_after_a_failed_one(make_stage: MakeStage) -> None:
    stage = make_stage(worker="[worker.http]\nport = 0")
    stage.start()
    stage.hear("running")
    ready(stage, 1)
    url = stage.log("status pages")["message"].split()[-1].removesuffix("/status")

    def get(page: str) -> int:
        with urllib.request.urlopen(f"{url}/{page}") as answer:
            return int(answer.status)

    stage.order("early", "waiting", "await told", "exit 1")
    stage.signal(signal.SIGHUP)
    stage.hear("waiting")
    assert (get("ready"), get("live")) == (200, 200)
    (stage.folder / "told").touch()
    failed(stage)
    assert (get("ready"), get("live")) == (200, 200)
    stage.order("ignore")
    reload_asked = len(stage.logs)
    stage.signal(signal.SIGHUP)
    stage.hear("drained")
    assert (get("ready"), get("live")) == (200, 200)
    stage.until(lambda: any("reload done" in line for line in stage.logs[reload_asked:]), "the reload")
    stage.signal(signal.SIGTERM)
    stage.hear("ignoring")
    stage.signal(signal.SIGTERM)
    assert stage.ended() == 0


def test_a_reload_while_a_process_drains_for_long_keeps_the_new_one(make_stage: MakeStage) -> None:
    stage = make_stage("ignore", worker="shutdown_grace_s = 0.1")
    stage.start()
    (old,) = stage.hear("running")
    ready(stage, 1)
    stage.order()
    stage.signal(signal.SIGHUP)
    wait_gone(old.pid, 20)
    stage.log("reload done")
    assert "did not stop in time" in stage.log("worker process died")["message"]
    stage.signal(signal.SIGTERM)
    assert stage.ended() == 1, "something had to be killed"


def test_what_the_parent_uses_is_read_anew_or_named(make_stage: MakeStage) -> None:
    stage = make_stage("deaf", worker='shutdown_grace_s = 60\nlog.level = "info"')
    stage.start()
    stage.hear("running")
    ready(stage, 1)
    toml = stage.folder / "worker.toml"
    new = toml.read_text().replace("shutdown_grace_s = 60", "shutdown_grace_s = 0.1\nprocesses = 3\nhttp.port = 0")
    toml.write_text(new.replace('level = "info"', 'level = "debug"'))
    stage.signal(signal.SIGHUP)
    assert "http has changed: that takes a restart" in stage.log("has changed")["message"]
    stage.hear("deaf")
    os.kill(stage._who("deaf")[0].pid, signal.SIGKILL)  # the old one would have a minute
    stage.hear("running", 4)
    ready(stage, 4)
    stage.log("reload done")
    assert stage.stop() == 1
    assert sum("did not stop in time" in line for line in stage.logs) == 3, "after the new, short grace"


def test_fewer_processes_are_left_by_a_reload_that_says_so(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 3")
    stage.start()
    old = {one.pid for one in stage.hear("running", 3)}
    ready(stage, 3)
    toml = stage.folder / "worker.toml"
    toml.write_text(toml.read_text().replace("processes = 3", "processes = 1"))
    reload(stage)
    assert {one.pid for one in stage.hear("drained", 3)} == old, "the new one stays"
    assert len(stage._who("running")) == 4
    assert stage.stop() == 0
    assert len(stage._who("drained")) == 4


def test_the_reload_after_one_that_failed_half_way_leaves_as_many_as_it_should(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 3")
    stage.start()
    stage.hear("running", 3)
    ready(stage, 3)
    toml = stage.folder / "worker.toml"
    toml.write_text(toml.read_text().replace("processes = 3", "processes = 2"))
    stage.order("early", "3:run", "0:exit 1")  # the first new process is in slot 3, the second in that of the first old
    stage.signal(signal.SIGHUP)
    assert failed(stage) == "the new process died: exit code 1"
    stage.order()
    reload(stage)
    stage.signal(signal.SIGTTOU)
    stage.log("scaling to 1 processes")
    assert stage.stop() == 0


def test_one_process_less_during_a_reload_is_one_less_at_its_end(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 2")
    stage.start()
    stage.hear("running", 2)
    ready(stage, 2)
    stage.order(
        "early", "2:run", "0:preflight", "0:await go", "0:run"
    )  # the second new one is in the first old one's slot
    stage.signal(signal.SIGHUP)
    stage.hear("skips preflight", 1)
    stage.signal(signal.SIGTTOU)
    stage.log("scaling to 1 processes")
    (stage.folder / "go").touch()
    stage.log("reload done")
    stage.hear("drained", 3)
    assert stage.stop() == 0
    assert len(stage._who("drained")) == 4


def test_a_release_folder_that_is_a_link_is_followed_by_a_reload(make_stage: MakeStage) -> None:
    stage = make_stage()
    link = stage.folder / "current"
    for name in ("one", "two"):
        release = stage.folder / name
        release.mkdir()
        for file in ("worker.toml", "orders"):
            (release / file).write_text((stage.folder / file).read_text())
        (release / "said").symlink_to(stage.folder / "said")
    (stage.folder / "one" / "orders").write_text("where")
    (stage.folder / "two" / "orders").write_text("where")
    link.symlink_to("one")
    stage.start_in(link)
    stage.hear(f"in {stage.folder}/one")
    ready(stage, 1)
    link.unlink()
    link.symlink_to("two")
    reload(stage)
    stage.hear(f"in {stage.folder}/two")
    assert stage.stop() == 0


def test_a_reload_during_another_one_starts_anew_with_what_is_there_by_then(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    (old,) = stage.hear("running")
    ready(stage, 1)
    stage.order("early", "preflight")  # its process is never ready
    stage.signal(signal.SIGHUP)
    (stale,) = stage.hear("does preflight")
    stage.order()
    reload(stage)
    wait_gone(stale.pid, 20)
    wait_gone(old.pid, 20)
    assert len(stage.hear("running", 2)) == 2
    assert stage.stop() == 0
    assert not any(FAILED in line for line in stage.logs)
