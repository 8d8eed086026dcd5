"""One awaitable call out of what a user wrote: plain or async, with or without context, and middlewares."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from hexa_worker.subscriptions.api import Middleware
from hexa_worker.subscriptions.plan import Handler

Call = Callable[[Any, Any], Awaitable[Any]]


def build_call(handler: Handler, middlewares: tuple[Middleware, ...], threads: int) -> Call:
    """The call that a lane awaits: ``await call(payload, context)``.

    An async handler with a context and no middlewares is returned as it is: no frame is added.

    Args:
        handler: the user's function, understood.
        middlewares: outermost first.
        threads: size of the pool of a plain ``def`` handler.
    """
    call = _base_call(handler, threads)
    for middleware in reversed(middlewares):
        call = partial(_through, middleware, call)
    return call


def _through(middleware: Middleware, inner: Call, payload: Any, context: Any) -> Awaitable[Any]:
    return middleware(payload, context, inner)


def _base_call(handler: Handler, threads: int) -> Call:
    function = handler.function
    if handler.style == "async":
        if handler.takes_context:
            return function
        return lambda payload, _context: function(payload)
    limiter = anyio.CapacityLimiter(threads)
    takes_context = handler.takes_context

    def run(arguments: tuple[Any, ...]) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:  # noqa: BLE001 - it is raised again, see _Thrown
            return _Thrown(error)

    async def call(payload: Any, context: Any) -> Any:
        arguments = (payload, context) if takes_context else (payload,)
        # Not abandoned on cancel: a thread cannot be stopped, and the delivery must not run twice at once.
        result = await to_thread.run_sync(run, arguments, limiter=limiter)
        if isinstance(result, _Thrown):
            raise result.error
        return result

    return call


class _Thrown:
    """What a plain function raised. As a future's error, a GeneratorExit would close the lane that waits for it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
