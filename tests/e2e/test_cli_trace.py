"""Tracing on the command line: following a tree as it grows, and trees that several services made."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.project import Project, Running
from tests.lab.base import Broker

FRONT = """
[worker]
name = "front"
handlers = ["h"]
backend = "{backend}"

[broker]
driver = "embedded"
path = "../shared/hexa.db"

[lineage]
{lineage}

[subscriptions.take.retry]
initial_interval_s = 0.05
maximum_retries = 1
"""
FRONT_HANDLERS = """
from hexa_worker import Context, subscribe


@subscribe("orders", action="take")
async def take(e: dict, ctx: Context) -> None:
    if ctx.attempt == 0:
        raise ValueError("not at once")
    await ctx.emit("parcels", {"of": e["id"]})
"""
BACK_HANDLERS = """
from hexa_worker import Context, DeadLetter, subscribe


@subscribe("parcels", action="pack")
async def pack(e: dict, ctx: Context) -> None:
    await ctx.emit("letters", e)


@subscribe("letters", action="post")
async def post(e: dict, ctx: Context) -> None:
    raise DeadLetter("no stamp")
"""
EMBEDDED = 'path = "../shared/lineage.db"'


def services(folder: Path, lineage: str, back: str = "asyncio") -> tuple[Project, Project]:
    """Two services that share a broker and a lineage store."""
    (folder / "shared").mkdir()
    worker = FRONT.format(backend="asyncio", lineage=lineage)
    front = Project(folder / "front").write(worker, FRONT_HANDLERS)
    other = FRONT.format(backend=back, lineage=lineage).replace('"front"', '"back"').replace("s.take", "s.pack")
    return front, Project(folder / "back").write(other, BACK_HANDLERS)


def outcomes(node: dict[str, Any]) -> dict[str, list[str]]:
    """What became of one event, for each action."""
    return {one["action"]: [step["outcome"] for step in one["steps"]] for one in node["actions"]}


def expect_one_tree(front: Project, back: Project, event_id: str) -> None:
    """Both services tell the same tree, from any of its events."""
    tree = front.json("trace", event_id)
    assert outcomes(tree) == {"take": ["retried", "acked"]}
    assert tree["actions"][0]["steps"][0]["error"] == "ValueError: not at once"
    (parcel,) = tree["children"]
    assert outcomes(parcel) == {"pack": ["acked"]}
    (letter,) = parcel["children"]
    assert outcomes(letter) == {"post": ["dead-lettered"]}
    theirs = back.json("trace", letter["event_id"])
    assert (theirs["root_id"], outcomes(theirs["children"][0])) == (event_id, {"pack": ["acked"]})


def test_services_that_share_a_store_tell_one_tree(tmp_path: Path) -> None:
    front, back = services(tmp_path, EMBEDDED)
    back.drain()  # from now on what comes for it is kept
    event_id = front.emit({"id": 1}, "orders")
    front.drain()
    back.drain()
    expect_one_tree(front, back, event_id)


def heard(follower: Running, count: int) -> list[tuple[str, str]]:
    """Action and outcome of the next things that a follower tells."""
    lines = [json.loads(follower.hear("{")) for _ in range(count)]
    return [(line["action"], line["outcome"]) for line in lines]


def test_a_follower_tells_what_happens_as_it_happens_until_it_is_interrupted(tmp_path: Path) -> None:
    front, back = services(tmp_path, EMBEDDED)
    back.drain()
    event_id = front.emit({"id": 1}, "orders")
    with front.running("trace", event_id, "--follow", "--json") as follower:
        front.drain()
        assert heard(follower, 2) == [("take", "retried"), ("take", "acked")]
        back.drain()
        # What the child's handler emits may come to its end before the child is acknowledged.
        assert sorted(heard(follower, 2)) == [("pack", "acked"), ("post", "dead-lettered")]
        follower.signal(signal.SIGINT)
        assert follower.ended() == 0, follower.lines
    assert len(follower.lines) == 4, follower.lines


def test_a_follower_may_end_when_everything_has_ended(tmp_path: Path) -> None:
    front, back = services(tmp_path, EMBEDDED)
    back.drain()
    event_id = front.emit({"id": 1}, "orders")
    with back.running("trace", event_id, "--until-done") as follower:
        front.drain()
        follower.hear("take")
        back.drain()
        assert follower.ended() == 0, follower.lines
    said = "".join(follower.lines)
    assert "retry 1 in" in said
    assert "DeadLetter: no stamp" in said
    assert event_id in said


def test_without_lineage_there_is_nothing_to_follow(tmp_path: Path) -> None:
    front, _ = services(tmp_path, 'store = "off"')
    assert "lineage.store" in front("trace", "--follow", "x", code=2).stderr


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_services_that_share_a_database_tell_one_tree(
    tmp_path: Path, postgres: Broker, unique_name: Callable[..., str], backend: str
) -> None:
    name = unique_name("lineage").replace("-", "_")
    with psycopg.connect(postgres.address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    front, back = services(tmp_path, 'store = "postgres"\nurl = "${LINEAGE_URL}"', backend)
    for project in (front, back):
        url = f"{postgres.address.rpartition('/')[0]}/{name}"
        project.variables["LINEAGE_URL"] = url.replace("postgres@", "postgres:canary@")
    back.drain()
    event_id = front.emit({"id": 1}, "orders")
    with back.running("trace", event_id, "--until-done", "--json") as follower:
        front.drain()
        assert "canary" not in back("run", "--until-idle").stderr
        assert heard(follower, 2) == [("take", "retried"), ("take", "acked")]
        # What the child's handler emits may come to its end before the child is acknowledged.
        assert sorted(heard(follower, 2)) == [("pack", "acked"), ("post", "dead-lettered")]
        assert follower.ended() == 0, follower.lines
    expect_one_tree(front, back, event_id)


@pytest.mark.postgres
def test_a_worker_whose_lineage_database_is_away_works_and_says_so_once(tmp_path: Path, postgres: Broker) -> None:
    front, back = services(tmp_path, 'store = "postgres"\nurl = "${LINEAGE_URL}"')
    for project in (front, back):
        project.variables["LINEAGE_URL"] = postgres.proxied_address.replace("postgres@", "postgres:canary@")
    front.emit({"id": 1}, "orders")
    ran = front("run", "--until-idle")
    assert ran.stderr.count("lineage is not kept") == 1
    assert "canary" not in ran.stderr
    traced = front("trace", "x", code=1)
    assert "lineage store postgresql at 127.0.0.1" in traced.stderr
    assert "canary" not in traced.stderr
