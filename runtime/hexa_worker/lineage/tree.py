"""The tree of one root event, built from what is known of it. Pure.

Three sources are put together: entries of the lineage store (what happened), dead letters, and records that still
wait in channels. Any of them may be incomplete: the store forgets by age, a broker may be shared with others.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from hexa_worker.core.outcome import DUPLICATE
from hexa_worker.lineage.entries import LineageEntry, emitted_ms

State = Literal["done", "dropped", "retrying", "snoozed", "dead-lettered", "redriven", "purged", "released", "waiting"]
_STATE_AFTER: dict[str, State] = {
    "acked": "done",
    "dropped": "dropped",
    "retried": "retrying",
    "snoozed": "snoozed",
    "dead-lettered": "dead-lettered",
    "redriven": "redriven",
    "purged": "purged",
    "released": "released",
}


class WaitingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record found in a channel, not yet finished by `action`.

    Attributes:
        attempt: of the delivery that it will be.
        due_ms: when; 0: now.
        dead: it is in the dead-letter channel: it waits for a person.
    """

    event_id: str
    root_id: str
    parent_id: str | None
    action: str
    channel: str
    message_id: str
    attempt: int = 0
    snoozes: int = 0
    at_ms: int = 0
    due_ms: int = 0
    dead: bool = False
    error: str | None = None


class Branch(msgspec.Struct, kw_only=True):
    """What one action did with one event: everything that happened, in order of time."""

    action: str
    steps: list[LineageEntry] = msgspec.field(default_factory=list)
    waiting: list[WaitingRecord] = msgspec.field(default_factory=list)

    @property
    def state(self) -> State:
        """Where the action stands with the event."""
        if any(not one.dead for one in self.waiting):
            if any(one.attempt for one in self.waiting):
                return "retrying"
            return "snoozed" if any(one.snoozes for one in self.waiting) else "waiting"
        if self.waiting:
            return "dead-lettered"
        last = [step for step in self.steps if step.outcome != "released" and step.error != DUPLICATE] or self.steps
        return _STATE_AFTER[last[-1].outcome] if last else "waiting"


class Node(msgspec.Struct, kw_only=True):
    """One event with everything that came of it.

    Attributes:
        channel: where it was emitted to, as far as is known.
        emitted_at_ms: when, as far as is known.
    """

    event_id: str
    parent_id: str | None = None
    channel: str | None = None
    emitted_at_ms: int | None = None
    branches: list[Branch] = msgspec.field(default_factory=list)
    children: list["Node"] = msgspec.field(default_factory=list)


def build(root_id: str, entries: Iterable[LineageEntry], waiting: Sequence[WaitingRecord] = ()) -> Node:
    """The tree of `root_id`.

    Every event that is mentioned is in it exactly once: under its parent, or under the root when its parent is
    unknown or the chain of parents does not lead to the root (headers from outside may claim anything).
    """
    nodes: dict[str, Node] = {root_id: _node(root_id, None)}
    branches: dict[tuple[str, str], Branch] = {}
    for entry in sorted(entries, key=lambda one: (one.at_ms, one.attempt)):
        node = nodes.setdefault(entry.event_id, _node(entry.event_id, entry.parent_id))
        if entry.attempt == 0 and entry.outcome not in {"redriven", "purged"}:
            node.channel = node.channel or entry.channel
        _branch(branches, node, entry.action).steps.append(entry)
    for one in waiting:
        node = nodes.setdefault(one.event_id, _node(one.event_id, one.parent_id))
        if not one.attempt and not one.snoozes and not one.dead:
            node.channel = node.channel or one.channel
            node.emitted_at_ms = node.emitted_at_ms or one.at_ms or None
        _branch(branches, node, one.action).waiting.append(one)
    _link(root_id, nodes)
    return nodes[root_id]


def _node(event_id: str, parent_id: str | None) -> Node:
    return Node(event_id=event_id, parent_id=parent_id, emitted_at_ms=emitted_ms(event_id))


def _branch(branches: dict[tuple[str, str], Branch], node: Node, action: str) -> Branch:
    branch = branches.get((node.event_id, action))
    if branch is None:
        branch = branches[node.event_id, action] = Branch(action=action)
        node.branches.append(branch)
    return branch


def _link(root_id: str, nodes: dict[str, Node]) -> None:
    for node in nodes.values():
        if node.event_id == root_id:
            continue
        parent = nodes.get(node.parent_id or root_id)
        if parent is None or not _reaches(root_id, parent, nodes):
            parent = nodes[root_id]
        parent.children.append(node)
    for node in nodes.values():
        node.children.sort(key=_began)


def _reaches(root_id: str, node: Node, nodes: dict[str, Node]) -> bool:
    """Whether the chain of known parents leads from `node` to the root."""
    seen = set()
    while node.event_id != root_id:
        if node.event_id in seen:
            return False
        seen.add(node.event_id)
        above = nodes.get(node.parent_id or root_id)
        if above is None:
            return True  # hangs under the root itself
        node = above
    return True


def _began(node: Node) -> tuple[int, str]:
    times = [step.at_ms for branch in node.branches for step in branch.steps]
    return node.emitted_at_ms or min(times, default=0), node.event_id
