"""The event loop that the runtime lives on, as the driver's threads see it: asyncio, uvloop and trio alike."""

from collections.abc import Callable
from typing import Any

import anyio
from anyio.lowlevel import current_token


class Home:
    """The loop on which it is made."""

    def __init__(self) -> None:
        native: Any = current_token().native_token
        self._post: Callable[..., object] = getattr(native, "run_sync_soon", None) or native.call_soon_threadsafe

    def tell(self, function: Callable[..., object], *args: Any) -> bool:
        """Have ``function(*args)`` called on the loop, soon; False once the loop is gone. From any thread."""
        try:
            self._post(function, *args)
        except RuntimeError:
            return False
        return True


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
