"""What the broker refuses is parked, seen and dealt with from the command line."""

import sqlite3
from contextlib import closing

import pytest

from tests.deadlines import wait_until as until
from tests.e2e.project import HANDLERS, WORKER, Project

REFUSE = """
CREATE TRIGGER refuse BEFORE INSERT ON log WHEN instr(NEW.headers, CAST('hexa-dead-at' AS BLOB))
BEGIN SELECT RAISE(ABORT, 'against the policy'); END
"""

ALIKE = """
[subscriptions.alike.retry]
maximum_retries = 0
"""
FAIL_ALIKE = """

@subscribe("work", action="alike")
async def alike(e: dict) -> None:
    if e.get("fail"):
        raise ValueError("bad")
"""


def change(project: Project, statement: str) -> None:
    with closing(sqlite3.connect(project.folder / "var" / "hexa.db", timeout=10)) as other, other:
        other.execute(statement)


@pytest.fixture
def refusing(project: Project) -> Project:
    """Its dead letters are refused."""
    project.write(worker=WORKER.replace("maximum_retries = 1", "maximum_retries = 0"))
    project.drain()
    change(project, REFUSE)
    return project


def test_what_is_parked_is_listed_tried_again_and_dropped_by_command(refusing: Project) -> None:
    given = b"".join(b'{"payload": {"id": %d, "fail": %s}}\n' % (n, b"true" if n < 3 else b"false") for n in range(20))
    refusing("emit", "work", "--file", "-", "--quiet", given=given)
    with refusing.running("run") as worker:
        until(lambda: len(refusing.json("dlq", "park", "list")) == 3)
        parked = refusing.json("dlq", "park", "list")
        assert {(one["id"], one["action"], one["refused"]) for one in parked} == {
            (f"work-{n}", "do", "dead letter") for n in range(3)
        }
        assert "against the policy" in parked[0]["reason"]
        assert refusing.json("lag")[0]["parked"] == 3
        refusing("dlq", "park", "drop", "work-1")
        until(lambda: len(refusing.json("dlq", "park", "list")) == 2)
        change(refusing, "DROP TRIGGER refuse")
        refusing("dlq", "park", "retry", "--all")
        until(lambda: not refusing.json("dlq", "park", "list"))
        assert {one["origin_id"] for one in refusing.json("dlq", "list")} == {"work-0", "work-2"}
        worker.stop()
    assert refusing("dlq", "park", "list").stderr.strip() == "nothing is parked"
    assert refusing.json("lag")[0]["ready"] == 0


def test_an_event_that_is_parked_for_two_actions_is_dropped_for_the_one_that_is_named(refusing: Project) -> None:
    refusing.write(worker=(refusing.folder / "worker.toml").read_text() + ALIKE, handlers=HANDLERS + FAIL_ALIKE)
    refusing.drain()
    refusing("emit", "work", "--file", "-", "--quiet", given=b'{"payload": {"id": 1, "fail": true}}\n')
    with refusing.running("run") as worker:
        until(lambda: len(refusing.json("dlq", "park", "list")) == 2)
        (parked,) = {one["id"] for one in refusing.json("dlq", "park", "list")}
        drop = ("dlq", "park", "drop")
        assert refusing.refusal(*drop, parked, code=1).endswith("is parked for alike and do: say which with --action")
        assert "is not parked for sibling" in refusing.refusal(*drop, parked, "--action", "sibling", code=1)
        assert len(refusing.json("dlq", "park", "list")) == 2
        refusing(*drop, parked, "--action", "alike")
        until(lambda: [one["action"] for one in refusing.json("dlq", "park", "list")] == ["do"])
        assert refusing.refusal(*drop, "--all", "--action", "alike", code=1) == "nothing is parked for alike"
        worker.stop()
