"""Waiting in tests, always with an end.

Nothing here is a claim about time: the limit is what a busy machine may need, and what hangs fails with its place
instead of ending the whole run. A claim about time has its own number, beside what makes it.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import anyio

LIMIT_S = 60.0


def in_time() -> AbstractContextManager[anyio.CancelScope]:
    """The block ends within `LIMIT_S`.

    Raises:
        TimeoutError: it did not.
    """
    return anyio.fail_after(LIMIT_S)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that other tasks, threads or processes do.

    Raises:
        TimeoutError: they did not.
    """
    with in_time():
        while not condition():
            await anyio.sleep(0.01)


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """As `until`, where there is no event loop.

    Raises:
        TimeoutError: it never came true.
    """
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not true after {limit_s:g} s")
        time.sleep(0.02)
