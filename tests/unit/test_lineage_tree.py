"""Trees of events: every event once, whatever its headers claim."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.cli.tree import draw, plain
from hexa_worker.lineage.entries import Happening, LineageEntry
from hexa_worker.lineage.tree import Branch, Node, WaitingRecord, build

IDS = st.sampled_from(["root", "a", "b", "c", "d"])
HAPPENINGS: list[Happening] = ["acked", "dropped", "retried", "dead-lettered", "released", "redriven", "purged"]
ENTRIES = st.lists(
    st.builds(
        LineageEntry,
        event_id=IDS,
        root_id=st.just("root"),
        action=st.sampled_from(["do", "more"]),
        attempt=st.integers(0, 3),
        outcome=st.sampled_from(HAPPENINGS),
        at_ms=st.integers(0, 9),
        channel=st.just("work"),
        parent_id=st.none() | IDS | st.just("stranger"),
    ),
    max_size=25,
)
WAITING = st.lists(
    st.builds(
        WaitingRecord,
        event_id=IDS,
        root_id=st.just("root"),
        parent_id=st.none() | IDS,
        action=st.sampled_from(["do", "more"]),
        channel=st.just("do.retry.1"),
        message_id=st.just("m"),
        attempt=st.integers(0, 3),
        dead=st.booleans(),
    ),
    max_size=6,
)


def walk(node: Node) -> list[Node]:
    return [node] + [below for one in node.children for below in walk(one)]


@given(ENTRIES, WAITING)
def test_every_event_is_in_the_tree_once_with_all_that_happened_to_it(
    entries: list[LineageEntry], waiting: list[WaitingRecord]
) -> None:
    nodes = walk(build("root", entries, waiting))
    ids = [node.event_id for node in nodes]
    assert sorted(ids) == sorted({"root", *(one.event_id for one in entries), *(one.event_id for one in waiting)})
    steps = [step for node in nodes for branch in node.branches for step in branch.steps]
    assert sorted(steps, key=repr) == sorted(entries, key=repr)
    assert sum(len(branch.waiting) for node in nodes for branch in node.branches) == len(waiting)


@given(ENTRIES)
def test_steps_are_in_order_of_time_and_a_branch_is_one_action_of_one_event(entries: list[LineageEntry]) -> None:
    for node in walk(build("root", entries)):
        assert len({branch.action for branch in node.branches}) == len(node.branches)
        for branch in node.branches:
            times = [step.at_ms for step in branch.steps]
            assert times == sorted(times)
            assert {(step.event_id, step.action) for step in branch.steps} == {(node.event_id, branch.action)}


def entry(
    event_id: str, outcome: Happening, at_ms: int = 1, parent_id: str | None = None, attempt: int = 0
) -> LineageEntry:
    return LineageEntry(event_id, "root", "do", attempt, outcome, at_ms, "work", parent_id)


def test_children_hang_under_their_parent_and_orphans_under_the_root() -> None:
    tree = build(
        "root",
        [
            entry("root", "acked"),
            entry("a", "acked", parent_id="root"),
            entry("b", "acked", parent_id="a"),
            entry("orphan", "acked", parent_id="stranger"),
            entry("x", "acked", parent_id="y"),
            entry("y", "acked", parent_id="x"),
        ],
    )
    assert [node.event_id for node in tree.children] == ["a", "orphan", "x", "y"]
    assert [node.event_id for node in tree.children[0].children] == ["b"]


def test_a_long_chain_of_events_is_a_long_branch() -> None:
    chain = ["root", *(f"e{number}" for number in range(300))]
    tree = build("root", [entry(one, "acked", parent_id=above) for above, one in pairwise(chain)])
    depth, node = 0, tree
    while node.children:
        depth, node = depth + 1, node.children[0]
    assert depth == 300


def wait(attempt: int = 0, dead: bool = False) -> WaitingRecord:
    return WaitingRecord(
        event_id="a",
        root_id="root",
        parent_id=None,
        action="do",
        channel="c",
        message_id="m",
        attempt=attempt,
        dead=dead,
    )


def test_the_state_of_a_branch_is_what_it_waits_for_or_what_came_last() -> None:
    dead = entry("a", "dead-lettered", 1)
    assert Branch(action="do").state == "waiting"
    assert Branch(action="do", waiting=[wait()]).state == "waiting"
    assert Branch(action="do", steps=[entry("a", "released")]).state == "released"
    assert Branch(action="do", steps=[entry("a", "acked", 1), entry("a", "released", 2)]).state == "done"
    assert Branch(action="do", steps=[dead], waiting=[wait(dead=True)]).state == "dead-lettered"
    assert Branch(action="do", steps=[dead, entry("a", "redriven", 2)], waiting=[wait(1)]).state == "retrying"
    assert Branch(action="do", steps=[dead, entry("a", "redriven", 2), entry("a", "acked", 3)]).state == "done"
    assert Branch(action="do", steps=[dead, entry("a", "purged", 2)]).state == "purged"


DEPTH = 600


def chain() -> Node:
    """Events that each have one child: ``root``, ``e-1``, ``e-2``, …"""
    parents = ["root", *(f"e-{number}" for number in range(1, DEPTH))]
    return build("root", [entry(f"e-{number}", "acked", number, parent) for number, parent in enumerate(parents, 1)])


def test_a_long_chain_is_written_as_json() -> None:
    text = bytes(plain(chain(), {"root_id": "root"}, {"more": 1})).decode()
    assert text.startswith('{"root_id":"root","event_id":"root",')
    assert text.endswith(',"more":1}')
    assert text.count('"children":[{') == DEPTH
    assert text.count("{") == text.count("}")
    assert all(f'"event_id":"e-{number}"' in text for number in range(1, DEPTH + 1))


@given(ENTRIES, WAITING)
def test_a_tree_is_json_with_every_event_at_its_place(
    entries: list[LineageEntry], waiting: list[WaitingRecord]
) -> None:
    def shape(node: Any) -> Any:
        children = node["children"] if isinstance(node, dict) else node.children
        return (node["event_id"] if isinstance(node, dict) else node.event_id), [shape(one) for one in children]

    tree = build("root", entries, waiting)
    assert shape(json.loads(bytes(plain(tree)))) == shape(tree)


def test_the_ids_of_a_deep_tree_are_not_cut_at_the_terminals_width(capsys: pytest.CaptureFixture[str]) -> None:
    draw(chain())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if "e-" in line] == [f"e-{number}" for number in range(1, DEPTH + 1)]
