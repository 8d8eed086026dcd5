"""What a handler returned, read as an outcome. It is an object of the user's: reading it may raise anything."""

from collections.abc import Awaitable, Coroutine
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from hexa_worker.core.outcome import Ack, DeadLetter, Drop, Outcome, Raised, Retry, Snooze

VERDICTS = (Ack, Drop, DeadLetter, Retry, Snooze)


def read_result(result: Any) -> Outcome | None:
    """The outcome that one call, or one item of a batch, returned; None for anything that just means done."""
    try:
        return _read(result)
    except BaseException as error:  # noqa: BLE001 - see the module
        return Raised(error)


def _read(result: Any) -> Outcome | None:
    if isinstance(result, VERDICTS):
        return result
    if isinstance(result, BaseException):
        return Raised(result)
    if isinstance(result, type) and issubclass(result, BaseException):  # the class itself, as it may be raised
        return _read(result())
    name = type(result).__name__
    if isinstance(result, Awaitable):  # a wrapper or a middleware without its await, or work begun and not ended
        if isinstance(result, Coroutine):
            result.close()
        return Raised(TypeError(f"a {name} was returned and never awaited (write async def and await)"))
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        return Raised(TypeError(f"a {name} was returned and never ran (return or emit instead of yield)"))
    return None


def per_item(result: Any, count: int) -> list[Any]:
    """A batch handler's answer as one result per item.

    Raises:
        ValueError, TypeError: it is none.
    """
    if result is None or isinstance(result, VERDICTS):
        return [result] * count
    if isinstance(result, Awaitable) and isinstance(read := read_result(result), Raised):
        raise read.error
    results = list(result)
    if len(results) != count:
        raise ValueError(f"the batch handler returned {len(results)} results for {count} items")
    return results
