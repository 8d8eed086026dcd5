"""Finds what decorators have marked in a user's modules."""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.api import MARKS, Mark, name_of
from hexa_worker.subscriptions.schedules import schedule_of
from hexa_worker.subscriptions.signature import place_of


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
            for mark in _marks_of(value) or _mark_of_schedule(value):
                yield Marked(value, mark)
            if isinstance(value, type) and value.__module__ == module.__name__:
                _refuse_methods(value)


def attribute_of(value: Any, name: str) -> Any:
    """An attribute of any object whatever; proxies and mocks answer oddly, or raise."""
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - as said
        return None


def _marks_of(value: Any) -> tuple[Mark, ...]:
    marks = attribute_of(value, MARKS)
    if not isinstance(marks, tuple):
        return ()
    return tuple(mark for mark in marks if isinstance(mark, Mark))


def _mark_of_schedule(value: Any) -> tuple[Mark, ...]:
    """The subscription of a function that is marked with a schedule alone."""
    schedule = schedule_of(value)
    return () if schedule is None else (Mark(action=schedule.action or name_of(value)),)


def _refuse_methods(cls: type) -> None:
    for member in list(vars(cls).values()):
        function = getattr(member, "__func__", member)  # of a staticmethod or classmethod
        if _marks_of(function) or schedule_of(function) is not None:
            raise ConfigError(
                "a method is not a handler", where=place_of(function), hint="mark a function at the top of the module"
            )
