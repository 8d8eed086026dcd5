"""Header pairs as text that every broker can carry: name and value percent-encoded, joined by ``=``."""

from urllib.parse import quote, quote_from_bytes, unquote_to_bytes


def quoted(value: bytes) -> str:
    """Any bytes as ASCII text."""
    return quote_from_bytes(value, safe="")


def unquoted(text: str | bytes) -> bytes:
    """The bytes that `quoted` was given."""
    return unquote_to_bytes(text)


def quoted_pair(name: str, value: bytes) -> str:
    """A header pair as ASCII text."""
    return f"{quote(name, safe='')}={quoted(value)}"


def unquoted_pair(text: str) -> tuple[str, bytes]:
    """The pair that `quoted_pair` was given."""
    name, _, value = text.partition("=")
    return unquote_to_bytes(name).decode("utf-8", errors="replace"), unquote_to_bytes(value)
