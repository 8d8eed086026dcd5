"""``hexa-worker outbox show``."""

from collections.abc import Sequence

import click

from hexa_worker.cli.outbox.opening import open_outbox
from hexa_worker.cli.project import config_option, json_option, only_config
from hexa_worker.cli.terminal import clean, console, iso, local, write, write_json
from hexa_worker.outbox.records import HeldRecord


@click.command("show", short_help="List events that the broker refuses.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many.")
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, limit: int, *, as_json: bool) -> None:
    """List the events that the broker refuses: those that are tried again, and those that are parked.

    \b
    Example:
      hexa-worker outbox show --json
    """
    with open_outbox(only_config(config_path, arguments)) as store:
        held = store.held(limit)
    if as_json:
        for one in held:
            write_json(_plain(one))
    elif held:
        _draw(held)
    else:
        write("the broker refuses nothing")


def _plain(held: HeldRecord) -> dict[str, object]:
    message = held.record.message
    return {
        "id": held.record.id,
        "event_id": held.record.event_id,
        "channel": message.channel,
        "key": None if message.key is None else message.key.decode(errors="backslashreplace"),
        "bytes": len(message.payload),
        "written": iso(message.timestamp_ms),
        "state": held.state,
        "attempts": held.attempts,
        "reason": held.reason,
    }


def _draw(held: Sequence[HeldRecord]) -> None:
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    table = Table(box=None, pad_edge=False)
    for name in ("id", "event", "channel", "key", "written", "state", "attempts", "reason"):
        table.add_column(name, overflow="fold")
    for one in held:
        plain = _plain(one)
        written = local(one.record.message.timestamp_ms)
        cells = [plain["id"], plain["event_id"], plain["channel"], plain["key"] or "", written]
        cells += [one.state, one.attempts, one.reason]
        table.add_row(*[clean(str(cell)) for cell in cells])
    console().print(table)
