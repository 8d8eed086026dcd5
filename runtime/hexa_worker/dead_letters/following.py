"""Watches a tree grow: tells each thing that happens once, until everything in it has come to an end."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio

from hexa_worker.dead_letters.tracer import Traced
from hexa_worker.errors import DriverUnavailable
from hexa_worker.lineage.base import LineageStore
from hexa_worker.lineage.entries import LineageEntry
from hexa_worker.lineage.finding import find
from hexa_worker.lineage.tree import Node

POLL_S = 0.3
QUIET_S = 1.2
"""A tree is finished when for so long nothing happened: what a worker did is stored within a fraction of a second."""
UNREAD_LOOKS = 8
"""So many looks in a row, some ten seconds, a channel may refuse to be read before nobody waits for it any more."""
_ENDS = frozenset({"done", "dropped", "dead-lettered", "purged"})


async def follow(
    event_id: str,
    open_store: Callable[[], LineageStore | None],
    trace: Callable[[], Awaitable[Traced]] | None,
) -> AsyncGenerator[LineageEntry, None]:
    """Everything that is and will be known of the tree of `event_id`, each once, as it becomes known.

    Args:
        event_id: any event of the tree; it need not be known yet.
        open_store: opens what is remembered; None while nothing ever was.
        trace: looks for the whole tree; with it the end is reached when everything in the tree has ended.

    Raises:
        StoreError: the lineage store cannot be read.
        DriverUnavailable: the broker went away, or all that can be seen has ended and a channel cannot be read.

    Cancellation: safe.
    """
    store: LineageStore | None = None
    told: set[LineageEntry] = set()
    quiet_s = 0.0
    blind = 0
    ended = False
    try:
        while True:
            store = store or open_store()
            fresh = [entry for entry in find(store, event_id) if entry not in told] if store is not None else []
            told.update(fresh)
            for entry in fresh:
                yield entry
            quiet_s = 0.0 if fresh else quiet_s + POLL_S
            if trace is not None and told and quiet_s >= QUIET_S:
                traced, before = await trace(), ended
                over = traced.tree is not None and finished(traced.tree)
                ended = over and not traced.unread
                if ended and before:
                    return
                blind = blind + 1 if over and traced.unread else 0
                if blind == UNREAD_LOOKS:
                    why = "; ".join(f"{channel}: {reason}" for channel, reason in sorted(traced.unread.items()))
                    raise DriverUnavailable(
                        f"what can be read has ended; more may wait where nothing can be read: {why}"
                    )
                quiet_s = 0.0
            elif fresh:
                ended = False
            await anyio.sleep(POLL_S)
    finally:
        if store is not None:
            store.close()


def finished(tree: Node) -> bool:
    """Whether nothing more is going to happen in a tree by itself."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if not node.branches or any(branch.state not in _ENDS for branch in node.branches):
            return False
        nodes += node.children
    return True
