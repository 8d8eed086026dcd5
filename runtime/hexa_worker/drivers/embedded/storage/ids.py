"""Sets of row ids in SQL. Mostly they follow one another, and then they are a range of the table."""

import sqlite3
from collections.abc import Sequence

import msgspec

_encode = msgspec.json.Encoder().encode


def is_dense(ids: Sequence[int]) -> bool:
    """Whether ascending `ids` leave nothing out."""
    return ids[-1] - ids[0] == len(ids) - 1


def by_ids(ids: Sequence[int]) -> tuple[str, tuple[int, int] | tuple[str]]:
    """A condition that finds the rows with one of `ids` (ascending, without repeats, not empty), and its values."""
    if is_dense(ids):
        return "id >= ? AND id <= ?", (ids[0], ids[-1])
    return "id IN (SELECT value FROM json_each(?))", (_encode(ids).decode(),)


def schedule(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Let delayed records, as far as they exist, be had by anybody once they are due."""
    where, values = by_ids(ids)
    connection.execute(
        f"INSERT OR IGNORE INTO schedule SELECT base, due_ms, id FROM delayed WHERE {where}",  # noqa: S608 - ours
        values,
    )
