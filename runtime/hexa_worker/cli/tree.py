"""A tree of events, drawn for humans and spelled for machines."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hexa_worker.cli.terminal import clean, console, iso, local
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.tree import Branch, Node, WaitingRecord

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

STYLES = {
    "done": "green",
    "dropped": "dim",
    "retrying": "yellow",
    "snoozed": "yellow",
    "dead-lettered": "bold red",
    "redriven": "yellow",
    "purged": "dim",
    "released": "yellow",
    "waiting": "yellow",
}
_MINUTE_S = 60


def plain(root: Node, before: Mapping[str, Any] = {}, after: Mapping[str, Any] = {}) -> msgspec.Raw:
    """An event and everything under it, as JSON says it; written without recursion, for chains may be long.

    Args:
        root: the event.
        before: members of the outermost object before its own.
        after: the same behind them.
    """
    written: dict[int, bytes] = {}
    todo = [root]
    while todo:
        node = todo[-1]
        missing = [child for child in node.children if id(child) not in written]
        if missing:
            todo.extend(missing)
            continue
        todo.pop()
        children = b",".join([written.pop(id(child)) for child in node.children])
        outermost = node is root
        own = msgspec.json.encode({**(before if outermost else {}), **_plain_node(node)})
        rest = msgspec.json.encode({"children": msgspec.Raw(b"[" + children + b"]"), **(after if outermost else {})})
        written[id(node)] = own[:-1] + b"," + rest[1:]
    return msgspec.Raw(written[id(root)])


def _plain_node(node: Node) -> dict[str, Any]:
    return {
        "event_id": node.event_id,
        "parent_id": node.parent_id,
        "channel": node.channel,
        "emitted_at": iso(node.emitted_at_ms),
        "actions": [_plain_branch(branch) for branch in node.branches],
    }


def _plain_branch(branch: Branch) -> dict[str, Any]:
    return {
        "action": branch.action,
        "state": branch.state,
        "steps": [_plain_step(step) for step in branch.steps],
        "waiting": [_plain_waiting(one) for one in branch.waiting],
    }


def _plain_step(step: LineageEntry) -> dict[str, Any]:
    return {
        "attempt": step.attempt,
        "outcome": step.outcome,
        "at": iso(step.at_ms),
        "channel": step.channel,
        "message_id": step.message_id,
        "error": step.error,
        "delay_s": step.delay_s,
        "next": step.next,
    }


def _plain_waiting(one: WaitingRecord) -> dict[str, Any]:
    return {
        "attempt": one.attempt,
        "snoozes": one.snoozes,
        "channel": one.channel,
        "message_id": one.message_id,
        "since": iso(one.at_ms or None),
        "due": iso(one.due_ms or None),
        "dead_letter": one.dead,
        "error": one.error,
    }


def draw(root: Node) -> None:
    from rich.tree import Tree  # noqa: PLC0415 - lazy by design

    now_ms = time.time_ns() // 1_000_000
    top = Tree(_event(root), guide_style="dim")
    pending: list[tuple[Tree, Node]] = [(top, root)]
    while pending:
        tree, node = pending.pop()
        for branch in node.branches:
            _draw_branch(tree, branch, node, now_ms)
        if not node.branches:
            tree.add(_text(("nothing is known to have handled it", "dim")))
        pending += [(tree.add(_event(child)), child) for child in node.children]
    # A long line is folded by the terminal: cut to its width, the ids of a deep tree would be lost.
    console(wide=True).print(top, crop=False, overflow="ignore", no_wrap=True)


def tell(entry: LineageEntry, *, as_json: bool) -> None:
    """Write one thing that happened, on a line of its own, at once."""
    if as_json:
        ids = {"event_id": entry.event_id, "root_id": entry.root_id, "parent_id": entry.parent_id}
        print(msgspec.json.encode({**ids, "action": entry.action, **_plain_step(entry)}).decode(), flush=True)
        return
    line = _text((entry.event_id, "dim"), (entry.action, "cyan"), (entry.channel, "bold"))
    line.append("  ").append_text(_step(entry))
    console().print(line, soft_wrap=True)


def _text(*parts: tuple[str, str] | str | None) -> "Text":
    from rich.text import Text  # noqa: PLC0415 - lazy by design

    shown = [(clean(part), "") if isinstance(part, str) else (clean(part[0]), part[1]) for part in parts if part]
    return Text("  ").join(Text(text, style=style) for text, style in shown)


def _event(node: Node) -> "Text":
    emitted = (f"emitted {_clock(node.emitted_at_ms)}", "dim") if node.emitted_at_ms else None
    return _text((node.channel or "event", "bold"), node.event_id, emitted)


def _draw_branch(tree: "Tree", branch: Branch, node: Node, now_ms: int) -> None:
    twig = tree.add(_text((branch.action, "cyan"), (branch.state, STYLES[branch.state]), _took(branch, node)))
    if len(branch.steps) == 1 and branch.steps[0].outcome == "acked" and not branch.waiting:
        return  # the branch's own line says it all
    for step in branch.steps:
        twig.add(_step(step))
    for one in branch.waiting:
        twig.add(_waits(one, now_ms))


def _took(branch: Branch, node: Node) -> tuple[str, str] | None:
    """How long after its emission the event was finished."""
    if branch.state not in {"done", "dropped", "dead-lettered"} or not branch.steps or node.emitted_at_ms is None:
        return None
    return f"after {_span((branch.steps[-1].at_ms - node.emitted_at_ms) / 1000)}", "dim"


def _step(step: LineageEntry) -> "Text":
    attempt = "by hand" if step.outcome in {"redriven", "purged"} else f"attempt {step.attempt}"
    outcome = {"acked": ("done", "green"), "dropped": ("dropped", "dim")}.get(step.outcome)
    if step.outcome == "retried":
        outcome = (f"retry {step.attempt + 1} in {_span(step.delay_s or 0)}", "yellow")
    elif step.outcome == "snoozed":
        outcome = (f"snoozed for {_span(step.delay_s or 0)}", "yellow")
    elif step.outcome == "released":
        outcome = ("handed back unfinished", "yellow")
    elif outcome is None:
        outcome = (step.outcome, STYLES[step.outcome])
    error = (step.error, "red") if step.error else None
    return _text((_clock(step.at_ms), "dim"), attempt, outcome, error)


def _waits(one: WaitingRecord, now_ms: int) -> "Text":
    if one.dead:
        return _text((one.message_id, "bold"), ("is a dead letter", "red"))
    if one.due_ms > now_ms:
        when = f"due in {_span((one.due_ms - now_ms) / 1000)}"
    else:
        when = "due" if one.attempt or one.snoozes else "not handled yet"
    attempt = f"attempt {one.attempt}" if one.attempt else None
    snoozes = f"snoozed {one.snoozes} times" if one.snoozes else None
    return _text((one.message_id, "bold"), attempt, snoozes, (when, "yellow"))


def _clock(at_ms: int) -> str:
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone()
    except (ValueError, OverflowError, OSError):
        return local(at_ms)
    return at.strftime("%Y-%m-%d %H:%M:%S") + f".{at_ms % 1000:03d}"


def _span(seconds: float) -> str:
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
