"""Dead letters on every broker: the claims; the file of each broker (``test_dead_letters_kafka.py``, …) takes them."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from tests.e2e.on_brokers import Place, done
from tests.e2e.project import Project

WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
{broker}

[subscriptions.{name}-do.retry]
maximum_retries = 0

[subscriptions.{name}-sibling.retry]
maximum_retries = 0
"""
HANDLERS = """
from pathlib import Path

from hexa_worker import Context, subscribe


@subscribe("{name}.work", action="{name}-do")
async def do(e: dict, ctx: Context) -> None:
    if not Path("mended").exists() and not e.get("mended"):
        raise (KeyError if e["id"] % 3 == 2 else ValueError)(f"order {{e['id']}} is bad")
    with open("done.txt", "a") as file:
        file.write(f"{{e['id']}}\\n")


@subscribe("{name}.work", action="{name}-sibling")
async def sibling(e: dict, ctx: Context) -> None:
    with open("sibling.txt", "a") as file:
        file.write(f"{{e['id']}}\\n")
"""
MENDING = """
import json

from hexa_worker.dead_letters import Draft


def mend(draft: Draft) -> None:
    order = json.loads(draft.payload)
    if order["id"] == 7:
        raise LookupError("nobody knows")
    draft.payload = json.dumps(order | {"mended": True}).encode()
"""
ODD = {"key": {"base64": "/wA="}, "headers": [["mine", {"base64": "gIE="}]], "payload": {"base64": "AP9/"}}


def buried(place: Place, folder: Path, count: int) -> Project:
    """A project there whose events 0 to `count` - 1 are dead letters of ``do``."""
    project = Project(folder / "project").write(
        WORKER.format(broker=place.broker, name=place.name), HANDLERS.format(name=place.name)
    )
    (project.folder / "mending.py").write_text(MENDING)
    lines = [{"channel": f"{place.name}.work", "key": f"k{n}", "payload": {"id": n}} for n in range(count)]
    project("emit", "--file", "-", "--quiet", given="\n".join(map(json.dumps, lines)).encode())
    project.drain()
    return project


def letters(project: Project, *filters: str) -> list[dict[str, Any]]:
    """What ``dlq list`` shows."""
    found: list[dict[str, Any]] = project.json("dlq", "list", *filters)
    return found


def numbers(project: Project) -> Counter[int]:
    """How often each event was handled by ``do``."""
    return Counter(map(int, done(project)))


def test_letters_are_listed_shown_and_redriven_by_id_fingerprint_action_and_age(place: Place, tmp_path: Path) -> None:
    project = buried(place, tmp_path, 9)
    found = letters(project)
    assert len(found) == 9
    assert {one["action"] for one in found} == {f"{place.name}-do"}
    groups = project.json("dlq", "list", "--groups")
    assert [(one["error"].partition(":")[0], one["count"]) for one in groups] == [("ValueError", 6), ("KeyError", 3)]
    assert all(one["first_seen"] <= one["last_seen"] for one in groups)
    shown = project.json("dlq", "show", found[0]["id"])
    assert (shown["channel"], shown["attempts"], len(shown["failed_at"])) == (f"{place.name}.work", 1, 1)
    assert "payload" not in shown
    assert "id" in project.json("dlq", "show", found[0]["id"], "--payload")["payload"]

    assert project.json("dlq", "redrive", found[0]["id"], "--dry-run")["found"] == 1
    assert len(letters(project)) == 9
    (project.folder / "mended").touch()
    assert project.json("dlq", "redrive", found[0]["id"])["redrove"] == 1
    told = project.json("dlq", "redrive", "--fingerprint", groups[1]["fingerprint"], "--rate", "20/s")
    assert told["redrove"] == told["found"] >= 2, told
    assert (
        project.json("dlq", "redrive", "--action", f"{place.name}-do", "--older-than", "1d", "--dry-run")["found"] == 0
    )
    left = len(letters(project))
    assert project.json("dlq", "redrive", "--action", f"{place.name}-do", "--newer-than", "1d")["redrove"] == left
    assert letters(project) == []
    project.drain()
    assert letters(project) == []
    assert numbers(project) == Counter(range(9))
    assert sorted(map(int, (project.folder / "sibling.txt").read_text().split())) == list(range(9))


def test_what_still_fails_is_withheld_and_a_hook_mends_it(place: Place, tmp_path: Path) -> None:
    project = buried(place, tmp_path, 9)
    (first, *_) = letters(project, "--error", "ValueError")
    project("dlq", "redrive", first["id"])
    project.drain()
    held = project("dlq", "redrive", "--error", "ValueError", code=1)
    assert f"withheld 6 dead letters of {place.name}-do: {first['fingerprint']} still fails" in held.stderr
    (again,) = [one for one in letters(project) if one["redriven_from"]]
    assert (again["redriven_from"], again["event_id"], again["attempts"]) == (first["id"], first["event_id"], 2)
    told = project("dlq", "redrive", "--all", "--yes", "--force", "--transform", "mending:mend", code=1)
    assert "the hook raised LookupError: nobody knows" in told.stderr
    project.drain()
    (left,) = letters(project)
    assert project.json("dlq", "show", left["id"], "--payload")["payload"] == {"id": 7}
    assert numbers(project) == Counter(set(range(9)) - {7})


def test_a_redrive_that_is_killed_before_it_removes_is_run_again_without_doubles(place: Place, tmp_path: Path) -> None:
    project = buried(place, tmp_path, 12)
    (project.folder / "mended").touch()
    project("dlq", "redrive", "--all", "--yes", faults="redrive-remove:kill", code=-signal.SIGKILL)
    assert len(letters(project)) == 12
    told = project.json("dlq", "redrive", "--all", "--yes")
    assert (told["redrove"], told["already"]) == (0, 12)
    assert letters(project) == []
    project.drain()
    assert numbers(project) == Counter(range(12))


def test_copies_that_were_handled_meanwhile_are_not_sent_again(place: Place, tmp_path: Path) -> None:
    project = buried(place, tmp_path, 3)
    (project.folder / "mended").touch()
    project("dlq", "redrive", "--all", "--yes", faults="redrive-remove:kill", code=-signal.SIGKILL)
    project.drain()
    assert project.json("dlq", "redrive", "--all", "--yes")["already"] == 3
    project.drain()
    assert numbers(project) == Counter(range(3))


def test_exported_letters_come_back_byte_for_byte_and_never_twice(place: Place, tmp_path: Path) -> None:
    project = buried(place, tmp_path, 5)
    project("dlq", "import", "-", given=json.dumps({"action": f"{place.name}-do", **ODD}).encode())
    project("dlq", "export", "--file", "letters.jsonl")
    assert project.json("dlq", "import", "letters.jsonl")["already"] == 6
    assert project.json("dlq", "purge", "--all", "--yes")["purged"] == 6
    assert letters(project) == []
    project("dlq", "import", "letters.jsonl", faults="import-done:kill", code=-signal.SIGKILL)
    assert project.json("dlq", "import", "letters.jsonl")["already"] == 6
    project("dlq", "export", "--file", "again.jsonl")
    assert essence(project, "again.jsonl") == essence(project, "letters.jsonl")
    assert json.dumps(ODD["payload"]) in "".join(essence(project, "again.jsonl"))


def essence(project: Project, name: str) -> list[str]:
    """The letters of an exported file without their places, headers in any order."""
    lines = [json.loads(line) for line in (project.folder / name).read_text().splitlines()]
    for line in lines:
        line.pop("id")
        line["headers"].sort(key=json.dumps)
    return sorted(map(json.dumps, lines))
