"""``hexa-worker channel peek``."""

import time
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hexa_worker.cli.dlq.options import Seconds
from hexa_worker.cli.project import config_option, find_config, json_option, run_async
from hexa_worker.cli.terminal import clean, iso, local, note, write, write_json

if TYPE_CHECKING:
    from hexa_worker.core.message import Delivery

PAGE = 500
MAX_SHOWN = 10_000
SHOWN_PAYLOAD = 2_000
"""Characters of a payload that are drawn; ``--json`` has all of it."""


@click.command("peek", short_help="Show the latest records of a channel, without consuming them.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] CHANNEL")
@click.option("--last", default=10, type=click.IntRange(1, MAX_SHOWN), help="So many records; default 10.")
@click.option("--since", type=Seconds(), default="1h", metavar="AGE", help="Not older than this; default 1h.")
@click.option("--payload", is_flag=True, help="Show payloads too.")
@config_option
@json_option
def command(  # noqa: PLR0913 - one per option
    arguments: tuple[str, ...], config_path: str | None, last: int, since: float, *, payload: bool, as_json: bool
) -> int:
    """Show the latest records of a channel, oldest first, whoever has read them. Nothing is consumed or changed.

    A broker may keep what is read for a while, for ever, or not at all.

    \b
    Example:
      hexa-worker channel peek orders.created
      hexa-worker channel peek orders.created --since 10m --last 50 --payload
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one channel", click.get_current_context())
    records = run_async(_latest, path, rest[0], last, since)
    for record in records:
        if as_json:
            write_json(_plain(record, payload=payload))
            continue
        key = "" if record.key is None else f"  key {clean(record.key.decode(errors='replace'))}"
        write(f"{local(record.timestamp_ms)}  {clean(record.message_id)}{key}  {len(record.payload):,} bytes")
        if payload:
            write(f"  {clean(record.payload.decode(errors='replace')[:SHOWN_PAYLOAD])}")
    if not records:
        note(f"nothing in {clean(rest[0])} since then, or there is no such channel")
    return 0


async def _latest(path: Path, channel: str, last: int, since_s: float) -> "list[Delivery]":
    """The `last` records, oldest first; a channel may have several sequences, each in its own order."""
    from hexa_worker.config.load import load_config  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.opening import make_driver, opened  # noqa: PLC0415 - lazy by design

    since_ms = int((time.time() - since_s) * 1000)
    latest: list[Delivery] = []
    async with opened(make_driver(load_config(path))) as driver:
        after = -1
        while page := await driver.browse(channel, after, PAGE, since_ms):
            after = page[-1].offset
            recent = [one for one in page if not one.timestamp_ms or one.timestamp_ms >= since_ms]
            latest = nlargest(last, [*latest, *recent], key=lambda one: (one.timestamp_ms, one.offset))
    return latest[::-1]


def _plain(record: "Delivery", *, payload: bool) -> dict[str, Any]:
    from hexa_worker.core.lineage import lineage_of  # noqa: PLC0415 - lazy by design

    lineage = lineage_of(record)
    plain: dict[str, Any] = {
        "message_id": record.message_id,
        "event_id": lineage.event_id,
        "root_id": lineage.root_id,
        "at": iso(record.timestamp_ms or None),
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "attempt": record.attempt,
        "size": len(record.payload),
    }
    return {**plain, "payload": record.payload.decode(errors="backslashreplace")} if payload else plain
