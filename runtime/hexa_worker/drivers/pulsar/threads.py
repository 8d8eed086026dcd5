"""Threads for what blocks."""

from collections.abc import Callable
from typing import Any

import anyio


class Threads:
    """Blocking calls of the client library, in threads of their own: nobody else's limit, nobody else's delay.

    Args:
        count: how many at once.
    """

    def __init__(self, count: int = 16) -> None:
        self._limiter = anyio.CapacityLimiter(count)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """What ``function(*args)`` returns.

        Cancellation: waits for the function, which has a deadline of its own.
        """
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)
