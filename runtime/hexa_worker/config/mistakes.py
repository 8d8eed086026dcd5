"""Mistakes are gathered, then reported all at once: one run of ``check`` shows everything there is to mend."""

import difflib
from collections.abc import Iterable, Sequence

from hexa_worker.errors import ConfigError

_TELLING = 4
"""A part of a name this long may stand for the name."""


def raise_all(file: str, mistakes: Sequence[ConfigError]) -> None:
    """Raise what was gathered: a single mistake as it is, several as one error with a line for each.

    Raises:
        ConfigError: there is at least one mistake.
    """
    if not mistakes:
        return
    if len(mistakes) == 1:
        raise mistakes[0]
    lines = "".join(f"\n  {str(mistake).removeprefix(f'{file}: ')}" for mistake in mistakes)
    raise ConfigError(f"{len(mistakes)} mistakes{lines}", where=file)


def suggest(word: str, known: Iterable[str], *, what: str = "known are") -> str:
    """The hint for a word nobody knows: the nearest known one, else all of them."""
    names = list(known)
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    if not close and len(word) >= _TELLING:
        close = [name for name in by_lower if word.lower() in name]
    if close:
        return f"did you mean {by_lower[close[0]]}?"
    return f"{what} {', '.join(names)}" if names else ""


def key_path(keys: Sequence[str | int]) -> str:
    """A key path in TOML's spelling: ``subscriptions."a b".channels[2]``."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        bare = key != "" and all(char.isascii() and (char.isalnum() or char in "-_") for char in key)
        quoted = key if bare else '"' + key.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
        text += f".{quoted}" if text else quoted
    return text
