"""Log records as lines: key=value for people, JSON for machines. Secrets in URLs are scrubbed on the way out."""

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec

from hexa_worker.telemetry.log import FIELDS

_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')
_USER_INFO = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]+@")
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_RESET = "\x1b[0m"
_CHATTY = ("aiokafka", "nats", "pulsar", "asyncio", "redis")


def scrub(text: str) -> str:
    """`text` without the user-info part of any URL in it."""
    return _USER_INFO.sub(r"\1***@", text) if "://" in text else text


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, FIELDS, None)
    return fields if isinstance(fields, dict) else {}


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
        parts = [f"{_time_of(record)} {level}{self._place} {_one_line(record.getMessage())}"]
        parts += [f"{name}={_value(value)}" for name, value in _fields(record).items() if value is not None]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return scrub(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the process's slot and the fields.

    Args:
        slot: number of the worker process; None outside of one.
    """

    def __init__(self, slot: int | None) -> None:
        super().__init__()
        self._slot = slot

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrub(record.getMessage()),
        }
        if self._slot is not None:
            line["slot"] = self._slot
        line |= {
            name: scrub(value) if isinstance(value, str) else value
            for name, value in _fields(record).items()
            if value is not None
        }
        if record.exc_info:
            line["traceback"] = scrub(self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode(errors="backslashreplace")


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _value(value: object) -> str:
    text = str(value)
    if _NEEDS_QUOTES.search(text):
        text = '"' + _one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
    return text


def configure(
    *,
    level: str = "info",
    style: Literal["auto", "text", "json"] = "auto",
    slot: int | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send every log record of this process to `stream` (stderr), in the style asked for.

    Args:
        level: the lowest level that is written; broker clients speak from WARNING on, unless it is debug.
        style: ``auto`` is text on a terminal and JSON elsewhere.
        slot: shown on every line.
        stream: instead of stderr.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    formatter: logging.Formatter
    if style == "json" or (style == "auto" and not terminal):
        formatter = JsonFormatter(slot)
    else:
        formatter = TextFormatter(slot, colours=terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if level != "debug":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
