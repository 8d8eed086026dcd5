"""Where a subscription begins, when its options say that by a time."""

from datetime import datetime

from hexa_worker.errors import ConfigError

_EXAMPLE = "2026-01-31T12:00:00+00:00"


def start_time(text: str, where: str) -> datetime:
    """The moment that an option tells.

    Args:
        text: its value.
        where: its key.

    Raises:
        ConfigError: it is no time, or has no offset.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a time", where=where, hint=_EXAMPLE) from error
    if moment.tzinfo is None:
        raise ConfigError(f"{text!r} has no UTC offset", where=where, hint=_EXAMPLE)
    return moment
