"""Log records as lines: key=value for people, JSON for machines. Secrets in URLs are scrubbed on the way out."""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from hexa_worker.core.scrubbing import HIDDEN, names_secret, scrub
from hexa_worker.telemetry.log import FIELDS, IN_HAND

MESSAGE_LIMIT: Final = 16 * 1024
"""Characters of a message, or of a field, that a line has; the rest is cut and counted."""
TRACEBACK_LIMIT: Final = 32 * 1024
LOOKED_AT: Final = 1 << 18
"""Characters that are looked through for secrets at all: what is longer is cut here first."""
_LARGEST: Final = 1 << 63
_DEPTH: Final = 6
_ITEMS: Final = 100
"""How deep, and how many things at each level, a field that is a list or a table is shown."""

_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""What would begin another line, or command a terminal."""
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_RESET = "\x1b[0m"
_STANDARD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", FIELDS))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What a line has beside its text: the fields of the worker's own loggers, and any logger's ``extra=``."""
    said = record.__dict__
    own = said.get(FIELDS)
    if own is None and (told := IN_HAND.get()) is not None:
        own = told()
    fields = dict(own) if isinstance(own, Mapping) else {}
    if len(said) > _USUAL_COUNT:
        fields |= {name: value for name, value in said.items() if name not in _STANDARD}
    return {_clean(name): _shown(name, value) for name, value in fields.items() if value is not None}


_USUAL_COUNT = len(logging.makeLogRecord({}).__dict__)


def _shown(name: str, value: object) -> object:
    """A field's value; one that has no text takes no line with it."""
    try:
        return _plain(name, value)
    except Exception as error:  # noqa: BLE001 - the user's object, and its own text
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


def _plain(name: str, value: object, depth: int = _DEPTH) -> object:
    """A field's value as both styles show it: short, without secrets, of kinds that JSON has."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _LARGEST):
        return value
    if names_secret(name):
        return HIDDEN
    if depth and isinstance(value, Mapping):
        pairs = list(value.items())[:_ITEMS]
        return {_clean(str(key)): _plain(str(key), one, depth - 1) for key, one in pairs}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain("", one, depth - 1) for one in list(value)[:_ITEMS]]
    return _clean(str(value))


def _clean(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """`text` without secrets, cut to `limit` characters."""
    count = len(text)
    if count > LOOKED_AT:
        text = text[:LOOKED_AT].rpartition("://")[0] or text[:LOOKED_AT]  # or half a login might be left of a URL
    text = scrub(text)
    if not text.isascii():
        text = text.encode(errors="backslashreplace").decode()  # what is no character has no place in a line either
    return text if count <= limit and len(text) <= limit else f"{text[:limit]}… (cut, {count:,} characters)"


def _trace(text: str) -> str:
    """A traceback: of one that is long the beginning and the end, where the error is."""
    text = _clean(text, LOOKED_AT)
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half:,} characters left out) …\n{text[-half:]}"


class TextFormatter(logging.Formatter):
    """Lines for people: ``2026-01-31T12:00:00.123Z WARNING [2] handler failed: … action=… attempt=0``.

    Args:
        slot: number of the worker process; None outside of one.
        colours: whether the level is coloured.
    """

    def __init__(self, slot: int | None, *, colours: bool) -> None:
        super().__init__()
        self._place = "" if slot is None else f" [{slot}]"
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback behind it where there is one."""
        level = f"{record.levelname:<7}"
        if self._colours and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_RESET}"
        fields = _fields(record)
        trace = fields.pop("traceback", "")
        parts = [f"{_time_of(record)} {level}{self._place} {_one_line(_clean(record.getMessage()))}"]
        parts += [f"{_one_line(name)}={_value(value)}" for name, value in fields.items()]
        if record.exc_info:
            trace = _trace(self.formatException(record.exc_info))
        return " ".join(parts) + (f"\n{trace}" if trace else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the process's slot and the fields.

    Args:
        slot: number of the worker process; None outside of one.
    """

    def __init__(self, slot: int | None) -> None:
        super().__init__()
        self._slot = slot

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        if self._slot is not None:
            line["slot"] = self._slot
        for name, value in _fields(record).items():
            line[f"extra_{name}" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = _trace(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode(errors="backslashreplace")


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _value(value: object) -> str:
    text = str(value) if not isinstance(value, dict | list) else msgspec.json.encode(value).decode()
    if _NEEDS_QUOTES.search(text):
        text = '"' + _one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
    return text
