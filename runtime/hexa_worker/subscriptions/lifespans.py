"""The worker's lifespan: found, entered, and its errors told as what they are."""

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from hexa_worker.errors import ConfigError, HexaWorkerError, LifespanFailed
from hexa_worker.subscriptions.api import LIFESPAN_MARK
from hexa_worker.subscriptions.collect import attribute_of
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.subscriptions.resources import Resources
from hexa_worker.subscriptions.signature import place_of

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]
_MISTAKES = (AttributeError, ImportError, NameError, SyntaxError, TypeError)
"""What a lifespan raises again in each process, whatever time passes."""


def lifespan_in(modules: Sequence[ModuleType]) -> Lifespan | None:
    """The lifespan in `modules`, ready to be entered; several are entered in the order they are written.

    Raises:
        ConfigError: one is not an async generator function without parameters.
    """
    found: list[Any] = []
    for module in modules:
        for value in list(vars(module).values()):
            if attribute_of(value, LIFESPAN_MARK) is True and not any(value is one for one in found):
                found.append(value)
    if not found:
        return None
    lifespans = [_entered(one) for one in found]
    return lifespans[0] if len(lifespans) == 1 else _Together(lifespans)


class _Together:
    """Several lifespans as one: the last is left first, and handlers get `Resources`."""

    def __init__(self, parts: Sequence[Lifespan]) -> None:
        self.parts = parts

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Resources]:
        async with AsyncExitStack() as stack:
            yield Resources(*[await stack.enter_async_context(part()) for part in self.parts])


def _entered(function: Callable[[], Any]) -> Lifespan:
    where = place_of(function)
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise ConfigError("a lifespan takes no parameters", where=where) from None
    if inspect.isasyncgenfunction(function):
        make: Callable[[], AsyncIterator[Any]] = function
        return asynccontextmanager(make)
    if inspect.isasyncgenfunction(inspect.unwrap(function)):
        return function  # it is an asynccontextmanager already
    raise ConfigError("a lifespan is an async generator function", where=where, hint="async def with one yield")


def require_state(plans: Sequence[Plan], folder: Path) -> None:
    """Check that no lifespan was forgotten, where there is none.

    Args:
        plans: what will run without a lifespan.
        folder: the project's: modules in it that some handler has imported are looked at.

    Raises:
        ConfigError: a handler asks for its state, or a module that worker.toml does not name holds one.
    """
    hint = "name its module under worker.handlers, or import the function into one that is named"
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or "site-packages" in file or not Path(file).is_relative_to(folder):
            continue
        for value in list(vars(module).values()):
            if attribute_of(value, LIFESPAN_MARK) is True:
                raise ConfigError(
                    f'a lifespan that nobody enters, in module "{name}"', where=place_of(value), hint=hint
                )
    for plan in plans:
        if plan.handler.state_type:
            raise ConfigError(
                f"asks for Context[{plan.handler.state_type}], but there is no lifespan",
                where=plan.handler.where,
                hint=f"{hint}; or mark one with @lifespan",
            )


def telling(lifespan: Lifespan) -> Lifespan:
    """A lifespan whose errors say where they come from, and which of them no restart mends."""
    if isinstance(lifespan, _Together):
        return _Together([telling(part) for part in lifespan.parts])
    where = place_of(lifespan)

    @asynccontextmanager
    async def entered() -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            try:
                state = await stack.enter_async_context(lifespan())
            except HexaWorkerError:
                raise
            except Exception as error:
                raise _told(error, where) from error
            yield state

    return entered


def _told(error: Exception, where: str) -> HexaWorkerError:
    if isinstance(error, RuntimeError) and str(error) == "generator didn't yield":
        return ConfigError("the lifespan ended without a yield", where=where, hint="async def with one yield")
    text = f"the lifespan raised {type(error).__qualname__}: {error}"
    if isinstance(error, _MISTAKES):
        return ConfigError(f"{text}{_raised_at(error)}", where=where)
    return LifespanFailed(f"{where}: {text} (tried again in a new process; a ConfigError ends the worker)")


def _raised_at(error: Exception) -> str:
    """The line that raised it: no traceback is shown of what ends the worker."""
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    written = [f"{Path(name).name}:{line}" for name, line in lines if not name.startswith("<")]
    return f", at {written[-1]}" if written else ""
