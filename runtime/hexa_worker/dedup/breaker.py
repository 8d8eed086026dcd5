"""A circuit breaker around a store: while it is away nobody waits for it, but one call now and then that looks."""

import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from hexa_worker.backoff import Backoff
from hexa_worker.clock import Clock
from hexa_worker.core.claims import Answer, Ask, Ending, GrantedClaim
from hexa_worker.dedup.base import ClaimStore
from hexa_worker.errors import DriverError, DriverUnavailable

FIRST_S = 0.2
LONGEST_S = 2.0
T = TypeVar("T")
log = logging.getLogger("hexa_worker.dedup")


class Breaker:
    """A store that fails at once while it is known to be away. Refusals (no rights) count as being away, too.

    Args:
        store: the store itself.
        clock: measures how long nobody asks.

    Attributes:
        away: whether it is known to be away.
    """

    def __init__(self, store: ClaimStore, clock: Clock) -> None:
        self.away = False
        self._store = store
        self._clock = clock
        self._backoff = Backoff(FIRST_S, LONGEST_S)
        self._pause_s = 0.0
        self._ask_at = 0.0

    async def open(self, *, proven: bool = False) -> None:
        """Open the store; one that is away is looked for later.

        Args:
            proven: another process has used it: one that refuses now is looked for later, too.

        Raises:
            DriverRejected: it will never work.
        """
        with suppress(DriverError if proven else DriverUnavailable):  # said already
            await self._call(self._store.open)

    async def close(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.close`."""
        await self._store.close()

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """See `hexa_worker.dedup.base.ClaimStore.claim`."""
        return await self._call(self._store.claim, asks)

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.end`."""
        return await self._call(self._store.end, endings)

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.extend`."""
        return await self._call(self._store.extend, held)

    async def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        if self.away:
            now = self._clock.monotonic()
            if now < self._ask_at:
                raise DriverUnavailable("the claim store is away")
            self._ask_at = now + self._pause_s  # this call looks, the others do not wait for it
        try:
            result = await function(*args)
        except DriverError as error:
            self._failed(error)
            raise
        if self.away:
            log.info("the claim store is back")
            self.away, self._backoff = False, Backoff(FIRST_S, LONGEST_S)
        return result

    def _failed(self, error: DriverError) -> None:
        if not self.away:
            log.warning("the claim store is away: %s", error)
            self.away = True
        self._pause_s = self._backoff.next_s()
        self._ask_at = self._clock.monotonic() + self._pause_s
