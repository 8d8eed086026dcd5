"""What one handler call needs and nobody else shares: a session, a transaction. `scope` makes a middleware of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from hexa_worker.core.outcome import Ack, Drop
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.context import AnyContext

T = TypeVar("T")
_DONE = (Ack, Drop)


class _Next(Protocol):
    def __call__(self, event: Any, ctx: Any, /) -> Awaitable[Any]: ...


class Scope(Generic[T]):
    """What `scope` makes: a middleware, and the way to what its function yielded."""

    def __init__(self, make: Callable[[Any], AsyncIterator[T]]) -> None:
        self._enter = asynccontextmanager(make)
        self.__wrapped__ = make

    def of(self, ctx: AnyContext[Any]) -> T:
        """What was yielded for this call.

        Raises:
            ConfigError: this scope is not among the middlewares of the handler.
        """
        try:
            return ctx.scopes[self]  # type: ignore[no-any-return]  # its own value
        except KeyError:
            name = getattr(self.__wrapped__, "__name__", "the scope")
            hint = f"@subscribe(…, middlewares=[{name}]), or name it in worker.toml"
            raise ConfigError(f"{ctx.action} runs outside of {name}", hint=hint) from None

    async def __call__(self, event: Any, ctx: AnyContext[Any], call_next: _Next, /) -> Any:
        """Run the handler inside of it."""
        result: Any = None
        async with self._enter(ctx) as value:
            ctx.scopes[self] = value
            try:
                result = await call_next(event, ctx)
            except _DONE as verdict:  # raised and returned mean the same
                result = verdict
            finally:
                del ctx.scopes[self]
            if isinstance(result, BaseException) and not isinstance(result, _DONE):
                raise result
        return result


def scope(function: Callable[[Any], AsyncIterator[T]], /) -> Scope[T]:
    """Make a middleware of an async generator function: ``async def session(ctx: Context[Pool])`` with one ``yield``.

    It is entered for each call of a handler (a batch is one call) and left when that ends: after a success, also with
    `Ack` and `Drop`, as after a block that ends; otherwise the error, or the verdict (`Retry`, `Snooze`,
    `DeadLetter`), is raised at its ``yield``. Of a batch the verdicts of single items are not: it has succeeded.
    Handlers get what it yielded by `Scope.of`: ``session.of(ctx)``.
    """
    return Scope(function)
