"""What a lineage store is, wherever it keeps its packs."""

from collections.abc import Iterator
from typing import Protocol

from hexa_worker.errors import HexaWorkerError
from hexa_worker.lineage.entries import LineageEntry


class StoreError(HexaWorkerError):
    """The lineage store cannot be used."""


class NothingRecorded(StoreError):
    """Nobody has ever written to the lineage store."""


class LineageStore(Protocol):
    """Keeps packs of entries. Blocking, and not for two threads at once; every method raises `StoreError`."""

    def append(self, blob: bytes, at_ms: int) -> None:
        """Keep a pack whose last entry happened at `at_ms`. Keeping it twice changes no answer."""
        ...

    def expire(self, before_ms: int) -> int:
        """Forget packs from before `before_ms`, in small steps; how many this one forgot, 0: nothing is left to do."""
        ...

    def mentioning(self, text: str, since_ms: int) -> Iterator[LineageEntry]:
        """Everything in packs that hold `text` and were written since `since_ms`, and perhaps more."""
        ...

    def close(self) -> None:
        """Let go of it. Idempotent, raises nothing."""
        ...
