"""Finds what decorators have marked in a user's modules."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import Any, NamedTuple

from hexa_worker.errors import ConfigError
from hexa_worker.handlers.api import LIFESPAN_MARK, MARKS, Mark
from hexa_worker.handlers.signature import place_of

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


class Marked(NamedTuple):
    """A function and one of the subscriptions it was marked for."""

    function: Callable[..., Any]
    mark: Mark


def marked_in(modules: Sequence[ModuleType]) -> Iterator[Marked]:
    """Every subscription in the namespaces of `modules`, each function once, in the order they are written.

    Raises:
        ConfigError: a method is marked: no one could call it.
    """
    seen: set[int] = set()
    for module in modules:
        for value in list(vars(module).values()):
            if id(value) in seen:
                continue
            seen.add(id(value))
            for mark in _marks_of(value):
                yield Marked(value, mark)
            if isinstance(value, type) and value.__module__ == module.__name__:
                _refuse_methods(value)


def lifespan_in(modules: Sequence[ModuleType]) -> Lifespan | None:
    """The lifespan in `modules`, ready to be entered.

    Raises:
        ConfigError: there are several, or it is not an async generator function without parameters.
    """
    found: list[Any] = []
    for module in modules:
        for value in list(vars(module).values()):
            if _attribute(value, LIFESPAN_MARK) is True and not any(value is one for one in found):
                found.append(value)
    if not found:
        return None
    if len(found) > 1:
        raise ConfigError(
            f"a second lifespan; the first is {place_of(found[0])}",
            where=place_of(found[1]),
            hint="a worker has one lifespan: let one call the other",
        )
    return _entered(found[0])


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


def _attribute(value: Any, name: str) -> Any:
    """An attribute of any object whatever; proxies and mocks answer oddly, or raise."""
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - as said
        return None


def _marks_of(value: Any) -> tuple[Mark, ...]:
    marks = _attribute(value, MARKS)
    if not isinstance(marks, tuple):
        return ()
    return tuple(mark for mark in marks if isinstance(mark, Mark))


def _refuse_methods(cls: type) -> None:
    for member in list(vars(cls).values()):
        function = getattr(member, "__func__", member)  # of a staticmethod or classmethod
        if _marks_of(function):
            raise ConfigError(
                "a method is not a handler", where=place_of(function), hint="mark a function at the top of the module"
            )
