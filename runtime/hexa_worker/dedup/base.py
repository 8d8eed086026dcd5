"""The seam between the runtime and whatever keeps claims, at batch level.

Rules every store keeps: one round trip for a batch; what `hexa_worker.core.claims` says, for every claim in order;
every call is bounded by a deadline, also when the store's server is dead or frozen.
"""

from collections.abc import Sequence
from typing import Protocol

from hexa_worker.core.claims import Answer, Ask, Ending, GrantedClaim


class ClaimStore(Protocol):
    """Keeps claims for the processes that share it."""

    async def open(self) -> None:
        """Get ready.

        Raises:
            DriverUnavailable: not now; the other calls may work later.
            DriverRejected: never (no rights, no such file).
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files. Idempotent; never raises for a dead server."""
        ...

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """Answer each, in order: of two for one effect the first one gets it.

        Raises:
            DriverUnavailable, DriverRejected: nothing is known of any of them; some may have been granted.
        """
        ...

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        """End claims; False for each that somebody else has taken over.

        Raises:
            DriverUnavailable, DriverRejected: nothing is known of any; ending again is harmless.
        """
        ...

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        """Begin the leases of claims anew; False for each that somebody else has taken over.

        Raises:
            DriverUnavailable, DriverRejected: nothing is known of any.
        """
        ...
