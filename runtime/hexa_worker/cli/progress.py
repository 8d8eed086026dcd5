"""Progress bars on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hexa_worker.cli.terminal import console

Advance = Callable[[int, int], None]


@contextmanager
def reading(size: int | None, name: str, noun: str) -> Iterator[Advance]:
    """The progress of reading an input.

    Args:
        size: bytes of the input, where that is known.
        name: how the input is called.
        noun: what it is made of, as ``events``.

    Yields:
        What is told of bytes read and things done.
    """
    percent = ("{task.percentage:>3.0f} %",) if size else ()
    with _bar(name, size, *percent, f"{{task.fields[done]:,}} {noun}") as advance:
        yield advance


@contextmanager
def counting(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """The progress of doing something with each of `total` things. Yields what is told how many are done."""
    with _bar(verb, total, f"{{task.fields[done]}}/{total}") as advance:
        yield lambda done: advance(done, done)


@contextmanager
def _bar(name: str, total: int | None, *columns: str) -> Iterator[Advance]:
    if not sys.stderr.isatty():
        yield lambda _completed, _done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - lazy by design

    texts = [TextColumn(text) for text in columns]
    shown = (TextColumn("{task.description}"), BarColumn(), *texts, TimeRemainingColumn())
    with Progress(*shown, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total, done=0)
        yield lambda completed, done: progress.update(task, completed=completed, done=done)
