"""``hexa-worker ctl history``."""

import click
import msgspec

from hexa_worker.cli.ctl._common import connect
from hexa_worker.cli.project import config_option, json_option, only_config
from hexa_worker.cli.terminal import clean, write, write_json


@click.command("history", short_help="Show what was asked before.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Show the latest requests to the worker: what, by whom, when, and what became of it.

    \b
    Example:
      hexa-worker ctl history
    """
    from hexa_worker.processes.control.messages import AskHistory  # noqa: PLC0415 - lazy by design
    from hexa_worker.processes.control.state import HistoryEntry  # noqa: PLC0415 - as above

    with connect(only_config(config_path, arguments)) as client:
        (answer,) = client.ask(AskHistory())
    entries = msgspec.convert(getattr(answer, "data", ()), tuple[HistoryEntry, ...])
    if as_json:
        write_json(entries)
        return 0
    for one in entries:
        write(
            f"{one.number}  {one.at}  {clean(one.by)}: {clean(one.request)}  {one.state}  {clean(one.message)}".rstrip()
        )
    return 0
