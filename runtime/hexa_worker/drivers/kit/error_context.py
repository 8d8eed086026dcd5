"""Errors that say which broker they are about, and why it cannot be reached."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hexa_worker.core.scrubbing import scrub
from hexa_worker.errors import DriverError


@contextmanager
def error_context(driver: str, addresses: Sequence[str]) -> Iterator[None]:
    """Name the driver and its broker's addresses, without secrets, in every `DriverError` that names none.

    Args:
        driver: its name, which its errors may begin with.
        addresses: as configured.
    """
    try:
        yield
    except DriverError as error:
        text, where = str(error), [scrub(one) for one in addresses]
        if any(one.rpartition("/")[2] in text for one in where):
            raise
        raise type(error)(f"{driver} at {', '.join(where)}: {text.removeprefix(f'{driver}: ')}") from error


def reason_of(error: OSError) -> str:
    """The system's reason, also where asyncio wrote a sentence of its own in its place."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error) or type(error).__name__
