"""The names of the channels that belong to one subscription (hexa-event's scheme)."""

from typing import NamedTuple

LATER = "hexa-later."
"""Stands before a channel's name in the names of those in which its events for later wait."""
_DEAD_LETTERS = ".dlq"
_DIGITS = 9


class Rung(NamedTuple):
    """What a channel is by its name.

    Attributes:
        base: what its subscription's channels are named after.
        number: of the retry channel; 0: it keeps the dead letters.
    """

    base: str
    number: int


def parse(channel: str) -> Rung | None:
    """What `channel` is by its name; None: neither a retry channel nor one for dead letters."""
    if channel.endswith(_DEAD_LETTERS):
        return Rung(channel.removesuffix(_DEAD_LETTERS), 0)
    before, _, number = channel.rpartition(".")
    base = before.removesuffix(".retry")
    if base == before or not (number.isascii() and number.isdigit() and len(number) <= _DIGITS):
        return None
    return Rung(base, int(number)) if int(number) else None


def base_of(channel: str) -> str:
    """What a retry channel or one for dead letters is named after; any other is its own."""
    rung = parse(channel)
    return channel if rung is None else rung.base


def retry_prefix(base: str) -> str:
    """What the names of all retry channels begin with; their numbers follow."""
    return f"{base}.retry."


def retry_channel(base: str, number: int) -> str:
    """The channel of retry `number` (1-based)."""
    return f"{retry_prefix(base)}{number}"


def retry_channels(base: str, count: int) -> tuple[str, ...]:
    """All retry channels, in order of their number."""
    return tuple(retry_channel(base, number) for number in range(1, count + 1))


def dead_letter_channel(base: str) -> str:
    """The channel that keeps the dead letters."""
    return base + _DEAD_LETTERS


def is_dead_letter_channel(channel: str) -> bool:
    """Whether `channel` keeps dead letters."""
    return channel.endswith(_DEAD_LETTERS)


def is_retry_channel(base: str, channel: str) -> bool:
    """Whether `channel` is a retry channel of `base`."""
    prefix = retry_prefix(base)
    return channel.startswith(prefix) and channel[len(prefix) :].isdecimal()
