"""Questions to a lineage store."""

from hexa_worker.core.child_ids import not_before_ms
from hexa_worker.lineage.base import LineageStore
from hexa_worker.lineage.entries import LineageEntry

CLOCK_SKEW_MS = 60_000
"""Clocks of the machines that emit and handle may differ by this much."""


def find(store: LineageStore, event_id: str) -> list[LineageEntry]:
    """Everything that is known of the tree that `event_id` belongs to, in order of time.

    Raises:
        StoreError: the store cannot be read.
    """
    own = [entry for entry in _mentioning(store, event_id) if event_id in {entry.event_id, entry.root_id}]
    roots = {entry.root_id for entry in own} - {event_id}
    found = dict.fromkeys(own)
    for root_id in sorted(roots):
        found.update(dict.fromkeys(entry for entry in _mentioning(store, root_id) if entry.root_id == root_id))
    return sorted(found, key=lambda entry: (entry.at_ms, entry.attempt))


def _mentioning(store: LineageStore, event_id: str) -> list[LineageEntry]:
    return list(store.mentioning(event_id, written_since_ms(event_id)))


def written_since_ms(event_id: str) -> int:
    """Before this time nothing was written of an event and its children, as far as its id tells; 0: at any time."""
    return max(not_before_ms(event_id) - CLOCK_SKEW_MS, 0)


def handled_redrives(store: LineageStore, source: str, since_ms: int) -> frozenset[tuple[str, str]]:
    """The dead letters of `source` whose redriven records were acknowledged: their ids, and their events' ids.

    Args:
        store: what is remembered.
        source: the stretch of a broker's storage that the letters were in.
        since_ms: when the oldest of them died.

    Raises:
        StoreError: the store cannot be read.
    """
    return frozenset(
        (entry.redriven_from, entry.event_id)
        for entry in store.mentioning(f"{source}-", since_ms - CLOCK_SKEW_MS)
        if entry.redriven_from is not None
    )
