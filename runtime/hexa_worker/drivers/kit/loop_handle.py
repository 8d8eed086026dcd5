"""The event loop that the runtime lives on, as a driver's threads see it: asyncio, uvloop and trio alike."""

from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token


class LoopHandle:
    """The loop on which it is made."""

    def __init__(self) -> None:
        native: Any = current_token().native_token
        self._post: Callable[..., object] = getattr(native, "run_sync_soon", None) or native.call_soon_threadsafe

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Have ``function(*args)`` called on the loop, soon; False once the loop is gone. From any thread."""
        try:
            self._post(function, *args)
        except RuntimeError:
            return False
        return True
