"""What is written where: errors and notes to stderr, results to stdout, colours only on a terminal.

rich is imported when something is drawn for a human, never before.
"""

import contextlib
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from hexa_worker.core.scrubbing import scrub

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 240
"""Columns of a table that is not drawn on a terminal: wide enough to cut nothing."""
WIDEST = 1_000_000


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` from a record, made harmless: control characters (which a terminal would obey) are spelled out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def open_closed_streams() -> None:
    """Let a standard stream that is closed be /dev/null, for this process and for those it starts.

    Otherwise the next file or socket would become standard output, and Python would have none.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - positional-only
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def silence(stream: TextIO) -> None:
    """Point a stream that cannot be written at nothing, so that the interpreter's last flush is quiet."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def colours(stream: TextIO) -> bool:
    """Whether `stream` may get colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fail(text: str, code: int) -> int:
    """Write an error; returns `code`."""
    word = "\x1b[1;31merror:\x1b[0m" if colours(sys.stderr) else "error:"
    note(f"{word} {scrub(text)}")
    return code


def note(text: str) -> None:
    """Write something a human should know; it is no result, so it goes to stderr."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody can read it; the exit code says enough
        silence(sys.stderr)


def write(text: str) -> None:
    """Write a line of the result."""
    print(text)


def write_json(value: Any) -> None:
    """Write one JSON value on a line of its own; indented on a terminal, if it is not nested too deeply for that."""
    encoded = msgspec.json.encode(value)
    if sys.stdout.isatty():
        with suppress(RecursionError):
            encoded = msgspec.json.format(encoded)
    write(encoded.decode())


def console(*, stderr: bool = False, wide: bool = False) -> "Console":
    """Where human output is drawn; `wide`: nothing is cut, however long a line is."""
    from rich.console import Console  # noqa: PLC0415 - lazy by design

    stream = sys.stderr if stderr else sys.stdout
    width = WIDEST if wide else None if stream.isatty() else PIPED_WIDTH
    return Console(
        stderr=stderr,
        width=width,
        color_system="auto" if colours(stream) else None,
        highlight=False,
        emoji=False,
        markup=False,
    )


def iso(at_ms: int | None) -> str | None:
    """A time for machines: ISO 8601, UTC, milliseconds."""
    if at_ms is None:
        return None
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # a record from outside may claim any time
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at_ms: int | None) -> str:
    """A time for humans, in their own zone."""
    if at_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "-"


def short(at_ms: int) -> str:
    """A time for humans in a narrow column: of today the time, of another day the date too."""
    text = local(at_ms)
    day, _, clock = text.partition(" ")
    return clock if day == datetime.now().astimezone().strftime("%Y-%m-%d") else text.removesuffix(clock[-3:])


def plural(count: int, noun: str) -> str:
    """``1 event``, ``2,000 events``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
