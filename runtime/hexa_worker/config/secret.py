"""Values that must never be shown, and what an error may show instead."""

import re
from typing import Any

HIDDEN = "***"
LONGEST = 80

_RUN_END = re.compile(r"[\s\"']|\Z")
_NO_PORT = re.compile(r"[^\s/?#@\[\"':]*:(?!\d*(?:[/?#,;)\]}\s\"']|\Z))")
"""What follows ``://`` in a URL whose login has white space or a quote in it: a name, a colon, and no port."""
_BROKEN_LOGIN = 200
"""How far such a login is looked for."""
_LOGIN = re.compile(r"^[^:@]*:.*@", re.DOTALL)
"""A login in front of a ``host:port``, where no URL was asked for."""
_NAMES = "password|passwd|passphrase|pwd|secret|token|api_key|apikey|access_key|private_key|credential|credentials"
_NAMED = re.compile(
    rf"=(?:{'|'.join(f'(?<={name}=)' for name in _NAMES.split('|'))})" + r"""(?:'[^']*'|"[^"]*"|[^\s&;,"'<>]+)""",
    re.IGNORECASE,
)
"""A secret by its name, as in a URL's query or a PostgreSQL connection string."""
_SECRET_NAME = re.compile(rf"(?:{_NAMES})\Z", re.IGNORECASE)
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


def scrub(text: str) -> str:
    """`text` without the secrets that can be told from their place, in time that grows with its length only.

    From ``://`` to the last ``@`` before white space or a quote: a password may hold any character of a URL, so
    ``redis://u:p@ss/w@host`` → ``redis://***@host``. And what follows ``password=``, ``token=`` and the like.
    """
    if "://" in text:
        text = _without_logins(text)
    return _NAMED.sub(f"={HIDDEN}", text) if "=" in text else text


def _without_logins(text: str) -> str:
    parts: list[str] = []
    done, at = 0, text.find("://")
    while at >= 0:
        start = at + 3
        end = _RUN_END.search(text, start).start()  # type: ignore[union-attr]  # the text's end is one
        host = text.rfind("@", start, end)
        if host < 0 and _NO_PORT.match(text, start):
            host = text.find("@", end, end + _BROKEN_LOGIN)
        if host >= 0:
            parts += (text[done:start], HIDDEN)
            done = host
        at = text.find("://", max(end, host))
    return "".join((*parts, text[done:]))


def names_secret(name: str) -> bool:
    """Whether what stands behind ``NAME=`` is hidden by `scrub`."""
    return _SECRET_NAME.search(name) is not None


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
