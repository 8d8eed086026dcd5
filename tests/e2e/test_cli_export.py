"""Exporting and importing on the command line: byte for byte, run again at any time, never twice."""

import json
import signal
from pathlib import Path

import pytest

from tests.e2e.project import WORKER, Project

ODD = {
    "key": {"base64": "/wA="},
    "headers": [["mine", {"base64": "gIE="}], ["mine", "x"]],
    "payload": {"base64": "AP9/"},
}


@pytest.fixture
def buried(project: Project) -> Project:
    """A project with 1,200 dead letters, and one that is no text."""
    project.write(worker=WORKER.replace("maximum_retries = 1", "maximum_retries = 0"))
    given = b"".join(b'{"payload": {"id": %d, "fail": true}, "key": "k"}\n' % number for number in range(1200))
    project("emit", "work", "--file", "-", "--quiet", given=given)
    project.drain()
    project("dlq", "import", "-", given=json.dumps({"action": "do", **ODD}).encode())
    return project


def essence(path: Path) -> list[str]:
    """The letters of a file without their places."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(json.dumps({name: value for name, value in line.items() if name != "id"}) for line in lines)


def test_what_is_exported_comes_back_byte_for_byte_after_a_kill_and_is_never_doubled(buried: Project) -> None:
    told = buried("dlq", "export", "--file", "letters.jsonl")
    assert "exported 1,201 dead letters" in told.stderr
    exported = buried.folder / "letters.jsonl"
    assert exported.stat().st_mode & 0o077 == 0
    assert buried("dlq", "export", "do.dlq-0").stdout.splitlines() == exported.read_text().splitlines()[:1]
    assert len(buried.json("dlq", "list")) == 1201  # an export takes nothing away
    assert buried.json("dlq", "import", "letters.jsonl") == {
        "imported": 0,
        "already": 1201,
        "refused": 0,
        "lines": 1201,
        "bad_line": None,
    }
    buried("dlq", "purge", "--all", "--yes")
    for point in ("import-publish", "import-done"):
        buried("dlq", "import", "letters.jsonl", faults=f"{point}:kill:at=2", code=-signal.SIGKILL)
    told = buried.json("dlq", "import", "letters.jsonl")
    assert (told["imported"], told["already"]) == (201, 1000)
    buried("dlq", "export", "--file", "again.jsonl")
    assert essence(buried.folder / "again.jsonl") == essence(exported)
    (buried.folder / "mended").touch()
    assert buried.json("dlq", "redrive", "--all", "--yes", "--limit", "50")["redrove"] == 50


def test_a_bad_line_is_named_with_what_was_imported_before_it(buried: Project) -> None:
    buried("dlq", "export", "--file", "letters.jsonl")
    buried("dlq", "purge", "--all", "--yes")
    path = buried.folder / "letters.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:699], '{"action": "nobody", "payload": ""}', *lines[699:]]))
    told = buried("dlq", "import", "letters.jsonl", code=1)
    assert "letters.jsonl: line 700: there is no action 'nobody' (one of do, grow, sibling, or --action)" in told.stderr
    assert "imported and confirmed: 699 dead letters (lines 1 to 699)" in told.stderr
    path.write_text("\n".join(lines))
    told = buried("dlq", "import", "letters.jsonl")
    assert "imported and confirmed: 502 dead letters (lines 1 to 1201); 699 were there already" in told.stderr


def test_an_export_spoils_no_file_and_leaves_no_half_of_one(buried: Project) -> None:
    (buried.folder / "letters.jsonl").write_text("precious")
    assert "--overwrite" in buried("dlq", "export", "--file", "letters.jsonl", code=2).stderr
    assert "no action" in buried("dlq", "export", "--file", "new.jsonl", "--action", "nobody", code=2).stderr
    assert [path.name for path in buried.folder.glob("*.jsonl*")] == ["letters.jsonl"]
    assert (buried.folder / "letters.jsonl").read_text() == "precious"
    assert "only 0 of 1" in buried("dlq", "export", "do.dlq-99999", code=1).stderr


def test_letters_may_become_those_of_another_subscription(buried: Project) -> None:
    line = buried("dlq", "export", "do.dlq-7").stdout.encode()
    buried("dlq", "import", "-", "--action", "sibling", given=line)
    (letter,) = buried.json("dlq", "list", "--action", "sibling")
    assert letter["error"] == "ValueError: order 7 is bad"
