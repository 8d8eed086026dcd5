"""Where the log lines of a process go: to stderr, in the style that worker.toml asks for."""

import atexit
import logging
import os
from typing import Final, Literal

from hexa_worker.telemetry.format import JsonFormatter, TextFormatter
from hexa_worker.telemetry.sink import LineHandler

_CHATTY: Final = ("aiokafka", "nats", "pulsar", "asyncio", "redis")
_STDERR: Final = 2


def configure(
    *,
    level: str = "info",
    style: Literal["auto", "text", "json"] = "auto",
    slot: int | None = None,
) -> None:
    """Send every log record of this process to stderr, in the style asked for.

    Args:
        level: the lowest level that is written; broker clients speak from WARNING on, unless it is debug.
        style: ``auto`` is text on a terminal and JSON elsewhere.
        slot: shown on every line.
    """
    terminal = os.isatty(_STDERR)
    root = logging.getLogger()
    handler = next((one for one in root.handlers if isinstance(one, LineHandler)), None)
    if handler is None:
        handler = LineHandler(_STDERR)
        atexit.register(handler.flush)
    if style == "json" or (style == "auto" and not terminal):
        handler.setFormatter(JsonFormatter(slot))
    else:
        handler.setFormatter(TextFormatter(slot, colours=terminal))
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if level != "debug":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
