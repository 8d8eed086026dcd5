"""The outbox from a user's side: tables, a worker that relays, commands that show and mend."""

import json
import sqlite3
import time
import urllib.request
from pathlib import Path

import pytest

from hexa_worker import Event
from hexa_worker.outbox import Outbox
from tests.e2e.on_brokers import free_port
from tests.e2e.project import HANDLERS, LIMIT_S, WORKER, Project

OUTBOX = """
[outbox]
url = "sqlite:///shop.db"
retry_interval_s = 0.05
maximum_retries = 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "p").write(WORKER + OUTBOX, HANDLERS)
    assert made("outbox", "init").stdout == "the outbox is there, version 1\n"
    return made


def write(project: Project, *events: Event) -> list[str]:
    outbox = Outbox.from_config(project.folder / "worker.toml")
    with sqlite3.connect(project.folder / "shop.db") as connection:
        return outbox.emit_sync(connection, *events)


def test_a_worker_relays_what_was_written_and_handles_it_before_it_is_idle(project: Project) -> None:
    ids = write(project, *[Event(channel="work", payload={"id": number}, key="k") for number in range(30)])
    assert project.json("outbox", "status")["pending"] == 30
    project("run", "--until-idle", "--processes", "2")
    assert (project.folder / "sibling.txt").read_text().split() == ids
    status = project.json("outbox", "status")
    assert (status["pending"], status["oldest_age_s"], status["parked"], status["leader"]) == (0, None, 0, None)


def test_a_relay_without_a_worker_sends_until_nothing_is_left(project: Project) -> None:
    write(project, Event(channel="work", payload={"id": 1}))
    project("outbox", "relay", "--until-idle")
    assert project.json("outbox", "status")["pending"] == 0
    project("run", "--until-idle")
    assert (project.folder / "sibling.txt").read_text()


def test_what_is_to_run_until_nothing_is_left_does_not_wait_for_tables_that_nobody_makes(tmp_path: Path) -> None:
    project = Project(tmp_path / "p").write(WORKER + OUTBOX, HANDLERS)
    for command in (("outbox", "relay"), ("run",)):
        assert "run hexa-worker outbox init" in project(*command, "--until-idle", code=1).stderr


def test_a_relay_killed_between_sending_and_noting_repeats_what_it_had_in_flight_and_loses_nothing(
    project: Project,
) -> None:
    ids = write(project, *[Event(channel="work", payload={"id": number}, key="k") for number in range(5)])
    project("outbox", "relay", "--until-idle", code=-9, faults="outbox-published:kill")
    project("outbox", "relay", "--until-idle")
    project("run", "--until-idle")
    assert (project.folder / "sibling.txt").read_text().split() == ids * 2


def test_trace_tells_that_an_event_is_prepared_and_not_sent(project: Project) -> None:
    (event_id,) = write(project, Event(channel="work", payload={"id": 1}))
    assert project("trace", event_id).stdout == f"{event_id} is in the outbox: prepared, not sent yet\n"
    assert project.json("trace", event_id) == {"root_id": event_id, "outbox": "waiting"}


def test_check_connect_looks_at_the_outbox(project: Project) -> None:
    assert "outbox" in project("check", "--connect").stdout
    assert "version 1, 0 events pending, 0 parked" in project("check", "--connect").stdout
    (project.folder / "shop.db").unlink()
    assert "WARNING: " in project("check", "--connect").stdout


def test_status_pages_tell_of_the_relay(project: Project) -> None:
    port = free_port()
    worker = (project.folder / "worker.toml").read_text()
    (project.folder / "worker.toml").write_text(worker.replace("[broker]", f"http = {{ port = {port} }}\n[broker]", 1))
    write(project, *[Event(channel="work", payload={"id": number}) for number in range(3)])
    with project.running("run") as running:
        running.hear("relaying hexa_outbox")
        deadline = time.monotonic() + LIMIT_S
        while 'hexa_worker_outbox_relayed_events_total{process="0"} 3' not in (page := look(port, "metrics")):
            assert time.monotonic() < deadline, page
            time.sleep(0.1)
        assert 'hexa_worker_outbox_leader{process="0"} 1' in page
        assert 'hexa_worker_outbox_pending_events{process="0"}' in page
        entries = json.loads(look(port, "status"))["data"]["statuses"]
        (entry,) = [one for one in entries if one["id"] == "outbox"]
        assert (entry["alive"], entry["ready"]) == (True, True)
        assert "state=leading" in entry["tags"]
        running.stop()


def look(port: int, page: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=LIMIT_S) as answer:
        return str(answer.read().decode())


def test_making_the_tables_again_says_so_and_the_statements_can_be_had(project: Project) -> None:
    assert project("outbox", "init").stdout == "the outbox has version 1\n"
    statements = project("outbox", "init", "--sql").stdout
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(statements)
        assert connection.execute("SELECT version FROM hexa_outbox_cursor").fetchone() == (1,)


def test_a_worker_without_tables_says_what_to_do_and_serves_its_subscriptions(tmp_path: Path) -> None:
    project = Project(tmp_path / "p").write(WORKER + OUTBOX, HANDLERS)
    with project.running("run") as running:
        running.hear("run hexa-worker outbox init")
        project.emit({"id": 1})
        project("outbox", "init")
        write(project, Event(channel="work", payload={"id": 2}))
        running.hear("relaying hexa_outbox")
        running.stop()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("outbox", "status"), "there is no outbox"),
        (("outbox", "init"), "there is no outbox"),
        (("outbox", "relay"), "there is no outbox"),
    ],
)
def test_without_an_outbox_commands_name_the_table_that_is_missing(
    tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    refusal = Project(tmp_path / "p").write().refusal(*arguments, code=2)
    assert refusal.startswith("worker.toml: outbox: ")
    assert text in refusal


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ('url = "mysql://root:secret@host/x"', "MySQL and MariaDB do not tell which rows commit late"),
        ('url = "redis://root:secret@host/x"', "must begin with postgresql:// or sqlite:///"),
        ('url = "sqlite:///a.db"\ntable = "main.x"', "without a schema in SQLite"),
        ('url = "sqlite:///a.db"\ntable = "a; drop"', "lower-case letters"),
        ('url = "sqlite:///a.db"\non_refused = "drop"', "hold"),
    ],
)
def test_a_mistake_in_the_table_is_named_without_the_secret(tmp_path: Path, table: str, text: str) -> None:
    refusal = Project(tmp_path / "p").write(f"{WORKER}\n[outbox]\n{table}\n").refusal("outbox", "status", code=2)
    assert text in refusal
    assert "secret" not in refusal


@pytest.mark.parametrize("age", ["nan", "1e300", "inf", "-1"])
def test_an_age_that_is_none_is_refused(project: Project, age: str) -> None:
    assert "--older-than" in project("outbox", "clean", "--older-than", age, code=2).stderr


def test_ids_of_parked_events_are_asked_for(project: Project) -> None:
    assert "outbox show" in project("outbox", "retry", code=2).stderr
    assert "'x' is no id" in project("outbox", "drop", "x", code=2).stderr
    assert "is no id" in project("outbox", "retry", str(2**63), code=2).stderr
    assert project("outbox", "retry", "--all").stdout == "0 events will be tried again\n"
    assert project("outbox", "show").stdout == "the broker refuses nothing\n"
