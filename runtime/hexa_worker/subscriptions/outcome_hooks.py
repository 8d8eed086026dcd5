"""Finds the outcome hooks of a user's modules."""

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.collect import attribute_of
from hexa_worker.subscriptions.decisions import OUTCOME_MARK, OutcomeHook
from hexa_worker.subscriptions.signature import place_of


def outcome_hooks_in(modules: Sequence[ModuleType]) -> tuple[OutcomeHook, ...]:
    """The functions that are marked in `modules`, each once, in the order they are written.

    Raises:
        ConfigError: one cannot be called with a decision, or would have to be awaited.
    """
    values = (value for module in modules for value in list(vars(module).values()))
    found: dict[int, Any] = {id(value): value for value in values if attribute_of(value, OUTCOME_MARK) is True}
    for function in found.values():
        if inspect.iscoroutinefunction(function):
            raise ConfigError("an outcome hook is a plain function", where=place_of(function), hint="leave async out")
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            hint = "write: def report(decision: Decision) -> None"
            text = f"cannot be called as an outcome hook: {error}"
            raise ConfigError(text, where=place_of(function), hint=hint) from None
    return tuple(found.values())
