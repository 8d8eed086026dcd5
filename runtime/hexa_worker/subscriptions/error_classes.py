"""The classes of errors that a subscription treats apart, from its decorator or by name from worker.toml."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hexa_worker.config.model import Subscription
from hexa_worker.config.secret import shown
from hexa_worker.core.classification import ErrorAnswer, Rules
from hexa_worker.core.outcome import Verdict
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.api import Mark
from hexa_worker.subscriptions.modules import named_class

KEYS = tuple(answer.value for answer in ErrorAnswer)
"""The keys and arguments that name classes."""


def names_of(mark: Mark, where: str) -> dict[str, tuple[str, ...]]:
    """What a decorator names, as worker.toml would write it.

    Args:
        mark: what the decorator said.
        where: its function.

    Raises:
        ConfigError: something in it is no class of errors.
    """
    stated = {key: getattr(mark, key) for key in KEYS if getattr(mark, key) is not None}
    for key, classes in stated.items():
        if not isinstance(classes, tuple):
            hint = f"write {key}=(ValueError,)"
            raise ConfigError(f"must be a tuple of classes, not {_shown(classes)}", where=f"{where}: {key}", hint=hint)
        for cls in classes:
            _require_error(cls, f"{where}: {key}")
    return {key: tuple(map(_name_of, classes)) for key, classes in stated.items()}


def rules_of(mark: Mark, from_file: Subscription, folder: Path, where: Callable[[str], str]) -> Rules:
    """What the classes of errors mean to a subscription: of each key what worker.toml says, or else the decorator.

    Args:
        mark: what the decorator said, looked at by `names_of`.
        from_file: its table in worker.toml.
        folder: where modules of the project are.
        where: the place of a key.

    Raises:
        ConfigError: a name stands for no class of errors, or one class has two meanings.
    """
    rules: dict[type[BaseException], ErrorAnswer] = {}
    for answer in ErrorAnswer:
        names: Sequence[str] | None = getattr(from_file, answer.value)
        place = where(answer.value)
        classes: Sequence[Any] = getattr(mark, answer.value) or ()
        if names is not None:
            classes = [_require_error(named_class(name, folder, place), place) for name in names]
        for cls in classes:
            if rules.setdefault(cls, answer) is not answer:
                raise ConfigError(
                    f"{_name_of(cls)} is in {rules[cls].value} as well",
                    where=place,
                    hint="one class means one thing: leave it out of one of them",
                )
    return rules


def _require_error(cls: Any, where: str) -> Any:
    if not (inspect.isclass(cls) and issubclass(cls, BaseException)):
        raise ConfigError(f"{_shown(cls)} is no class of errors", where=where, hint="name what a handler raises")
    if issubclass(cls, Verdict):
        raise ConfigError(
            f"{cls.__name__} is a verdict: it says itself what is done", where=where, hint="name what a handler raises"
        )
    return cls


def _name_of(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _shown(value: Any) -> str:
    return value.__name__ if inspect.isclass(value) else shown(value)
