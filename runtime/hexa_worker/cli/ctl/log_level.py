"""``hexa-worker ctl log-level``."""

from typing import TYPE_CHECKING, cast

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, find_config, json_option

if TYPE_CHECKING:
    from hexa_worker.core.controls import LogLevel

LEVELS = ("debug", "info", "warning", "error")


@click.command("log-level", short_help="Log from another level on.")
@click.argument("arguments", nargs=-1, metavar=f"[WORKER.TOML] [{'|'.join(LEVELS)}]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Log from another level on, in all processes, until the worker ends.

    \b
    Example:
      hexa-worker ctl log-level debug
    """
    from hexa_worker.processes.control.messages import SetLogLevel  # noqa: PLC0415 - lazy by design

    path, rest = find_config(config_path, arguments)
    if len(rest) != 1 or rest[0] not in LEVELS:
        raise click.UsageError(f"name a level: {', '.join(LEVELS)}", click.get_current_context())
    return carry_out(path, SetLogLevel(level=cast("LogLevel", rest[0])), as_json=as_json)
