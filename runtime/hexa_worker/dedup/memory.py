"""Claims in the memory of one process: for tests, and for workers of one process that may forget at a restart."""

from collections.abc import Sequence

from hexa_worker.clock import Clock, SystemClock
from hexa_worker.core import claims
from hexa_worker.core.claims import Answer, Ask, ClaimEntry, Ending, GrantedClaim

SWEEP_EVERY = 10_000
"""So many changes until what is over is thrown out."""


class MemoryClaims:
    """See the module. Several owners may share one.

    Args:
        lease_s: how long a claim lasts without being extended.
        clock: tells when leases end.
    """

    def __init__(self, *, lease_s: float, clock: Clock | None = None) -> None:
        self.entries: dict[str, ClaimEntry] = {}
        self._lease_ms = round(lease_s * 1000)
        self._clock = clock or SystemClock()
        self._changes = 0

    async def open(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.open`."""

    async def close(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.close`."""

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """See `hexa_worker.dedup.base.ClaimStore.claim`."""
        now_ms, lease_ms = self._clock.now_ms(), self._lease_ms
        answers: list[Answer] = []
        for ask in asks:
            answer, entry = claims.claim(self.entries.get(ask.key), ask, now_ms=now_ms, lease_ms=lease_ms)
            answers.append(answer)
            self._keep(ask.key, entry)
        self._sweep(len(asks), now_ms)
        return answers

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.end`."""
        now_ms, lease_ms = self._clock.now_ms(), self._lease_ms
        ended: list[bool] = []
        for ending in endings:
            key = ending.held.key
            own, entry = claims.end(self.entries.get(key), ending, now_ms=now_ms, lease_ms=lease_ms)
            ended.append(own)
            self._keep(key, entry)
        return ended

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.extend`."""
        now_ms, lease_ms = self._clock.now_ms(), self._lease_ms
        extended: list[bool] = []
        for one in held:
            own, entry = claims.extend(self.entries.get(one.key), one, now_ms=now_ms, lease_ms=lease_ms)
            extended.append(own)
            self._keep(one.key, entry)
        return extended

    def _keep(self, key: str, entry: ClaimEntry | None) -> None:
        if entry is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = entry

    def _sweep(self, changes: int, now_ms: int) -> None:
        self._changes += changes
        if self._changes > max(SWEEP_EVERY, len(self.entries) // 2):
            self._changes = 0
            self.entries = {key: entry for key, entry in self.entries.items() if entry.until_ms > now_ms}
