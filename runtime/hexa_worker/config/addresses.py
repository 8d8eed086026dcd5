"""Addresses with a login in them: what no two parsers read alike is refused, and no error shows it."""

import re
from collections.abc import Sequence

_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(:[0-9]{1,5})?")
_CREDENTIAL = re.compile(r"(?:password|passwd|token|secret)=", re.IGNORECASE)


def is_ambiguous(url: str) -> bool:
    """Whether it cannot be told where the login of a URL ends: it has a character that means something there."""
    rest = url.partition("://")[2] if "://" in url else url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    return authority.count("@") > 1 or "@" in after or re.search(r"[\s\"'<>\\^`{|}\x00-\x1f]", rest) is not None


def require_plain_url(key: str, url: str) -> None:
    """Refuse a URL whose login is not written in percent where it must be.

    Args:
        key: its name in worker.toml.
        url: where a login may stand.

    Raises:
        ValueError: it is ambiguous. The text does not show it.
    """
    if is_ambiguous(url):
        rule = "write what is no letter or digit in its login in percent: @ as %40, / as %2F, : as %3A, a blank as %20"
        raise ValueError(f"{key} must have its login apart ({rule})")


def require_no_login(key: str, url: str, instead: str) -> None:
    """Refuse a URL with a login, where none is read.

    Raises:
        ValueError: it has one. The text does not show it.
    """
    if "@" in url or _CREDENTIAL.search(url):
        raise ValueError(f"the address in {key} has a login, or an @: {instead}")


def require_servers(servers: Sequence[str], instead: str) -> None:
    """Refuse what is no ``host:port``.

    Args:
        servers: the key of that name.
        instead: where a login goes.

    Raises:
        ValueError: one is none. The text shows it only where it can hold no login.
    """
    for place, server in enumerate(servers):
        if "@" in server or "://" in server:
            raise ValueError(f"the address servers[{place}] must be host:port, without a scheme or a login: {instead}")
        if _SERVER.fullmatch(server) is None:
            raise ValueError(f"the address servers[{place}] must be host:port")
