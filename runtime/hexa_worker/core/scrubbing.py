"""Secrets in texts that anybody may read: logs, errors, dead letters. They are told from their place alone."""

import re

HIDDEN = "***"

_RUN_END = re.compile(r"[\s\"']|\Z")
_NO_PORT = re.compile(r"[^\s/?#@\[\"':]*:(?!\d*(?:[/?#,;)\]}\s\"']|\Z))")
"""What follows ``://`` in a URL whose login has white space or a quote in it: a name, a colon, and no port."""
_BROKEN_LOGIN = 200
"""How far such a login is looked for."""
_NAMES = "password|passwd|passphrase|pwd|secret|token|api_key|apikey|access_key|private_key|credential|credentials"
_NAMED = re.compile(
    rf"=(?:{'|'.join(f'(?<={name}=)' for name in _NAMES.split('|'))})" + r"""(?:'[^']*'|"[^"]*"|[^\s&;,"'<>]+)""",
    re.IGNORECASE,
)
"""A secret by its name, as in a URL's query or a PostgreSQL connection string."""
_SECRET_NAME = re.compile(rf"(?:{_NAMES})\Z", re.IGNORECASE)


def scrub(text: str) -> str:
    """`text` without the secrets that can be told from their place, in time that grows with its length only.

    From ``://`` to the last ``@`` before white space or a quote: a password may hold any character of a URL, so
    ``redis://u:p@ss/w@host`` → ``redis://***@host``. And what follows ``password=``, ``token=`` and the like.
    """
    if "://" in text:
        text = _without_logins(text)
    return _NAMED.sub(f"={HIDDEN}", text) if "=" in text else text


def encodable(text: str) -> str:
    """`text` as UTF-8 can hold it: half of a surrogate pair, as in a file name that is no text, is written out."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


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
