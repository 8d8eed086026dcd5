"""``hexa-worker ctl drain``."""

import click

from hexa_worker.cli.ctl._common import carry_out
from hexa_worker.cli.project import config_option, json_option, only_config


@click.command("drain", short_help="Let running handlers end, then stop.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, as_json: bool) -> int:
    """Let running handlers end and stop the worker, as SIGTERM does; waits until it has ended.

    \b
    Example:
      hexa-worker ctl drain
    """
    from hexa_worker.processes.control.messages import Drain  # noqa: PLC0415 - lazy by design

    return carry_out(only_config(config_path, arguments), Drain(), as_json=as_json, patience_s=None)
