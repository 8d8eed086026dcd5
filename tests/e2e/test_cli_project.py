"""Making, checking and describing a project."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from hexa_worker.cli import main
from hexa_worker.cli.group import root
from tests.e2e.project import HANDLERS, WORKER, Project

COMMANDS = [
    (),
    ("init",),
    ("check",),
    ("run",),
    ("emit",),
    ("dlq",),
    ("dlq", "list"),
    ("dlq", "show"),
    ("dlq", "redrive"),
    ("dlq", "purge"),
    ("trace",),
    ("lag",),
    ("forget",),
    ("version",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:\n" in text
    assert "\n    hexa-worker " in text


@pytest.mark.parametrize("command", [("check",), ("check", "--connect"), ("run",), ("dlq", "list"), ("lag",)])
@pytest.mark.parametrize(("driver", "module"), [("kafka", "aiokafka"), ("nats", "nats"), ("pulsar", "pulsar")])
def test_a_client_library_that_is_not_installed_is_one_line_that_says_what_to_install(
    project: Project, driver: str, module: str, command: tuple[str, ...]
) -> None:
    project.write(worker=WORKER.replace('"embedded"\npath = "var/hexa.db"', f'"{driver}"'))
    without = project.folder / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    project.variables["PYTHONPATH"] = str(without)
    told = project.refusal(*command, code=2)
    assert told == f"broker.driver: the {driver} client is not installed (pip install 'hexa-worker[{driver}]')"


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("table", "module", "told"),
    [
        ("dedup", "redis", "dedup.store: the redis client is not installed"),
        ("lineage", "psycopg", "lineage.store: the postgres client is not installed"),
        ("outbox", "psycopg", "worker.toml: outbox.url: PostgreSQL's client is not installed"),
    ],
)
def test_check_refuses_a_store_without_its_client_library_as_run_does(
    project: Project, table: str, module: str, told: str, command: str
) -> None:
    stores = {
        "dedup": 'store = "redis"\nurl = "redis://127.0.0.1:1"',
        "lineage": 'store = "postgres"\nurl = "postgresql://u@127.0.0.1:1/x"',
        "outbox": 'url = "postgresql://u@127.0.0.1:1/x"',
    }
    project.write(worker=f"{WORKER}\n[{table}]\n{stores[table]}\n")
    without = project.folder / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    project.variables["PYTHONPATH"] = str(without)
    extra = "redis" if module == "redis" else "postgres"
    assert project.refusal(command, code=2) == f"{told} (pip install 'hexa-worker[{extra}]')"


def test_run_imports_nothing_that_a_worker_does_not_need(project: Project) -> None:
    script = "import sys; from hexa_worker.cli import main; main(['run', '--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; import hexa_worker.processes.parent; print(*sys.modules)"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    heavy = {"rich", "anyio", "asyncio", "sqlite3", "trio", "uvloop", "hexa_worker.app", "hexa_worker.cli.dlq"}
    assert not heavy & set(done.stdout.split())


def test_a_new_project_runs_at_once_and_is_never_overwritten(tmp_path: Path) -> None:
    project = Project(tmp_path / "orders")
    project("init", "orders", folder=tmp_path)
    assert [one["action"] for one in project.json("check")["subscriptions"]]
    event_id = project.emit({"id": 1})
    project.emit({"id": -1})
    project.drain()
    assert [one["state"] for one in project.json("trace", event_id)["children"][0]["actions"]] == ["done"]
    assert [one["error"] for one in project.json("dlq", "list")] == ["DeadLetter: negative id"]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", "tests"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "2 passed" in tests.stdout, tests.stdout
    before = (project.folder / "worker.toml").read_bytes()
    assert "exists already" in project("init", "orders", folder=tmp_path, code=2).stderr
    assert (project.folder / "worker.toml").read_bytes() == before


def test_check_shows_what_would_run(project: Project) -> None:
    checked = project.json("check")
    by_action = {one["action"]: one for one in checked["subscriptions"]}
    assert by_action.keys() == {"do", "sibling", "grow"}
    do = by_action["do"]
    assert (do["channels"], do["payload"], do["style"], do["dead_letter"]) == (["work"], "dict", "async", "do.dlq")
    assert do["retries"] == [{"channel": "do.retry.1", "delay_s": 0.05}]
    assert do["handler"].startswith("h.py:")
    assert "sibling" in project("check").stdout
    assert (do["retry_order"], do["maximum_waiting_keys"]) == ("free", None)


def test_check_tells_where_each_setting_comes_from(project: Project) -> None:
    (do,) = [one for one in project.json("check")["subscriptions"] if one["action"] == "do"]
    assert do["settings"]["retry.maximum_retries"] == {"value": 1, "from": "worker.toml"}
    assert do["settings"]["channels"] == {"value": ["work"], "from": "@subscribe"}
    assert do["settings"]["mailbox"] == {"value": 2000, "from": "default"}
    assert " ".join(project("check", "--explain").stdout.split()).count("retry.maximum_retries 1 worker.toml") == 1


def test_check_warns_of_a_result_that_nobody_gets(project: Project) -> None:
    project.write(
        handlers=HANDLERS + "\n\n@subscribe('totals')\nasync def total(event: dict) -> float:\n    return 1.0\n"
    )
    done = project("check")
    assert "total: returns float, which nobody gets unless the event expects an answer" in done.stderr
    assert "no mistakes found" in done.stderr


def test_check_shows_how_many_keys_may_wait_for_a_retry_in_its_place(project: Project) -> None:
    in_place = '[subscriptions.sibling]\norder_by = "key"\n[subscriptions.sibling.retry]\norder = "key"\n'
    project.write(worker=WORKER + in_place + "maximum_waiting_keys = 7\n")
    (sibling,) = [one for one in project.json("check")["subscriptions"] if one["action"] == "sibling"]
    assert (sibling["retry_order"], sibling["maximum_waiting_keys"]) == ("key", 7)
    assert "in place: at most 7 keys wait" in " ".join(project("check").stdout.split())


def test_check_connect_looks_at_the_broker_and_makes_no_channel(project: Project) -> None:
    for _ in range(2):
        checked = project.json("check", "--connect")
        assert (checked["broker"]["driver"], checked["broker"]["channels"]) == ("embedded", "0")
        assert not any(found["exists"] for one in checked["subscriptions"] for found in one["findings"])
    project.drain()
    checked = project.json("check", "--connect")
    assert all(found["exists"] for one in checked["subscriptions"] for found in one["findings"])
    done = project("check", "--connect")
    assert "sqlite" in done.stdout
    assert "the broker is ready" in done.stderr


def test_lag_counts_what_is_left_whether_workers_run_or_not(project: Project) -> None:
    assert {one["action"]: one["ready"] for one in project.json("lag")} == {"do": 0, "sibling": 0, "grow": 0}
    project.emit({"id": 1, "fail": True})
    project.emit({"id": 2})
    assert {one["action"]: one["ready"] for one in project.json("lag")} == {"do": 2, "sibling": 2, "grow": 0}
    project.drain()
    by_action = {one.pop("action"): one for one in project.json("lag")}
    nothing = {"ready": 0, "delayed": 0, "leased": 0, "parked": 0, "paused": False, "next_due": None}
    assert by_action["do"] == {**nothing, "dead_letters": 1}
    assert by_action["sibling"] == {**nothing, "dead_letters": 0}


def test_worker_toml_is_an_argument_an_option_or_in_the_current_folder(project: Project, tmp_path: Path) -> None:
    for arguments in (("project/worker.toml",), ("project",), ("-c", "project/worker.toml")):
        assert json.loads(project("check", "--json", *arguments, folder=tmp_path).stdout)["name"] == "sample"
    event_id = project("emit", "project/worker.toml", "work", "--payload", "{}", folder=tmp_path).stdout.strip()
    assert project.json("trace", event_id)["root_id"] == event_id
    assert "worker.toml" in project("check", code=2, folder=tmp_path).stderr


def test_the_environment_names_worker_toml_where_no_argument_does(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEXA_WORKER_CONFIG", "project")
    event_id = project("emit", "work", "--payload", "{}", folder=tmp_path).stdout.strip()
    assert json.loads(project("trace", "--json", event_id, folder=tmp_path).stdout)["root_id"] == event_id
    monkeypatch.setenv("HEXA_WORKER_CONFIG", "nowhere.toml")
    assert "HEXA_WORKER_CONFIG: there is no file nowhere.toml" in project("lag", code=2, folder=tmp_path).stderr
    for arguments in (("project",), ("-c", "project")):
        assert json.loads(project("check", "--json", *arguments, folder=tmp_path).stdout)["name"] == "sample"


def test_every_command_that_reads_worker_toml_takes_it_by_an_option() -> None:
    def leaves(group: click.Group, context: click.Context) -> Iterator[click.Command]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from leaves(command, context)
            else:
                yield command

    without = {
        command.name
        for command in leaves(root, click.Context(root))
        if not any("--config" in option.opts and "-c" in option.opts for option in command.params)
    }
    assert without <= {"init", "version"}


@pytest.mark.parametrize(
    "command", [("check",), ("run",), ("emit", "work", "--payload", "1"), ("dlq", "list"), ("lag",)]
)
def test_a_mistake_in_worker_toml_is_one_clear_text_and_exit_code_2(project: Project, command: tuple[str, ...]) -> None:
    project.write(worker=WORKER.replace("maximum_retries", "maximum_retires"))
    done = project(*command, code=2)
    assert "subscriptions.do.retry" in done.stderr
    assert "maximum_retries" in done.stderr
    assert done.stdout == ""


def test_an_old_name_of_a_key_works_and_is_said_once_at_the_start(project: Project) -> None:
    told = "maximum_attempts is called maximum_retries now"
    project.emit({"id": 1})
    assert told not in project("run", "--until-idle").stderr
    project.write(worker=WORKER.replace("maximum_retries", "maximum_attempts"))
    assert project("check").stderr.count(told) == 1
    (warning,) = project.json("check")["warnings"]
    assert told in warning
    assert warning.startswith(str(project.folder / "worker.toml"))
    project.emit({"id": 2})
    assert project("run", "--until-idle", "--processes", "2").stderr.count(told) == 1


def test_a_mistake_in_a_handler_module_is_one_clear_text_and_exit_code_2(project: Project) -> None:
    project.write(handlers=HANDLERS + "\nimport nowhere_to_be_found\n")
    assert "nowhere_to_be_found" in project("check", code=2).stderr


def test_an_unknown_command_is_guessed(project: Project) -> None:
    assert "did you mean 'trace'" in project("trase", code=2).stderr


@pytest.mark.parametrize("group", [(), ("dlq",), ("outbox",)])
def test_a_group_without_a_command_shows_its_help_and_no_error(
    capsys: pytest.CaptureFixture[str], group: tuple[str, ...]
) -> None:
    code = main(group)
    told = capsys.readouterr()
    text = told.out + told.err
    assert text.startswith("Usage: hexa-worker ")
    assert "Commands:" in text
    assert "error:" not in text
    assert code in (0, 2)  # click's own answer to it has changed


def test_the_version_is_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hexa-worker {version('hexa-worker')}\n"


def test_version_names_what_is_installed(project: Project) -> None:
    found = project.json("version")
    assert found["libraries"]["anyio"]
    assert found["python"]
    assert project("version").stdout.startswith("hexa-worker ")


def test_nothing_is_coloured_where_nobody_looks(project: Project) -> None:
    project.emit({"id": 1, "fail": True})
    project.drain()
    for command in (("check",), ("dlq", "list"), ("lag",), ("trace", "nobody")):
        done = project(*command, code=1 if "nobody" in command else 0)
        assert "\x1b" not in done.stdout + done.stderr


def on_a_terminal(project: Project, command: str, **environment: str) -> str:
    """What a command writes to a terminal."""
    reading, writing = pty.openpty()
    with os.fdopen(reading, "rb") as terminal:
        subprocess.run(
            [sys.executable, "-m", "hexa_worker", command],
            cwd=project.folder,
            stdin=writing,
            stdout=writing,
            stderr=writing,
            check=True,
            timeout=60,
            env={**project.environment(), "TERM": "xterm-256color", **environment},
        )
        os.close(writing)
        return terminal.read1(100_000).decode()


def test_a_terminal_gets_colours_unless_it_says_no(project: Project) -> None:
    assert "\x1b[" in on_a_terminal(project, "check")
    plain = on_a_terminal(project, "check", NO_COLOR="1")
    assert "sibling" in plain
    assert "\x1b" not in plain


def test_a_broker_that_cannot_be_opened_is_an_error_and_no_traceback(project: Project) -> None:
    var = project.folder / "var"
    shutil.rmtree(var, ignore_errors=True)
    var.mkdir()
    (var / "hexa.db").write_bytes(b"no database at all " * 500)
    assert "hexa.db" in project("emit", "work", "--payload", "1", code=1).stderr
    assert "hexa.db" in project("check", "--connect", code=2).stderr
