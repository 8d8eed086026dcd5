"""Memory drivers with one weakness each."""

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Postponed, Settlement
from hexa_worker.drivers.base import Capabilities, Revoked, SubscriptionSpec, Unsettled, nothing_revoked
from hexa_worker.drivers.memory import CAPABILITIES, MemoryDriver, MemorySource, MemoryStore
from hexa_worker.errors import LeaseLost


class ForgetfulDriver(MemoryDriver):
    """A driver that cannot keep attempts, and says so."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(CAPABILITIES, keeps_attempts=False)

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        settle = source.settle

        async def checked(settlements: Any) -> Any:
            assert not any(isinstance(one, Postponed) for one in settlements), "not the business of this driver"
            return await settle(settlements)

        source.settle = checked  # type: ignore[method-assign]
        return source


class SlowToStop(MemoryDriver):
    """A driver whose last call of receive ends late."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        receive = source.receive

        async def late(max_count: int, max_bytes: int) -> list[Delivery]:
            batch = await receive(max_count, max_bytes)
            if not batch:
                await anyio.sleep(2)
            return batch

        source.receive = late  # type: ignore[method-assign]
        return source


class RevokingDriver(MemoryDriver):
    """A driver that takes a source away for a while."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.revoked: Revoked = nothing_revoked
        self._revoking = False

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        self.revoked = revoked
        source = await super().subscribe(spec)
        take = source._take
        source._take = lambda *room: [] if self._revoking else take(*room)  # type: ignore[method-assign]
        return source

    def keep_away(self) -> None:
        """Hand nothing out any more."""
        self._revoking = True

    async def revoke(self, source: str) -> None:
        self._revoking = True
        await self.revoked(frozenset({source}))
        self._revoking = False
        self.store.wake()


class LosingDriver(MemoryDriver):
    """A driver that loses everything when the first delivery is postponed."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        settle = source.settle
        lost: list[Settlement] = []

        async def losing(settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
            postponed = [one for one in settlements if isinstance(one, Postponed)]
            if lost or not postponed:
                return await settle(settlements)
            lost.extend(postponed)
            self.lose_leases()
            return [Unsettled(one, LeaseLost("somebody else has it")) for one in settlements]

        source.settle = losing  # type: ignore[method-assign]
        return source


class AmnesiacDriver(MemoryDriver):
    """A driver whose notes of attempts are lost: all that it hands out is a first attempt again."""

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> MemorySource:
        source = await super().subscribe(spec, revoked)
        receive = source.receive

        async def forgetting(max_count: int, max_bytes: int) -> list[Delivery]:
            return [msgspec.structs.replace(one, attempt=0, due_ms=0) for one in await receive(max_count, max_bytes)]

        source.receive = forgetting  # type: ignore[method-assign]
        return source
