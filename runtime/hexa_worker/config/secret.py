"""Values that must never be shown, and what an error may show instead."""

import re
from typing import Any

from hexa_worker.core.scrubbing import HIDDEN, scrub

LONGEST = 80

_LOGIN = re.compile(r"^[^:@]*:.*@", re.DOTALL)
"""A login in front of a ``host:port``, where no URL was asked for."""
_SECRET_KEY = re.compile(r"pass(word|phrase)?|secret|token|credential|api_?key|private_?key", re.IGNORECASE)


class Secret:
    """A password, token or key out of worker.toml. Printing it shows ``***``; `reveal` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself: for the client library, never for a log, an error or a table."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not copied out of its process")


def looks_secret(key: str) -> bool:
    """Whether a key of this name probably holds a secret, though no field of the model says so."""
    return _SECRET_KEY.search(key) is not None


def shown(value: object) -> str:
    """A value of worker.toml as an error shows it: in TOML's spelling, URLs scrubbed, cut to `LONGEST` characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, str):
        text = scrub(value)
        text = text if "://" in text else _LOGIN.sub(f"{HIDDEN}@", text)
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        return f'"{text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text}"'
    text = _digits(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _digits(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python is willing to print
        return "a huge integer"
