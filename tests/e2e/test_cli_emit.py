"""``hexa-worker emit``, as a user types it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.project import Project


def test_an_emitted_event_is_handled_with_the_id_that_was_printed(project: Project) -> None:
    printed = project("emit", "work", "--payload", '{"id": 1}', "--key", "k", "--header", "a=b=c").stdout.split()
    assert len(printed) == 1
    project.drain()
    assert (project.folder / "sibling.txt").read_text().split() == printed


def test_a_file_is_emitted_line_by_line_and_prints_an_id_for_each(project: Project) -> None:
    lines = [
        json.dumps({"channel": "work", "key": str(n), "headers": {"n": str(n)}, "payload": {"id": n}})
        for n in range(1200)
    ]
    (project.folder / "events.jsonl").write_text("\n".join(lines))
    done = project("emit", "worker.toml", "--file", "events.jsonl")
    assert len(set(done.stdout.split())) == 1200
    assert "emitted 1,200 events" in done.stderr
    assert {one["action"]: one["ready"] for one in project.json("lag")}["do"] == 1200


def test_standard_input_is_read_and_the_channel_may_come_from_the_command(project: Project) -> None:
    given = b'{"payload": {"id": 1}}\n{"payload": {"id": 2}, "id": "my-own"}\n'
    done = project("emit", "work", "--file", "-", "--json", given=given)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["channel"], one["line"]) for one in answers] == [("work", 1), ("work", 2)]
    assert answers[1]["id"] == "my-own"
    assert project("emit", "work", given=given, code=0).stdout.count("\n") == 2
    assert project("emit", "work", "--quiet", given=given).stdout == ""


def test_a_bad_line_says_where_it_is_and_how_to_go_on_and_going_on_emits_the_rest_once(project: Project) -> None:
    lines = [b'{"payload": {"id": %d}}' % number for number in range(1, 8001)]
    lines[6999] = b'{"payload": {"id": '
    path = project.folder / "events.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = project("emit", "work", "--file", "events.jsonl", code=1)
    assert "events.jsonl: line 7000: not JSON" in done.stderr
    assert "emitted and confirmed: 6,999 events (lines 1 to 6999)" in done.stderr
    assert len(done.stdout.split()) == 6999
    command = done.stderr.split("to go on: hexa-worker ")[1].split()
    lines[6999] = b'{"payload": {"id": 7000}}'
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert len(project(*command).stdout.split()) == 1001
    assert {one["action"]: one["ready"] for one in project.json("lag")}["do"] == 8000


def test_usage_mistakes_are_told_with_exit_code_2(project: Project, tmp_path: Path) -> None:
    for arguments, text in {
        ("emit", "work", "--payload", "{"): "--payload is not JSON: Input data was truncated\ntry: ",
        ("emit", "work", "--payload", "hello"): "a text needs its quotes: --payload '\"text\"'",
        ("emit", "--payload", "1"): "name the channel",
        ("emit", "work", "more", "--payload", "1"): "unexpected argument 'more'",
        ("emit", "work", "--payload", "1", "--file", "x"): "exclude each other",
        ("emit", "work", "--payload", "1", "--header", "x"): "NAME=VALUE",
        ("emit", "work", "--payload", "1", "--header", "hexa-root-id=x"): "reserved",
        ("emit", "work", "--payload", "1", "--id", "a b"): "visible ASCII",
        ("emit", "work", "--file", "nowhere.jsonl"): "nowhere.jsonl",
        ("dlq", "list", "--reason", "fialed"): "'fialed' is not one of 'failed', ",
        ("emit", "nowhere.toml", "work", "--payload", "1"): "nowhere.toml",
    }.items():
        assert text in project(*arguments, code=2).stderr
    assert "there is no worker.toml" in project("emit", "work", "--payload", "1", code=2, folder=tmp_path).stderr


def test_an_interrupted_emit_says_what_was_emitted_and_ends_with_130(project: Project) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hexa_worker", "emit", "work", "--file", "-"],
        cwd=project.folder,
        env={**project.environment(), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"payload": 1}\n')
    process.stdin.flush()
    assert process.stdout.readline()  # confirmed, though the input goes on
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"emitted and confirmed: 1 event (lines 1 to 1)" in err
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_ends_it_quietly(project: Project) -> None:
    (project.folder / "events.jsonl").write_text('{"payload": 1}\n' * 20_000)
    shell = (
        f"{sys.executable} -m hexa_worker emit work --file events.jsonl 2>err.txt | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", shell], cwd=project.folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split()[1] == "1"
    assert "Traceback" not in (project.folder / "err.txt").read_text()
    assert "Exception ignored" not in (project.folder / "err.txt").read_text()
