"""Context variables of one delivery end with it: what a handler sets, the next one does not see.

A lane is one task for thousands of deliveries, so their context is not a task's. It goes on in a new copy after
each delivery that changed its context: comparing contexts costs next to nothing as long as nobody set a variable.
"""

from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any

_RENEW = object()


@coroutine
def in_copies(work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Await `work` in a copy of the present context, and in a new copy after each `renew` in it."""
    base = copy_context()
    run = base.copy().run
    step: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            asked = run(step, value)
        except StopIteration:
            return
        step, value = work.send, None
        if asked is _RENEW:
            run = base.copy().run
            continue
        try:
            value = yield asked
        except BaseException as error:  # noqa: BLE001 - cancellations too: they are the work's
            step, value = work.throw, error


@coroutine
def renew() -> Generator[Any, Any, None]:
    """Go on in a new copy of the context that `in_copies` was begun in. Never suspends."""
    yield _RENEW
