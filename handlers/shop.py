"""What the handlers of the order flow share: the events, and the shop's books as a lifespan resource."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TextIO

import msgspec

from hexa_worker import lifespan

BOOKS = Path("var/books.jsonl")


class OrderCreated(msgspec.Struct):
    """Somebody ordered something."""

    id: int
    customer: str
    amount: float


class OrderChecked(msgspec.Struct):
    """An order may be charged."""

    id: int
    customer: str
    amount: float


class Books:
    """An append-only file of what happened; every line is one write, so several processes may share it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def note(self, *entries: Mapping[str, object]) -> None:
        """Append entries."""
        self._file.write("".join(json.dumps(entry) + "\n" for entry in entries))
        self._file.flush()


@lifespan
async def open_books() -> AsyncIterator[Books]:
    """One per process; `ctx.state` in every handler."""
    BOOKS.parent.mkdir(exist_ok=True)
    with BOOKS.open("a", encoding="utf-8") as file:  # noqa: ASYNC230 - once per process, before it handles anything
        yield Books(file)
