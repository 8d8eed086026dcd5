"""Redriving on the command line: killed in the middle, with a hook, while the failure still happens."""

import signal
from collections import Counter

import pytest

from tests.e2e.project import WORKER, Project

HANDLERS = """
from pathlib import Path

from hexa_worker import Context, subscribe


@subscribe("work", action="do")
async def do(e: dict, ctx: Context) -> None:
    if e.get("currency") != "EUR" and not Path("mended").exists():
        raise ValueError(f"order {e['id']} has no currency")
    with open("done.txt", "a") as file:
        file.write(f"{e['id']}\\n")
"""
MENDING = """
import json
import os
import time

from hexa_worker.dead_letters import Draft


def add_currency(draft: Draft) -> None:
    order = json.loads(draft.payload)
    if order["id"] == 2:
        raise LookupError("whose order is this?")
    order["currency"] = "EUR"
    draft.payload = json.dumps(order).encode()


async def wait(draft: Draft) -> None:
    pass


def hold(draft: Draft) -> None:
    print("holding", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


@pytest.fixture
def failing(project: Project) -> Project:
    """A project whose handler fails, with `MENDING` at hand."""
    project.write(worker=WORKER.replace("maximum_retries = 1", "maximum_retries = 0"), handlers=HANDLERS)
    (project.folder / "mending.py").write_text(MENDING)
    return project


def bury(project: Project, count: int) -> None:
    """Make dead letters of the events 0 to `count` - 1."""
    given = b"".join(b'{"payload": {"id": %d}}\n' % number for number in range(count))
    project("emit", "work", "--file", "-", "--quiet", given=given)
    project.drain()
    assert len(project.json("dlq", "list")) == count


def test_of_two_redrives_at_once_one_sends_and_the_other_is_refused(failing: Project) -> None:
    bury(failing, 30)
    (failing.folder / "mended").touch()
    with failing.running("dlq", "redrive", "--all", "--yes", "--transform", "mending:hold") as first:
        first.hear("holding")
        refused = failing.refusal("dlq", "redrive", "--all", "--yes", code=2)
        assert "another redrive or import of these dead letters is under way" in refused
        failing("dlq", "redrive", "--all", "--dry-run")
        (failing.folder / "go").touch()
        assert first.ended() == 0
    failing.drain()
    assert Counter((failing.folder / "done.txt").read_text().split()) == Counter(map(str, range(30)))


@pytest.mark.parametrize("drained", [False, True], ids=["copies-wait", "copies-were-handled"])
@pytest.mark.parametrize("point", ["redrive-publish", "redrive-remove", "redrive-done"])
def test_a_redrive_that_is_killed_and_run_again_loses_nothing_and_doubles_nothing(
    failing: Project, point: str, drained: bool
) -> None:
    bury(failing, 250)
    (failing.folder / "mended").touch()
    failing("dlq", "redrive", "--all", "--yes", faults=f"{point}:kill:at=2", code=-signal.SIGKILL)
    if drained:
        failing.drain()
    told = failing.json("dlq", "redrive", "--all", "--yes")
    assert told["already"] == (100 if point == "redrive-remove" else 0)
    failing.drain()
    assert failing.json("dlq", "list") == []
    done = Counter((failing.folder / "done.txt").read_text().split())
    assert done == Counter(str(number) for number in range(250))


def test_what_still_fails_is_withheld_until_it_is_forced(failing: Project) -> None:
    bury(failing, 3)
    failing("dlq", "redrive", "--all", "--yes", "--limit", "1")
    failing.drain()
    (letter,) = [one for one in failing.json("dlq", "list") if one["redriven_from"]]
    assert (letter["attempts"], letter["attempts_since_redrive"]) == (2, 1)
    assert len(failing.json("dlq", "show", letter["id"])["failed_at"]) == 2
    held = failing("dlq", "redrive", "--all", "--yes", code=1)
    assert f"withheld 3 dead letters of do: {letter['fingerprint']} still fails ({letter['id']}" in held.stderr
    assert failing.json("dlq", "redrive", "--all", "--dry-run")["withheld"][0]["count"] == 3
    assert len(failing.json("dlq", "list")) == 3
    (failing.folder / "mended").touch()
    assert failing.json("dlq", "redrive", letter["id"], "--force")["redrove"] == 1
    failing.drain()
    assert failing.json("dlq", "redrive", "--all", "--yes")["redrove"] == 2
    failing.drain()
    assert sorted((failing.folder / "done.txt").read_text().split()) == ["0", "1", "2"]


def test_a_hook_mends_letters_and_those_that_it_fails_on_stay(failing: Project) -> None:
    bury(failing, 4)
    told = failing("dlq", "redrive", "--all", "--yes", "--transform", "mending:add_currency", code=1)
    assert "redrove 3 dead letters" in told.stderr
    assert "the hook raised LookupError: whose order is this?" in told.stderr
    failing.drain()
    assert sorted((failing.folder / "done.txt").read_text().split()) == ["0", "1", "3"]
    (left,) = failing.json("dlq", "list")
    assert failing.json("dlq", "show", left["id"], "--payload")["payload"] == {"id": 2}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mending", 'not of the form "module:function"'),
        ("mendin:add_currency", "did you mean mending?"),
        ("mending:add", "it has Draft, add_currency, wait"),
        ("mending:wait", "is async"),
    ],
)
def test_a_hook_that_cannot_be_had_is_named_before_anything_happens(failing: Project, name: str, said: str) -> None:
    told = failing("dlq", "redrive", "--all", "--yes", "--transform", name, code=2)
    assert "--transform" in told.stderr
    assert said in told.stderr
