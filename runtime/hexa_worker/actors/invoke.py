"""One awaitable call out of what a user wrote: plain or async, with or without context, and middlewares."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from hexa_worker.handlers.api import Middleware
from hexa_worker.handlers.plan import Handler

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

    async def call(payload: Any, context: Any) -> Any:
        # Not abandoned on cancel: a thread cannot be stopped, and the delivery must not run twice at once.
        if takes_context:
            return await to_thread.run_sync(function, payload, context, limiter=limiter)
        return await to_thread.run_sync(function, payload, limiter=limiter)

    return call
