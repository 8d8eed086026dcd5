"""Dead letters and lineage on the command line, after a real run."""

import json
from pathlib import Path

from tests.e2e.project import HANDLERS, WORKER, Project

FIELDS = {"id", "action", "root_id", "channel", "attempts", "error", "reason", "first_failed_at", "dead_at"}


def test_a_failed_event_is_listed_shown_redriven_and_its_siblings_are_left_alone(project: Project) -> None:
    event_id = project.emit({"id": 1, "fail": True})
    project.drain()
    (letter,) = project.json("dlq", "list")
    assert letter.keys() >= FIELDS
    assert (letter["action"], letter["channel"], letter["root_id"]) == ("do", "work", event_id)
    assert (letter["attempts"], letter["error"], letter["reason"]) == (2, "ValueError: order 1 is bad", "failed")
    assert letter["first_failed_at"] < letter["dead_at"]
    assert "ValueError" in project("dlq", "list").stdout

    shown = project.json("dlq", "show", letter["id"], "--payload")
    assert shown["payload"] == {"id": 1, "fail": True}
    assert "raise ValueError" in shown["traceback"]
    assert '"fail"' not in project("dlq", "show", letter["id"]).stdout

    (project.folder / "mended").touch()
    assert project.json("dlq", "redrive", letter["id"], "--dry-run")["found"] == 1
    assert project.json("dlq", "redrive", letter["id"])["redrove"] == 1
    project.drain()
    assert project.json("dlq", "list") == []
    assert (project.folder / "sibling.txt").read_text().split() == [event_id]
    tree = project.json("trace", event_id)
    outcomes = {one["action"]: [step["outcome"] for step in one["steps"]] for one in tree["actions"]}
    assert outcomes == {"do": ["retried", "dead-lettered", "redriven", "acked"], "sibling": ["acked"]}


def test_a_subscription_without_retries_can_be_redriven_too(project: Project) -> None:
    project.write(worker=WORKER.replace("maximum_retries = 1", "maximum_retries = 0"))
    project.emit({"id": 1, "fail": True})
    project.drain()
    (letter,) = project.json("dlq", "list")
    assert letter["attempts"] == 1
    (project.folder / "mended").touch()
    project("dlq", "redrive", "--all", "--yes", "--rate", "50/s")
    project.drain()
    assert project.json("dlq", "list") == []


def test_an_undecodable_payload_is_kept(project: Project) -> None:
    project.write(handlers=HANDLERS.replace("async def do(e: dict,", "async def do(e: list,"))
    project.emit({"id": 1})
    project.drain()
    (letter,) = project.json("dlq", "list")
    assert (letter["reason"], letter["attempts"]) == ("undecodable", 1)
    assert json.loads(project("dlq", "show", letter["id"], "--payload").stdout.split("\n\n")[-1]) == {"id": 1}


def test_filters_choose_and_a_purge_asks_before_it_deletes(project: Project) -> None:
    given = b"".join(b'{"payload": {"id": %d, "fail": true}}\n' % number for number in range(30))
    project("emit", "work", "--file", "-", given=given)
    project.drain()
    assert len(project.json("dlq", "list", "--action", "do", "--error", "ValueError", "--newer-than", "1h")) == 30
    assert project.json("dlq", "list", "--older-than", "1h") == []
    assert len(project.json("dlq", "list", "--limit", "3")) == 3
    (group,) = {one["fingerprint"] for one in project.json("dlq", "list")}
    assert "--yes" in project("dlq", "purge", "--fingerprint", group, code=2).stderr
    assert "which" in project("dlq", "purge", code=2).stderr
    assert "--yes" in project("dlq", "redrive", "--all", code=2).stderr
    assert "one of" in project("dlq", "list", "--action", "nobody", code=2).stderr
    assert "no duration" in project("dlq", "list", "--older-than", "soon", code=2).stderr
    assert project.json("dlq", "purge", "--fingerprint", group, "--yes", "--limit", "10")["purged"] == 10
    assert len(project.json("dlq", "list")) == 20
    assert "no dead letter" in project("dlq", "show", "do.dlq-999", code=1).stderr
    assert "only 0 of 1" in project("dlq", "redrive", "do.dlq-0", code=1).stderr


def test_a_trace_shows_the_whole_tree_by_any_of_its_ids(project: Project) -> None:
    event_id = project.emit({"id": 1, "child": True})
    waiting = project.json("trace", event_id)
    assert {one["action"]: one["state"] for one in waiting["actions"]} == {"do": "waiting", "sibling": "waiting"}
    project.drain()
    tree = project.json("trace", event_id)
    (child,) = tree["children"]
    assert (child["channel"], child["parent_id"]) == ("child", event_id)
    assert [(one["action"], one["state"]) for one in child["actions"]] == [("grow", "done")]
    assert project.json("trace", child["event_id"]) == tree
    drawn = project("trace", child["event_id"]).stdout
    assert event_id in drawn
    assert "grow" in drawn
    assert "nothing is known" in project("trace", "nobody", code=1).stderr


def test_lineage_may_be_off(project: Project) -> None:
    project.write(worker=WORKER + '\n[lineage]\nstore = "off"\n')
    event_id = project.emit({"id": 1, "fail": True})
    project.drain()
    assert not (project.folder / "var" / "lineage.db").exists()
    tree = project.json("trace", event_id)
    assert [(one["action"], one["state"]) for one in tree["actions"]] == [("do", "dead-lettered")]


def test_the_files_are_the_owners_alone(project: Project) -> None:
    project.emit({"id": 1})
    project.drain()
    for path in Path(project.folder / "var").rglob("*.db"):
        assert path.stat().st_mode & 0o077 == 0, path
