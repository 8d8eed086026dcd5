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
    if not sys.stderr.isatty():
        yield lambda _read, _done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - lazy by design

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %" if size else ""),
        TextColumn(f"{{task.fields[done]:,}} {noun}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=size, done=0)
        yield lambda read, done: progress.update(task, completed=read, done=done)
