"""Dead letters drawn for humans and encoded for machines."""

import base64
import string
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hexa_worker.cli.terminal import clean, console, iso, local, note, plural, short, write, write_json
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter
from hexa_worker.dead_letters.filters import AlikeGroup, count_into

if TYPE_CHECKING:
    from rich.console import Console

HEX_ROW = 16
_PRINTABLE = frozenset(string.printable.encode()) - frozenset(b"\t\n\r\x0b\x0c")


def brief(letter: StoredDeadLetter) -> dict[str, Any]:
    """What ``dlq list --json`` says of a letter."""
    return {
        "id": letter.id,
        "action": letter.action,
        "given_up_by": letter.given_up_by,
        "event_id": letter.event_id,
        "root_id": letter.root_id,
        "parent_id": letter.parent_id,
        "channel": letter.channel,
        "origin_id": letter.origin_id,
        "key": letter.key,
        "attempts": letter.attempts,
        "attempts_since_redrive": letter.attempts_since_redrive,
        "error": letter.error,
        "error_class": letter.error_class,
        "reason": letter.reason,
        "fingerprint": letter.fingerprint,
        "payload_size": len(letter.delivery.payload),
        "cut": None if letter.cut is None else msgspec.structs.asdict(letter.cut),
        "first_failed_at": iso(letter.first_failed_at_ms),
        "dead_at": iso(letter.dead_at_ms),
        "redriven_from": letter.redriven_from,
    }


def whole(letter: StoredDeadLetter, *, with_payload: bool) -> dict[str, Any]:
    """What ``dlq show --json`` says of it. A payload that is no JSON is given in base64, and as text if it is any."""
    found = brief(letter)
    found["error_message"] = letter.error_message
    found["refused"] = letter.refused or None
    found["failed_at"] = [iso(at_ms) for at_ms in letter.failed_at_ms]
    found["traceback"] = letter.traceback or None
    found["headers"] = {name: value.decode(errors="replace") for name, value in letter.user_headers}
    if with_payload:
        payload = letter.delivery.payload
        if (value := json_of(payload)) is not None:
            found["payload"] = value
        else:
            found["payload_base64"] = base64.b64encode(payload).decode()
    return found


def json_of(payload: bytes) -> msgspec.Raw | None:
    """`payload` as JSON to be passed on as it is, or None when it is none."""
    try:
        payload.decode()
        return msgspec.json.decode(payload, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


async def list_json(letters: AsyncIterator[StoredDeadLetter], limit: int | None) -> None:
    """Write one JSON array, an object a line; however many there are, few are in memory."""
    if limit is not None:
        newest: deque[StoredDeadLetter] = deque(maxlen=limit)
        async for letter in letters:
            newest.append(letter)
        write("[" + ",\n ".join(msgspec.json.encode(brief(letter)).decode() for letter in newest) + "]")
        return
    separator = "["
    async for letter in letters:
        sys.stdout.write(separator + msgspec.json.encode(brief(letter)).decode())
        separator = ",\n "
    write("]" if separator != "[" else "[]")


async def groups_json(letters: AsyncIterator[StoredDeadLetter]) -> None:
    """Write one JSON array of the groups of letters that look alike, the largest first."""
    groups: dict[tuple[str, str], AlikeGroup] = {}
    async for letter in letters:
        count_into(groups, letter)
    write_json(
        [
            {
                "action": group.action,
                "fingerprint": group.fingerprint,
                "reason": group.reason,
                "error": group.error,
                "count": group.count,
                "first_seen": iso(group.first_ms),
                "last_seen": iso(group.last_ms),
            }
            for group in _largest_first(groups)
        ]
    )


def _largest_first(groups: dict[tuple[str, str], AlikeGroup]) -> list[AlikeGroup]:
    return sorted(groups.values(), key=lambda group: -group.count)


async def list_human(letters: AsyncIterator[StoredDeadLetter], limit: int) -> None:
    """Draw the groups of letters that look alike, then the newest letters."""
    groups: dict[tuple[str, str], AlikeGroup] = {}
    newest: deque[StoredDeadLetter] = deque(maxlen=limit)
    async for letter in letters:
        count_into(groups, letter)
        newest.append(letter)
    total = sum(group.count for group in groups.values())
    if not total:
        note("no dead letters")
        return
    out = console()
    _draw_groups(out, _largest_first(groups))
    if newest:
        out.print()
        _draw_rows(out, newest)
    if 0 < len(newest) < total:
        note(f"{len(newest)} newest of {plural(total, 'dead letter')}; more with --limit")


class _Column(NamedTuple):
    name: str
    style: str = ""
    right: bool = False


_GROUPS = (
    _Column("count", "bold", right=True),
    _Column("action", "cyan"),
    _Column("reason"),
    _Column("error", "red"),
    _Column("first seen", "dim"),
    _Column("last seen"),
    _Column("fingerprint", "dim"),
)
_ROWS = (
    _Column("id", "bold"),
    _Column("died"),
    _Column("tries", right=True),
    _Column("root", "dim"),
    _Column("error", "red"),
)
_ELASTIC = "error"
_DROPPED_WHEN_NARROW = ("first seen", "root")
NARROW = 110
GAP = 3
SHORTEST = 12


def _draw_table(out: "Console", columns: tuple[_Column, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Draw a table in which only the error is ever cut: ids are there to be copied."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - lazy by design
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    kept = [at for at, one in enumerate(columns) if out.width >= NARROW or one.name not in _DROPPED_WHEN_NARROW]
    shown = [[clean(row[at]) for at in kept] for row in rows]
    names = [columns[at].name for at in kept]
    widths = [max(len(cell) for cell in column) for column in zip(names, *shown, strict=True)]
    elastic = names.index(_ELASTIC)
    room = max(out.width - sum(widths) - GAP * len(kept) + widths[elastic], SHORTEST)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for at in kept:
        name, style, right = columns[at]
        table.add_column(name, style=style, justify="right" if right else "left", no_wrap=True)
    for cells in shown:
        if len(cells[elastic]) > room:
            cells[elastic] = cells[elastic][: room - 1] + "…"
        table.add_row(*cells)
    out.print(table)


def _draw_groups(out: "Console", groups: list[AlikeGroup]) -> None:
    rows = [
        (
            f"{group.count:,}",
            group.action,
            group.reason,
            group.error,
            short(group.first_ms),
            short(group.last_ms),
            group.fingerprint,
        )
        for group in groups
    ]
    _draw_table(out, _GROUPS, rows)


def _draw_rows(out: "Console", letters: deque[StoredDeadLetter]) -> None:
    rows = [
        (letter.id, short(letter.dead_at_ms), str(letter.attempts), letter.root_id, _said(letter)) for letter in letters
    ]
    _draw_table(out, _ROWS, rows)


def _said(letter: StoredDeadLetter) -> str:
    """Its error, and before it, where nothing cuts it off, that it is not whole."""
    return letter.error if letter.cut is None else f"(cut) {letter.error}"


def show_human(letter: StoredDeadLetter, *, with_payload: bool) -> None:
    """Draw one letter, whole."""
    from rich.table import Table  # noqa: PLC0415 - lazy by design
    from rich.text import Text  # noqa: PLC0415 - lazy by design

    out = console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value, style in _facts(letter):
        if value is not None:
            table.add_row(name, Text(clean(value), style=style))
    for header, raw in letter.user_headers:
        table.add_row("header", Text(clean(f"{header}: {raw.decode(errors='replace')}")))
    out.print(table)
    if letter.traceback:
        out.print()
        out.print(Text(clean(letter.traceback.rstrip()), style="dim"))
    if with_payload:
        out.print()
        for line in payload_lines(letter.delivery.payload):
            write(line)


def _facts(letter: StoredDeadLetter) -> list[tuple[str, str | None, str]]:
    origin = letter.channel if letter.origin_id is None else f"{letter.channel} ({letter.origin_id})"
    return [
        ("dead letter", letter.id, "bold"),
        ("action", letter.action, "cyan"),
        ("given up by", None if letter.given_up_by == letter.action else letter.given_up_by, "cyan"),
        ("error", letter.error_class, "red"),
        ("", letter.error_message or None, "red"),
        ("reason", letter.reason, ""),
        ("attempts", _attempts(letter), ""),
        ("first failed", local(letter.first_failed_at_ms), ""),
        ("failed", ", ".join(local(at_ms) for at_ms in letter.failed_at_ms) or None, ""),
        ("died", local(letter.dead_at_ms), ""),
        ("origin", origin, ""),
        ("event id", letter.event_id, ""),
        ("root id", letter.root_id, ""),
        ("parent id", letter.parent_id, ""),
        ("redriven from", letter.redriven_from, ""),
        ("key", letter.key, ""),
        ("fingerprint", letter.fingerprint, ""),
        ("payload", _size(letter), ""),
        ("refused", letter.refused or None, ""),
    ]


def _size(letter: StoredDeadLetter) -> str:
    size, cut = plural(len(letter.delivery.payload), "byte"), letter.cut
    return size if cut is None else f"{size}, cut: the whole has {cut.size:,} and was {cut.id} in {cut.channel}"


def _attempts(letter: StoredDeadLetter) -> str:
    since = letter.attempts_since_redrive
    return str(letter.attempts) if since is None else f"{letter.attempts}, {since} of them since its last redrive"


def payload_lines(payload: bytes) -> Iterator[str]:
    """`payload` for reading: JSON indented, anything else as a hex dump that shows every byte."""
    raw = json_of(payload)
    if raw is not None:
        yield from msgspec.json.format(bytes(raw)).decode().splitlines()
        return
    for start in range(0, len(payload), HEX_ROW):
        row = payload[start : start + HEX_ROW]
        text = "".join(chr(byte) if byte in _PRINTABLE else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):<{HEX_ROW * 3 - 1}}  |{text}|"
