"""What several lifespans yielded, found by its type."""

from typing import Any

from typing_extensions import TypeVar

from hexa_worker.errors import ConfigError

R = TypeVar("R")


class Resources:
    """What several lifespans yielded: ``ctx.resource(Pool)``; in a test ``Harness(…, state=Resources(pool, api))``.

    Args:
        values: in the order of their lifespans.
    """

    def __init__(self, *values: Any) -> None:
        self.values = values


def resource_in(state: Any, kind: type[R]) -> R:
    """The first value of `kind` that lifespans have yielded.

    Raises:
        ConfigError: there is none.
    """
    values = state.values if isinstance(state, Resources) else (state,)
    for value in values:
        if isinstance(value, kind):
            return value
    known = ", ".join(type(value).__name__ for value in values)
    raise ConfigError(f"no lifespan yielded a {kind.__name__}", hint=f"they yielded: {known}")
