"""Where the log lines of a process go: to stderr, in the style that worker.toml asks for.

An application may configure logging for itself, in a handler module or later: then its lines go where it says, and the
worker's own stay. Only a configuration that names the logger ``hexa_worker`` moves those.
"""

import atexit
import logging
import os
from typing import Any, Final, Literal

from hexa_worker.telemetry.format import JsonFormatter, TextFormatter
from hexa_worker.telemetry.sink import LineHandler

_CHATTY: Final = ("aiokafka", "nats", "pulsar", "asyncio", "redis")
_STDERR: Final = 2
_OWN: Final = logging.getLogger("hexa_worker")
_WHERE: Final = frozenset({"format", "handlers", "filename", "stream", "force"})
"""What `logging.basicConfig` may say about more than a level."""
_basic_config = logging.basicConfig


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
    handler = _handler()
    if handler is None:
        handler = LineHandler(_STDERR)
        atexit.register(handler.flush)
    if style == "json" or (style == "auto" and not terminal):
        handler.setFormatter(JsonFormatter(slot))
    else:
        handler.setFormatter(TextFormatter(slot, colours=terminal))
    for logger in (logging.getLogger(), _OWN):
        logger.handlers[:] = [handler]
    _OWN.propagate = False
    set_level(level)
    logging.captureWarnings(capture=True)
    logging.basicConfig = _honoured


def set_level(level: str) -> None:
    """Write records from this level on; broker clients speak from WARNING on, unless it is debug."""
    for logger in (logging.getLogger(), _OWN):
        logger.setLevel(level.upper())
    for name in _CHATTY:
        quiet = logging.NOTSET if level == "debug" else max(logging.WARNING, _OWN.level)
        logging.getLogger(name).setLevel(quiet)


def keep_speaking() -> None:
    """Undo what an application's `logging.config` did to the worker's own loggers by the way; call it now and then.

    It disables every logger that it does not name, unless it is told not to; and one that names ``hexa_worker``
    without handlers means those of the root.
    """
    if not _OWN.handlers:
        _OWN.propagate = True
    _OWN.disabled = False
    for name, one in list(_OWN.manager.loggerDict.items()):
        if name.startswith("hexa_worker.") and isinstance(one, logging.Logger):
            one.disabled = False


def _handler() -> LineHandler | None:
    return next((one for one in _OWN.handlers if isinstance(one, LineHandler)), None)


def _honoured(**how: Any) -> None:
    """As `logging.basicConfig`, which does nothing where the root logger has a handler, for an application's first."""
    root = logging.getLogger()
    if any(how.get(name) is not None for name in _WHERE):
        root.handlers[:] = [one for one in root.handlers if not isinstance(one, LineHandler)]
    elif how.get("level") is not None:
        root.setLevel(how["level"])
    try:
        _basic_config(**how)
    finally:
        handler = _handler()
        if not root.handlers and handler is not None:  # it was called wrongly
            root.handlers[:] = [handler]
